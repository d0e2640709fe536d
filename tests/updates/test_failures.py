"""An error that ended an update is kept, and raised again as the same one."""

from collections.abc import Callable

import pytest

from homed.errors import (
    BundleError,
    DownloadError,
    HomedError,
    NoSpaceError,
    NotFoundError,
    RaucUnavailableError,
    StoreError,
    UpdateConflictError,
    UpdateError,
)
from homed.updates.failures import error_of, failure_of
from homed.updates.records import Failure, State
from tests.support.updating import update

ERRORS: list[Callable[[], HomedError]] = [
    *(
        lambda code=code: BundleError("no", code=code, details={"rauc": "its words"})
        for code in (
            "UPDATE_BUNDLE", "UPDATE_SIGNATURE", "UPDATE_INCOMPATIBLE", "UPDATE_TOO_LARGE", "UPDATE_OLDER",
            "UPDATE_CHECKSUM", "UPDATE_REFUSED",
        )
    ),
    lambda: NotFoundError("gone", code="BUNDLE_NOT_FOUND"),
    lambda: RaucUnavailableError("away"),
    lambda: UpdateConflictError("busy"),
    lambda: UpdateConflictError("it was cancelled", code="UPDATE_CANCELLED"),
    lambda: DownloadError("refused"),
    lambda: NoSpaceError("full"),
    lambda: UpdateError("broken"),
]  # fmt: skip


@pytest.mark.parametrize("make", ERRORS, ids=lambda make: str(make().code))
def test_an_error_is_raised_again_as_it_was(make: Callable[[], HomedError]) -> None:
    error = make()
    again = error_of(update(State.FAILED, failure=failure_of(error)))
    assert (type(again), again.code, again.status, again.message) == (
        type(error), error.code, error.status, error.message,
    )  # fmt: skip
    assert again.details == {"id": "1", **error.details}


def test_an_error_of_another_part_keeps_its_code() -> None:
    again = error_of(update(State.FAILED, failure=failure_of(StoreError("the disk is full"))))
    assert (again.code, again.status, again.message) == ("STORE_ERROR", 500, "the disk is full")


def test_a_failure_of_a_newer_homed_is_told() -> None:
    again = error_of(update(State.FAILED, failure=Failure("UPDATE_OF_THE_FUTURE", "no")))
    assert (type(again), again.code, again.status) == (UpdateError, "UPDATE_OF_THE_FUTURE", 500)


def test_an_end_without_words_is_told() -> None:
    assert error_of(update(State.CANCELLED)).message == "the update is cancelled"
