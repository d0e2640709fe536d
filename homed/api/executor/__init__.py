"""The command executor's API: pull workers, the archives that they run, and the commands run here at once."""

import msgspec

from homed.api.routes import Family
from homed.errors import FieldError, HomedError, ValidationError

TAG, LIMIT = "Executor", "workers"
NOT_ASSIGNED = "Worker is not assigned to this job"
# In the words that clients compare.
_WORDS = {"JOB_NOT_FOUND": "Job not found", "WORKER_NOT_FOUND": "Worker not found", "JOB_NOT_YOURS": NOT_ASSIGNED}


class ExecutorError(msgspec.Struct, frozen=True, rename="camel"):
    """Every error of this family."""

    error: str
    status_code: int


def error(error: HomedError, request_id: str) -> ExecutorError:
    return ExecutorError(_WORDS.get(error.code, error.message), error.status)


def missing(*names: str) -> ValidationError:
    """`a, b, and c are required`."""
    verb = "is" if len(names) == 1 else "are"
    listed = " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])}, and {names[-1]}"
    return ValidationError([FieldError(name, "is required") for name in names], f"{listed} {verb} required")


FAMILY = Family(
    name="executor",
    title="Command executor",
    prefixes=("/api/workers", "/api/jobs", "/api/execute", "/uploads"),
    error=error,
    error_type=ExecutorError,
)
