"""Errors that end an operation: kept in its record, and raised again for whoever waits for it."""

import errno
from collections.abc import Mapping
from typing import Any

from homed import errors
from homed.backups.records import Failure, Operation
from homed.errors import (
    ArchiveError,
    BackupConflictError,
    BackupError,
    BackupSpaceError,
    ConfigError,
    ConflictError,
    EngineError,
    EngineUnavailableError,
    FieldError,
    HomedError,
    NotFoundError,
    RemoteError,
    StoreError,
    TooLargeError,
    ValidationError,
)

_KINDS: Mapping[str, type[HomedError]] = {
    **dict.fromkeys(
        (
            "BACKUP_BUSY", "BACKUP_CANCELLED", "BACKUP_EXISTS", "BACKUP_IN_USE", "BACKUP_LOCKED",
            "BACKUP_TARGET_BLOCKED",
            "NO_REPOSITORY", "OPERATION_ENDED",
        ),
        BackupConflictError,
    ),
    **dict.fromkeys(
        ("BACKUP_DAMAGED", "BACKUP_UNSAFE", "BACKUP_VERSION", "BACKUP_KEY_WRONG", "BACKUP_KEY_MISSING",
            "BACKUP_KEY_COSTLY", "BACKUP_FORMAT"), ArchiveError
    ),
    **dict.fromkeys(
        ("BACKUP_NOT_FOUND", "OPERATION_NOT_FOUND", "SCHEDULE_NOT_FOUND", "SERVICE_NOT_FOUND", "TARGET_NOT_FOUND"),
        NotFoundError,
    ),
    "BACKUP_NO_SPACE": BackupSpaceError,
    "BACKUP_REMOTE": RemoteError,
    "CONFIG_ERROR": ConfigError,
    "CONFLICT": ConflictError,
    "PAYLOAD_TOO_LARGE": TooLargeError,
    "STORE_ERROR": StoreError,
}  # fmt: skip
_UNAVAILABLE = "unavailable"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SQLITE_FULL = 13


def is_full(error: BaseException | None) -> bool:
    """Whether it, or what it comes from, is that a disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == _SQLITE_FULL:  # SQLite is the store's alone
            return True
        error = error.__cause__
    return False


def failure_of(error: HomedError) -> Failure:
    details = dict(error.details)
    if is_full(error):
        return Failure(BackupSpaceError.code, error.message, details)
    if isinstance(error, EngineUnavailableError):
        details[_UNAVAILABLE] = True
    return Failure(error.code, error.message, details, type(error).__name__)


def raised(failure: Failure) -> HomedError:
    """The error that a failure tells of, with the status that its code has."""
    code, message, details = failure.code, failure.message, dict(failure.details)
    if code == ValidationError.code:
        return ValidationError(_fields(details), message)
    if code == EngineError.code:
        away = details.pop(_UNAVAILABLE, False)
        return (EngineUnavailableError if away else EngineError)(message, details=details)
    return _class_of(failure)(message, code=code, details=details)


def _class_of(failure: Failure) -> type[HomedError]:
    """Return the exception class for a stored failure: by its code, by its original class, or BackupError."""
    known = _KINDS.get(failure.code)
    if known is not None:
        return known
    had = getattr(errors, failure.kind, None)
    if isinstance(had, type) and issubclass(had, HomedError) and not issubclass(had, ValidationError):
        return had
    return BackupError


def error_of(operation: Operation) -> HomedError:
    """The error that an operation ended with; `details.operation_id` says which."""
    failure = operation.failure or Failure("BACKUP_ERROR", f"the {operation.kind} is {operation.state}")
    error = raised(failure)
    error.details.update(operation_id=operation.id, name=operation.backup)
    return error


def _fields(details: Mapping[str, object]) -> list[FieldError]:
    given: Any = details.get("errors")
    if not isinstance(given, list | tuple):
        return []
    return [
        FieldError(str(one.get("field", "")), str(one.get("message", ""))) for one in given if isinstance(one, Mapping)
    ]
