"""The Retire-Cluster API: typed tasks, placed on the node that fits them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from homed.api.routes import Call, Family
from homed.clock import now
from homed.errors import HomedError, ValidationError

T = TypeVar("T")
_CODES: Mapping[str, str] = {"JOB_NOT_FOUND": "TASK_NOT_FOUND"}


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """Every error of this family. Where fields are wrong, `error_details` name the first, and all under `errors`."""

    status: str
    message: str
    error_code: str
    error_details: dict[str, Any]
    timestamp: datetime
    request_id: str


class Pagination(msgspec.Struct, frozen=True, kw_only=True):
    page: int
    page_size: int
    total_items: int
    total_pages: int
    has_next: bool
    has_previous: bool


class Success(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Every other answer; `pagination` goes with lists."""

    status: str
    data: T
    pagination: Pagination | UnsetType = UNSET
    message: str | UnsetType = UNSET
    timestamp: datetime
    request_id: str


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler returns where there is more to say than the data."""

    data: Any
    message: str | UnsetType = UNSET
    pagination: Pagination | UnsetType = UNSET


def error(error: HomedError, request_id: str) -> Error:
    details = error.details
    if isinstance(error, ValidationError) and error.errors:
        details = {"field": error.errors[0].field, "reason": error.errors[0].message, **details}
    return Error(
        status="error",
        message="Task not found" if error.code in _CODES else error.message,
        error_code=_CODES.get(error.code, error.code),
        error_details=details,
        timestamp=now(),
        request_id=request_id,
    )


def envelope(value: object, call: Call) -> Success[Any]:
    reply = value if isinstance(value, Reply) else Reply(data=value)
    return Success(
        status="success",
        data=reply.data,
        pagination=reply.pagination,
        message=reply.message,
        timestamp=now(),
        request_id=call.id,
    )


FAMILY = Family(
    name="retire",
    title="Retire-Cluster",
    prefixes=(
        *(f"/api/v1/{name}" for name in ("cluster", "devices", "tasks", "command", "suggest")),
        "/api/v1/config/",
        "/text",
        "/stream",
        "/ws",
    ),
    error=error,
    error_type=Error,
    envelope=envelope,
)
