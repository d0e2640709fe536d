"""The NewRemora API: commands and scripts, on this board (`server_id` is "local") and on hosts, its "servers"."""

from datetime import datetime
from functools import cache
from typing import Any

import msgspec

from homed.api.routes import Call, Family
from homed.clock import now
from homed.errors import HomedError

# This board itself: it is no host, and not listed among them.
LOCAL = "local"
_ENVELOPE = frozenset({"success", "data", "error"})
# As clients know them.
_WORDS = {"JOB_NOT_FOUND": "Job not found", "HOST_NOT_FOUND": "Server not found"}


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """Every error of this family: `code` is stable, `error` is for people."""

    success: bool
    data: None
    error: str
    code: str
    details: dict[str, Any]
    request_id: str
    timestamp: datetime


class NotCancellableError(HomedError):
    """The job has ended."""

    code = "JOB_ENDED"
    status = 400
    grpc = "FAILED_PRECONDITION"


def error(error: HomedError, request_id: str) -> Error:
    return Error(
        success=False,
        data=None,
        error=_WORDS.get(error.code, error.message),
        code=error.code,
        details=error.details,
        request_id=request_id,
        timestamp=now(),
    )


def envelope(value: object, call: Call) -> object:
    """An answer's fields stand at the top, and all of it under `data`. The `error` at the top is that of the request:
    a job's own is in `data`.
    """
    assert isinstance(value, msgspec.Struct)
    return {"success": True, "data": value, "error": None, "timestamp": now()} | {
        name: given
        for name in value.__struct_fields__
        if name not in _ENVELOPE and (given := getattr(value, name)) is not msgspec.UNSET
    }


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
