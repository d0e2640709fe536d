"""The Homei API: services, containers, the board, its configuration. Answers stand at the top level, bare."""

from datetime import datetime
from typing import Any

import msgspec

from homed.api.routes import Family
from homed.clock import now
from homed.errors import HomedError


class ErrorBody(msgspec.Struct, frozen=True):
    code: str
    message: str
    details: dict[str, Any]


class Error(msgspec.Struct, frozen=True):
    """Every error of this family."""

    error: ErrorBody
    timestamp: datetime
    request_id: str


def error(error: HomedError, request_id: str) -> Error:
    return Error(ErrorBody(error.code, error.message, error.details), now(), request_id)


FAMILY = Family(name="homei", title="Homei", prefixes=("/",), error=error, error_type=Error)
