"""A `Front` with a tiny API family behind a real server on 127.0.0.1, its store in a file."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import msgspec
from aiohttp import web

from homed.access.keys import Keys
from homed.access.scopes import Scope
from homed.access.tokens import Tokens
from homed.api import homei, listeners
from homed.api.auth import Authenticator
from homed.api.front import Front
from homed.api.limits import Limiter
from homed.api.origin import Origin
from homed.api.routes import Call, Family, Route
from homed.config import Api, Config, Limits
from homed.errors import ConflictError
from homed.metrics import Metrics
from homed.store.sqlite import SqliteStore

FAMILY = Family("things", "Things", ("/",), homei.error, homei.Error)
INNER = "the password is hunter2"


class Thing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=20)]
    count: int = 1


class Query(msgspec.Struct, frozen=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=10)] = 5
    tag: tuple[str, ...] = ()


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Server:
    """What a test may look at and turn."""

    url: str
    session: aiohttp.ClientSession
    store: SqliteStore
    keys: Keys
    tokens: Tokens
    clock: Clock
    metrics: Metrics
    front: Front
    set_config: Callable[[Config], None]
    port: int
    started: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    done: list[str] = field(default_factory=list)

    def request(self, method: str, path: str, **more: Any) -> Any:
        return self.session.request(method, f"{self.url}{path}", **more)


def config(limits: Limits | None = None, **api: Any) -> Config:
    """A configuration without limits where none are given."""
    return Config(api=Api(limits=limits or Limits(enabled=False), **api))


def _routes(server: Callable[[], Server]) -> list[Route]:
    async def listed(call: Call) -> list[str]:
        return [call.query.limit, *call.query.tag]

    async def one(call: Call) -> dict[str, str]:
        return {"name": call.path["name"], "caller": call.principal.id}

    async def create(call: Call) -> Thing:
        return Thing(call.body.name, call.body.count)

    async def slow(call: Call) -> dict[str, str]:
        server().started.set()
        await server().go_on.wait()
        server().done.append(call.path["name"])
        return {"name": call.path["name"]}

    async def refuse(call: Call) -> None:
        raise ConflictError("there is one already", code="THING_EXISTS", details={"name": call.path["name"]})

    async def break_(call: Call) -> None:
        raise RuntimeError(INNER)

    async def opened(call: Call) -> dict[str, str]:
        return {"caller": call.principal.id}

    change: dict[str, Any] = {"scope": Scope.OPERATE}
    base = ("Things", "services")
    return [
        Route("GET", "/things", listed, "List", *base, response=list[str], query=Query),
        Route("GET", "/things/{name}", one, "Get", *base, response=dict[str, str]),
        Route("POST", "/things", create, "Create", *base, body=Thing, response=Thing, status=201,
              change="thing.create", **change),
        Route("POST", "/things/{name}/slow", slow, "Slow", *base, change="thing.slow", **change),
        Route("POST", "/things/{name}/refuse", refuse, "Refuse", *base, change="thing.refuse", **change),
        Route("POST", "/things/{name}/break", break_, "Break", *base, change="thing.break", **change),
        Route("DELETE", "/things/{name}", refuse, "Delete", *base, change="thing.delete", scope=Scope.ADMIN),
        Route("GET", "/socket", opened, "Socket", *base, socket=True, response=dict[str, str]),
        Route("GET", "/taken", opened, "Take", *base, acts=True, response=dict[str, str]),
        Route("GET", "/open.txt", opened, "Open", "Things", "health", scope=None, response=dict[str, str]),
    ]  # fmt: skip


@asynccontextmanager
async def serve(
    folder: Path,
    given: Config | None = None,
    *,
    trusted: bool = True,
    control: bool = False,
    routes: Callable[[Callable[[], Server]], list[Route]] = _routes,
) -> AsyncIterator[Server]:
    """A server that is trusted as a loopback listener is, or not; or as the command line's socket is.

    `routes` are told how to find it.
    """
    current = [given or config()]
    held: list[Server] = []
    store = SqliteStore(folder / "homed.db")
    await store.open()
    keys = Keys(store)
    tokens = Tokens(store, keys)
    await keys.load()
    await tokens.load()
    clock, metrics = Clock(), Metrics("0")

    def locate(request: web.Request) -> Origin:
        return Origin("unix", trusted=True, control=True) if control else Origin("127.0.0.1", trusted)

    front = Front(
        [(FAMILY, routes(lambda: held[0]))],
        config=lambda: current[0],
        authenticator=Authenticator(keys, tokens),
        limiter=Limiter(64, clock),
        audit=store,
        metrics=metrics,
        locate=locate,
        hostname="board.example",
    )

    def set_config(new: Config) -> None:
        current[0] = new
        front.configure(new)

    runner = listeners.runner_for(front.application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}"
            held.append(Server(url, session, store, keys, tokens, clock, metrics, front, set_config, port))
            yield held[0]
    finally:
        await runner.cleanup()
        with contextlib.suppress(Exception):
            await store.close()


async def raw(port: int, data: bytes) -> bytes:
    """What is answered to bytes as they are, until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
