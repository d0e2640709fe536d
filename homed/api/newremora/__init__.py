"""The NewRemora API: commands and scripts, on this board (`server_id` is "local") and on hosts, its "servers"."""

from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from homed.api.routes import Call, Family
from homed.clock import now
from homed.errors import HomedError

# This board itself: it is no host, and not listed among them.
LOCAL = "local"
_ENVELOPE = frozenset({"success", "data", "error"})
T = TypeVar("T")
# As clients know them.
_WORDS = {"JOB_NOT_FOUND": "Job not found", "HOST_NOT_FOUND": "Server not found"}


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """The error response of this family: `code` is stable, `error` is for people. For a server that cannot be deleted
    (HOST_BUSY), `details` is a sentence and `jobs` lists some ids of its jobs.
    """

    success: bool
    data: None
    error: str
    code: str
    details: dict[str, Any] | str
    jobs: list[str] | msgspec.UnsetType = msgspec.UNSET
    request_id: str
    timestamp: datetime


class Failed(NamedTuple):
    """A complete response that reports a failure: `error` explains it."""

    answer: msgspec.Struct
    error: str


class NotCancellableError(HomedError):
    """The job has ended."""

    code = "JOB_ENDED"
    status = 400
    grpc = "FAILED_PRECONDITION"


def error(error: HomedError, request_id: str) -> Error:
    details: dict[str, Any] = error.details
    return Error(
        success=False,
        data=None,
        error=_WORDS.get(error.code, error.message),
        code=error.code,
        details=details.get("sentence", details),
        jobs=details["jobs"] if "sentence" in details else msgspec.UNSET,
        request_id=request_id,
        timestamp=now(),
    )


def aside(value: T) -> T:
    """Return the object encoded with a space before each colon, so that a shell client's search for `"id":"` skips it.

    For objects in a response that repeat other fields, or describe another resource.
    """
    return cast(T, msgspec.Raw(spaced(msgspec.json.encode(value))))


def spaced(data: bytes) -> bytes:
    """Return JSON with a space before each colon, so that no search for `"id":"…"` or `"port":[0-9]*` matches.

    Strings stay unchanged: a quote within one follows a backslash, and an opening quote follows no letter or digit.
    """
    parts = msgspec.json.format(data, indent=0).split(b'": ')
    return b"".join(part + (b'" : ' if part[-1:].isalnum() else b'": ') for part in parts[:-1]) + parts[-1]


def envelope(value: object, call: Call) -> msgspec.Raw:
    """Encode a response with its fields at the top level and again under `data`. The top-level `error` is the
    request's; a job's own is in `data`.

    Shell clients search the bytes for `"id":"…"` and similar patterns, and must find each value once: so `data` has
    spaces before its colons. Fields in both places are encoded once.
    """
    value, error = value if isinstance(value, Failed) else (value, None)
    assert isinstance(value, msgspec.Struct)
    fields = {name: given for name in value.__struct_fields__ if (given := getattr(value, name)) is not msgspec.UNSET}
    encoded = {name: msgspec.json.encode(given) for name, given in fields.items()}
    around: dict[str, Any] = {"success": error is None, "error": error}
    if "timestamp" not in fields:
        around["timestamp"] = now()
    top = [msgspec.json.encode(around)[1:-1]]
    top += [b'"%s":%s' % (name.encode(), text) for name, text in encoded.items() if name not in _ENVELOPE]
    # A string has no members, so it is not searched, however long it is.
    inner = ((name, text if text[:1] == b'"' else spaced(text)) for name, text in encoded.items())
    data = b", ".join(b'"%s" : %s' % (name.encode(), text) for name, text in inner)
    return msgspec.Raw(b'{%s,"data":{%s}}' % (b",".join(top), data))


@cache
def answer(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The type of what `envelope` makes of a value of `kind`."""
    fields = [
        (field.encode_name, field.type) if field.required else (field.encode_name, field.type, field.default)
        for field in msgspec.structs.fields(kind)
        if field.name not in _ENVELOPE | {"timestamp"}
    ]
    around: list[Any] = [("success", bool), ("data", kind), ("error", None), ("timestamp", datetime)]
    return msgspec.defstruct(f"{kind.__name__}Answer", [*around, *fields], kw_only=True, frozen=True)


FAMILY = Family(
    name="newremora",
    title="NewRemora",
    prefixes=("/api/v1/jobs", "/api/v1/servers", "/api/v1/pem-files", "/api/v1/system/enhanced"),
    error=error,
    error_type=Error,
    envelope=envelope,
)
