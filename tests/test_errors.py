"""Codes are what clients compare: each stands for one thing, and none changes unseen."""

import http
import re
from pathlib import Path

from homed import errors
from homed.errors import FieldError, HomedError, ValidationError

ROOT = Path(__file__).resolve().parent.parent / "homed"
_GRPC = {
    "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "FAILED_PRECONDITION", "UNAUTHENTICATED", "ABORTED",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DATA_LOSS",
}  # fmt: skip
# Set down: a client may compare any of them. One more is no trouble, one less or another status is.
_STABLE = {
    "INTERNAL_ERROR": 500, "VALIDATION_ERROR": 400, "CONFIG_ERROR": 400, "NOT_FOUND": 404, "METHOD_NOT_ALLOWED": 405,
    "CONFLICT": 409, "UNAUTHORIZED": 401, "FORBIDDEN": 403, "PAYLOAD_TOO_LARGE": 413, "UNSUPPORTED_MEDIA_TYPE": 415,
    "HOST_NOT_ALLOWED": 421, "RATE_LIMIT_EXCEEDED": 429, "TOO_BUSY": 503, "STORE_ERROR": 500, "BACKUP_ERROR": 500,
    "BACKUP_BUSY": 409, "BACKUP_DAMAGED": 422, "BACKUP_NO_SPACE": 507, "BACKUP_REMOTE": 502,
}  # fmt: skip
# Those that are given where an error is raised.
_GIVEN = {
    "SERVICE_NOT_FOUND", "SERVICE_EXISTS", "SERVICE_NEEDED", "SERVICE_DISABLED", "CONTAINER_NOT_FOUND",
    "CONTAINER_NOT_RUNNING", "DOCKER_ERROR", "NOT_ALLOWED", "CONFIG_NOT_SAVED", "KEY_REQUIRED", "KEY_NOT_FOUND",
    "CANNOT_LISTEN", "STATE_TOO_NEW", "ORIGIN_NOT_ALLOWED", "BACKUP_NOT_FOUND", "OPERATION_NOT_FOUND", "BACKUP_EXISTS",
    "BACKUP_CANCELLED", "BACKUP_UNSAFE", "BACKUP_VERSION", "BACKUP_KEY_WRONG", "BACKUP_KEY_MISSING", "BACKUP_IN_USE",
    "BACKUP_HOOK_FAILED", "BACKUP_NO_ARCHIVE", "NO_REPOSITORY", "TARGET_NOT_FOUND", "SCHEDULE_NOT_FOUND",
    "OPERATION_ENDED",
}  # fmt: skip


def leaves() -> list[type[HomedError]]:
    found = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, HomedError)]
    return [c for c in found if c.__module__ == errors.__name__]


def test_every_error_has_a_code_a_status_and_a_grpc_status() -> None:
    for kind in leaves():
        assert re.fullmatch(r"[A-Z][A-Z_]+", kind.code)
        assert http.HTTPStatus(kind.status) >= 400
        assert kind.grpc in _GRPC


def test_the_codes_and_their_statuses_are_stable() -> None:
    found = {kind.code: kind.status for kind in leaves() if kind.code != "DOCKER_ERROR"}
    assert found.items() >= _STABLE.items()


def test_a_code_stands_for_one_thing() -> None:
    """The engine's error and its absence share the code that Homei documents; they differ in status."""
    codes = [kind.code for kind in leaves() if kind.code != "DOCKER_ERROR"]
    assert len(codes) == len(set(codes))


def test_the_codes_that_are_given_where_an_error_is_raised_are_stable() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py"))
    found = set(re.findall(r'code="([A-Z_]+)"', text)) | set(re.findall(r'^    code = "([A-Z_]+)"', text, re.MULTILINE))
    assert found >= _GIVEN
    assert found >= _STABLE.keys() - {"INTERNAL_ERROR"}


def test_homeis_documented_codes_that_are_in_use_are_known() -> None:
    documented = {
        "VALIDATION_ERROR",
        "SERVICE_NOT_FOUND",
        "CONTAINER_NOT_FOUND",
        "DOCKER_ERROR",
        "BACKUP_ERROR",
        "CONFIG_ERROR",
        "INTERNAL_ERROR",
    }
    assert documented <= {kind.code for kind in leaves()} | _GIVEN


def test_an_errors_message_names_every_field() -> None:
    error = ValidationError([FieldError("a", "is wrong"), FieldError("", "is no object")])
    assert error.message == str(error) == "a: is wrong; is no object"
    assert error.details == {
        "errors": [{"field": "a", "message": "is wrong"}, {"field": "", "message": "is no object"}]
    }


def test_a_given_code_does_not_reach_other_errors() -> None:
    assert HomedError("x", code="OTHER").code == "OTHER"
    assert HomedError("y").code == "INTERNAL_ERROR"
    details = {"a": 1}
    error = HomedError("z", details=details)
    error.details["b"] = 2
    assert details == {"a": 1}


def test_every_code_is_told_of_in_the_documents() -> None:
    said = (ROOT.parent / "docs" / "errors.md").read_text(encoding="utf-8")
    used: set[str] = set()
    for path in ROOT.rglob("*.py"):
        used.update(re.findall(r"\bcode(?:: str)? ?= ?\"([A-Z_]+)\"", path.read_text(encoding="utf-8")))
    assert len(used) > 20
    assert sorted(code for code in used if f"`{code}`" not in said) == []
