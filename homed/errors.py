"""Every error that homed raises on purpose: a stable code, an HTTP status and a gRPC status each.

The API layer turns them into the shape that a family documents; nothing else decides on a status.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple


class HomedError(Exception):
    """The base class. `code` is stable for clients; `message` is for people. `retry_after` is the number of seconds
    after which a retry makes sense; 0: unknown.
    """

    code: str = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    retry_after: ClassVar[int] = 0
    grpc: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, code: str | None = None, details: Mapping[str, object] | None = None):
        super().__init__(message)
        self.message = message
        self.details: dict[str, object] = dict(details or {})
        if code is not None:
            self.code = code


class FieldError(NamedTuple):
    """One wrong field: where it stands (`ports[0]`) and what is wrong with it."""

    field: str
    message: str


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


class ValidationError(HomedError):
    """The request cannot be meant: `details.errors` names every wrong field."""

    code = "VALIDATION_ERROR"
    status = 400
    grpc = "INVALID_ARGUMENT"

    def __init__(self, errors: Sequence[FieldError], message: str | None = None):
        # What was sent is named in both: an answer must not grow with it.
        self.errors = tuple(FieldError(_short(e.field, 256), _short(e.message, 1024)) for e in errors)
        said = message or "; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in self.errors)
        super().__init__(said, details={"errors": [{"field": e.field, "message": e.message} for e in self.errors]})


class InactiveHostError(ValidationError):
    """Jobs are not sent to a host that is not active."""

    code = "HOST_INACTIVE"


class ConfigError(HomedError):
    """The configuration, or a change to it, cannot be taken."""

    code = "CONFIG_ERROR"
    status = 400
    grpc = "INVALID_ARGUMENT"


class HttpsRequiredError(HomedError):
    """A plain HTTP request arrived at a TLS port."""

    code = "HTTPS_REQUIRED"
    status = 400
    grpc = "INVALID_ARGUMENT"


class NotFoundError(HomedError):
    code = "NOT_FOUND"
    status = 404
    grpc = "NOT_FOUND"


class MethodNotAllowedError(HomedError):
    code = "METHOD_NOT_ALLOWED"
    status = 405
    grpc = "UNIMPLEMENTED"


class RequestTimeoutError(HomedError):
    """A request was not complete in time."""

    code = "REQUEST_TIMEOUT"
    status = 408
    grpc = "ABORTED"


class ConflictError(HomedError):
    code = "CONFLICT"
    status = 409
    grpc = "FAILED_PRECONDITION"


class UnauthorizedError(HomedError):
    code = "UNAUTHORIZED"
    status = 401
    grpc = "UNAUTHENTICATED"


class ForbiddenError(HomedError):
    code = "FORBIDDEN"
    status = 403
    grpc = "PERMISSION_DENIED"


class TooLargeError(HomedError):
    code = "PAYLOAD_TOO_LARGE"
    status = 413
    grpc = "RESOURCE_EXHAUSTED"


class MediaTypeError(HomedError):
    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415
    grpc = "INVALID_ARGUMENT"


class UrlTooLongError(HomedError):
    code = "URL_TOO_LONG"
    status = 414
    grpc = "INVALID_ARGUMENT"


class HeadTooLargeError(HomedError):
    """The request's headers are too many, or too long."""

    code = "HEADERS_TOO_LARGE"
    status = 431
    grpc = "RESOURCE_EXHAUSTED"


class MalformedRequestError(HomedError):
    """The bytes are not an HTTP request."""

    code = "MALFORMED_REQUEST"
    status = 400
    grpc = "INVALID_ARGUMENT"


class MisdirectedError(HomedError):
    """The Host header names a machine that this is not: a page elsewhere may be rebinding its name to us."""

    code = "HOST_NOT_ALLOWED"
    status = 421
    grpc = "PERMISSION_DENIED"


class RateLimitError(HomedError):
    code = "RATE_LIMIT_EXCEEDED"
    status = 429
    grpc = "RESOURCE_EXHAUSTED"


class EngineError(HomedError):
    """Docker Engine refused or failed an operation."""

    code = "DOCKER_ERROR"
    status = 500
    grpc = "INTERNAL"


class EngineUnavailableError(EngineError):
    """Docker Engine cannot be reached now."""

    status = 503
    grpc = "UNAVAILABLE"


class BusyError(HomedError):
    """A bound was reached (followers, sockets): later it may work."""

    code = "TOO_BUSY"
    status = 503
    grpc = "UNAVAILABLE"
    retry_after = 1


class StoreError(HomedError):
    """The state cannot be read or written."""

    code = "STORE_ERROR"
    status = 500
    grpc = "INTERNAL"


class StateUnavailableError(StoreError):
    """The state is missing, damaged or read-only: changes are refused until it is repaired."""

    code = "STATE_UNAVAILABLE"
    status = 503
    grpc = "UNAVAILABLE"
    retry_after = 10


class BusUnavailableError(HomedError):
    """The system bus cannot be reached now."""

    code = "BUS_UNAVAILABLE"
    status = 503
    grpc = "UNAVAILABLE"


class UpdateError(HomedError):
    """An update failed, or cannot be done: `details.rauc` holds RAUC's own words, where it said any."""

    code = "UPDATE_ERROR"
    status = 500
    grpc = "INTERNAL"


class UpdateConflictError(UpdateError):
    """Not now, or not in the state in which the update is."""

    code = "UPDATE_BUSY"
    status = 409
    grpc = "FAILED_PRECONDITION"


class BundleError(UpdateError):
    """The bundle is not one that this board takes."""

    code = "UPDATE_BUNDLE"
    status = 422
    grpc = "INVALID_ARGUMENT"


class DownloadError(UpdateError):
    """The bundle could not be fetched."""

    code = "UPDATE_DOWNLOAD"
    status = 502
    grpc = "UNAVAILABLE"


class NoSpaceError(UpdateError):
    code = "UPDATE_NO_SPACE"
    status = 507
    grpc = "RESOURCE_EXHAUSTED"


class RaucUnavailableError(UpdateError):
    """RAUC's service is not on the bus, or does not answer."""

    code = "RAUC_UNAVAILABLE"
    status = 503
    grpc = "UNAVAILABLE"


class BackupError(HomedError):
    """A backup, or what was to be done with one, failed. The board is as it was."""

    code = "BACKUP_ERROR"
    status = 500
    grpc = "INTERNAL"


class BackupConflictError(BackupError):
    """Not now: another operation runs, or what the backup needs is in use."""

    code = "BACKUP_BUSY"
    status = 409
    grpc = "FAILED_PRECONDITION"


class ArchiveError(BackupError):
    """The archive or snapshot cannot be taken: it is damaged, unsafe, of a newer homed, or sealed for others."""

    code = "BACKUP_DAMAGED"
    status = 422
    grpc = "DATA_LOSS"


class BackupSpaceError(BackupError):
    code = "BACKUP_NO_SPACE"
    status = 507
    grpc = "RESOURCE_EXHAUSTED"


class RemoteError(BackupError):
    """A target, or the repository of incremental backups, cannot be reached or refuses."""

    code = "BACKUP_REMOTE"
    status = 502
    grpc = "UNAVAILABLE"


class JobError(HomedError):
    """A job, or what was to be done with one, failed."""

    code = "JOB_ERROR"
    status = 500
    grpc = "INTERNAL"


class JobConflictError(JobError):
    """Not in the state in which the job is."""

    code = "JOB_CONFLICT"
    status = 409
    grpc = "FAILED_PRECONDITION"


class JobLimitError(JobError):
    """More is waiting, or kept, than this board takes: later it may work."""

    code = "QUEUE_FULL"
    status = 503
    retry_after = 10
    grpc = "RESOURCE_EXHAUSTED"


class JobSpaceError(JobLimitError):
    """The unfinished jobs have reached their size limit in the store."""

    code = "QUEUE_SPACE"
    status = 507


class HostError(HomedError):
    """A host cannot be reached over SSH, or does not let homed in."""

    code = "HOST_UNREACHABLE"
    status = 502
    grpc = "UNAVAILABLE"


class SecretError(HomedError):
    """A secret cannot be opened, or none can be kept: the key is another one, or cannot be read."""

    code = "SECRET_UNREADABLE"
    status = 500
    grpc = "FAILED_PRECONDITION"
