"""Errors of paths that nobody serves, in the shape of the family whose clients ask there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from homed.api import executor, homei, newremora, retire
from homed.api.routes import family_of
from tests.support.api import Answer, Api
from tests.support.homed import Homed

_SHAPES = {
    "homei": {"error", "timestamp", "request_id"},
    "retire": {"status", "message", "error_code", "error_details", "timestamp", "request_id"},
    "newremora": {"success", "data", "error", "code", "details", "request_id", "timestamp"},
    "executor": {"error", "statusCode"},
}
_PATHS = {
    "/api/v1/cluster/none": "retire", "/api/v1/devices": "retire", "/api/v1/devices/a/status": "retire",
    "/api/v1/tasks/a/b/c": "retire", "/api/v1/command": "retire", "/api/v1/suggest": "retire",
    "/api/v1/config/server": "retire", "/text/devices": "retire", "/stream/logs": "retire", "/ws/none": "retire",
    "/api/v1/jobs/a/none": "newremora", "/api/v1/servers/a/b/c": "newremora", "/api/v1/pem-files/none": "newremora",
    "/api/v1/system/enhanced/none": "newremora",
    "/api/workers": "executor", "/api/jobs/none": "executor", "/api/execute/none": "executor",
    "/api/v1/none": "homei", "/api/v1/tasksandmore": "homei", "/api/v1/system/none": "homei", "/none": "homei",
    "/textual": "homei",
}  # fmt: skip


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder: Path = tmp_path_factory.mktemp("homed")
    with Homed(folder, f"unix://{folder}/no-engine.sock") as homed:
        yield homed.api


@pytest.mark.parametrize(("path", "family"), [*_PATHS.items(), ("/api/v1/config", "homei"), ("", "homei")])
def test_a_path_belongs_to_the_family_with_the_longest_prefix(path: str, family: str) -> None:
    families = [homei.FAMILY, newremora.FAMILY, retire.FAMILY, executor.FAMILY]
    assert family_of(path, families).name == family


def test_unknown_paths_are_answered_in_the_shape_of_their_family(api: Api) -> None:
    for path, family in _PATHS.items():
        for method in ("GET", "POST"):
            shaped(api.call(method, path), 404, family)


def test_wrong_methods_bodies_and_types_are_answered_in_the_shape_of_their_family(api: Api) -> None:
    known = {
        "/api/v1/tasks": "retire", "/api/v1/jobs": "newremora", "/api/jobs/create": "executor",
        "/api/v1/services": "homei",
    }  # fmt: skip
    for path, family in known.items():
        shaped(api.call("PATCH", path), 405, family)
        shaped(api.post(path, data=b"a=b", headers={"Content-Type": "text/plain"}), 415, family)
        shaped(api.post(path, data=b"{", headers={"Content-Type": "application/json"}), 400, family)
        shaped(api.post(path, data=b" " * (1 << 21), headers={"Content-Type": "application/json"}), 413, family)


def test_the_aliases_of_health_answer_alike(api: Api) -> None:
    whole = api.get("/health")
    for path in ("/api/health", "/api/v1/health"):
        answer = api.get(path)
        assert answer.status == whole.status
        assert answer.json.keys() == whole.json.keys() >= {"status", "version", "components", "database", "queue"}


def test_more_than_a_page_may_have_is_clamped_and_said(api: Api) -> None:
    huge = 10**12
    assert api.get(f"/api/v1/jobs?limit={huge}").json["pagination"]["limit"] == 100
    assert api.get(f"/api/v1/tasks?page_size={huge}").json["pagination"]["page_size"] == 100
    assert api.get(f"/api/jobs/create?limit={huge}").json["limit"] == 10_000
    assert api.get(f"/api/v1/audit?limit={huge}").json["limit"] == 1000
    for path in (
        "/api/v1/jobs?limit=0",
        "/api/v1/tasks?page_size=-1",
        "/api/jobs/create?limit=x",
        "/api/v1/audit?limit=0",
    ):
        assert api.get(path).status == 400


def shaped(answer: Answer, status: int, family: str) -> None:
    assert answer.status == status, answer
    assert answer.json.keys() == _SHAPES[family], answer
