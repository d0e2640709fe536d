"""Errors that ended an update: kept in its record, and raised again for whoever asked for it."""

from collections.abc import Mapping

from homed.errors import (
    BundleError,
    DownloadError,
    HomedError,
    NoSpaceError,
    NotFoundError,
    RaucUnavailableError,
    UpdateConflictError,
    UpdateError,
)
from homed.updates.records import Failure, Update

_KINDS: Mapping[str, type[HomedError]] = {
    **dict.fromkeys(
        (
            "UPDATE_BUNDLE", "UPDATE_SIGNATURE", "UPDATE_INCOMPATIBLE", "UPDATE_TOO_LARGE", "UPDATE_OLDER",
            "UPDATE_CHECKSUM", "UPDATE_REFUSED",
        ),
        BundleError,
    ),
    "BUNDLE_NOT_FOUND": NotFoundError,
    "RAUC_UNAVAILABLE": RaucUnavailableError,
    "UPDATE_BUSY": UpdateConflictError,
    "UPDATE_CANCELLED": UpdateConflictError,
    "UPDATE_DOWNLOAD": DownloadError,
    "UPDATE_NO_SPACE": NoSpaceError,
}  # fmt: skip


def failure_of(error: HomedError) -> Failure:
    said = error.details.get("rauc")
    return Failure(error.code, error.message, str(said) if said else None)


def error_of(update: Update) -> HomedError:
    """The error that an update ended with; `details.id` says which update."""
    failure = update.failure or Failure("UPDATE_ERROR", f"the update is {update.state}")
    details = {"id": update.id, "rauc": failure.rauc} if failure.rauc else {"id": update.id}
    return _KINDS.get(failure.code, UpdateError)(failure.message, code=failure.code, details=details)
