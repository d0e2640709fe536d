"""An error that ended an operation is kept, and raised again as the same one."""

from datetime import UTC, datetime

import msgspec
import pytest

from homed.backups.failures import error_of, failure_of, raised
from homed.backups.records import Failure, Operation, OperationKind, State
from homed.errors import (
    ArchiveError,
    BackupConflictError,
    BackupError,
    BackupSpaceError,
    ConfigError,
    EngineError,
    EngineUnavailableError,
    FieldError,
    ForbiddenError,
    HomedError,
    NotFoundError,
    RemoteError,
    StateUnavailableError,
    StoreError,
    ValidationError,
)

ERRORS: list[HomedError] = [
    *(ArchiveError("no", code=f"BACKUP_{why}") for why in ("DAMAGED", "UNSAFE", "VERSION", "KEY_WRONG", "KEY_MISSING")),
    *(BackupConflictError("no", code=f"BACKUP_{why}") for why in ("BUSY", "EXISTS", "IN_USE")),
    BackupConflictError("none", code="NO_REPOSITORY"),
    *(NotFoundError("gone", code=f"{what}_NOT_FOUND") for what in ("BACKUP", "OPERATION", "TARGET", "SCHEDULE")),
    BackupSpaceError("full", details={"needed": 3, "free": 1}),
    RemoteError("refused"),
    BackupError("broken"),
    BackupError("it failed", code="BACKUP_HOOK_FAILED", details={"output": "no"}),
    EngineError("refused"),
    EngineUnavailableError("away"),
    StoreError("the disk is full"),
    ConfigError("it would listen where others reach it", code="KEY_REQUIRED"),
    StateUnavailableError("the state cannot be written", code="STATE_READ_ONLY"),
    ForbiddenError("not allowed", code="SERVICE_NOT_ALLOWED"),
]


def ended(failure: Failure | None, state: State = State.FAILED) -> Operation:
    at = datetime(2024, 1, 15, tzinfo=UTC)
    return Operation(id="1", kind=OperationKind.RESTORE, backup="a", started_at=at, state=state, failure=failure)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error.code))
def test_an_error_is_raised_again_as_it_was(error: HomedError) -> None:
    kept = msgspec.json.decode(msgspec.json.encode(failure_of(error)), type=Failure)
    again = raised(kept)
    assert (type(again), again.code, again.status, again.message) == (
        type(error), error.code, error.status, error.message,
    )  # fmt: skip
    assert again.details == error.details


def test_wrong_fields_are_named_again() -> None:
    error = ValidationError([FieldError("volumes[0]", "the backup holds no volume 'x'")])
    again = raised(msgspec.json.decode(msgspec.json.encode(failure_of(error)), type=Failure))
    assert isinstance(again, ValidationError)
    assert (again.errors, again.message, again.details) == (error.errors, error.message, error.details)


@pytest.mark.parametrize("details", [{}, {"errors": "all"}, {"errors": [1, None]}])
def test_a_validation_error_without_fields_is_one_nevertheless(details: dict[str, object]) -> None:
    again = raised(Failure("VALIDATION_ERROR", "no", details))
    assert (again.status, again.message, again.details) == (400, "no", {"errors": []})


def test_the_error_of_an_operation_says_which() -> None:
    error = error_of(ended(Failure("BACKUP_DAMAGED", "cut short", {"member": "x"})))
    assert error.details == {"member": "x", "operation_id": "1", "name": "a"}
    assert isinstance(error_of(ended(None, State.CANCELLED)), BackupError)
    assert error_of(ended(None, State.CANCELLED)).message == "the restore is cancelled"


def test_a_cancelled_operation_is_a_conflict() -> None:
    assert error_of(ended(Failure("BACKUP_CANCELLED", "it was cancelled"), State.CANCELLED)).status == 409


def test_a_failure_of_a_newer_homed_is_told() -> None:
    again = raised(Failure("BACKUP_OF_THE_FUTURE", "no"))
    assert (type(again), again.code, again.status) == (BackupError, "BACKUP_OF_THE_FUTURE", 500)
