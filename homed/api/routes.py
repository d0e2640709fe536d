"""What a route declares: from it come decoding, auth, limits, metrics, the audit log and the OpenAPI document."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from aiohttp import web

from homed.access.scopes import Principal, Scope
from homed.errors import HomedError

# Set on a request whose answer goes on: its time is not that of an answer.
STREAMED = web.RequestKey("homed.streamed", bool)
# The headers that go with a request's answer, also where it is an error.
HEADERS = web.RequestKey("homed.headers", dict[str, str])


@dataclass(frozen=True, slots=True)
class Call:
    """One request, decoded: `body` and `query` are of the types that the route declares.

    `control`: it came over the socket in the state directory, so from root on this board.
    """

    request: web.Request
    principal: Principal
    id: str
    path: Mapping[str, str]
    query: Any = None
    body: Any = None
    control: bool = False


Handler = Callable[[Call], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path. A handler returns a value of `response`, or an aiohttp response that it made itself.

    `scope` None is open to everybody. `limit` names a class of `config.Limits`, counted by the minute; `hourly` and
    `burst` may name others: by the hour, and at once (within a second). `change` names the action for the audit log;
    such a handler completes even if the client disconnects. `acts`: a GET that changes something, too often for the
    audit log. An `optional` `body` may be omitted: its defaults apply then. `uploads` are the media types of a body
    that the handler reads itself, `form` the fields of a form. `streams` are the media types of responses other than
    JSON; `socket` makes it a WebSocket. `headers` are the request headers that the handler reads. `prune` returns, for
    a request, the function that removes read-only fields from its JSON (`read_back`).
    """

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    limit: str
    hourly: str | None = None
    burst: str | None = None
    scope: Scope | None = Scope.READ
    response: Any = None
    status: int = 200
    body: type[msgspec.Struct] | None = None
    optional: bool = False
    uploads: Sequence[str] = ()
    form: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    errors: Sequence[int] = ()
    statuses: Sequence[int] = ()
    change: str | None = None
    acts: bool = False
    streams: Sequence[str] = ()
    socket: bool = False
    documented: bool = True
    prune: "Callable[[Call], Awaitable[Callable[[object], object]]] | None" = None
    family: "Family | None" = None

    @property
    def changes(self) -> bool:
        """True if a request changes something, so that pages of other sites may not send it."""
        return self.change is not None or self.acts or self.method not in ("GET", "HEAD", "OPTIONS", "*")


class ErrorShape(Protocol):
    """How a family shows an error."""

    def __call__(self, error: HomedError, request_id: str) -> object: ...


@dataclass(frozen=True, slots=True)
class Family:
    """An API family: its success envelope, its error format and its routes. `prefixes` assign unknown paths to it; one
    that ends with a slash matches only paths below it.
    """

    name: str
    title: str
    prefixes: Sequence[str]
    error: ErrorShape
    error_type: type[msgspec.Struct]
    envelope: Callable[[object, Call], object] = field(default=lambda value, call: value)


def family_of(path: str, families: Sequence[Family]) -> Family:
    """Return the family whose error format applies to this path: the one with the longest matching prefix."""
    fits = [(len(prefix), family) for family in families for prefix in family.prefixes if _is_below(path, prefix)]
    return max(fits, key=lambda fit: fit[0])[1] if fits else families[0]


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix if prefix.endswith("/") else f"{prefix}/")
