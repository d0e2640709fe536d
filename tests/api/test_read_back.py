"""A resource is read, changed and sent back whole: what no change may set is passed over as it was read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from homed.access.scopes import LOCAL
from homed.api.read_back import ReadBack
from homed.api.routes import Call
from homed.errors import ValidationError
from tests.support.api import Api
from tests.support.homed import Homed

SERVICES = "/api/v1/services"


class Change(msgspec.Struct):
    size: int | None = None


class Shown(msgspec.Struct):
    size: int = 1
    status: str = "new"
    times: tuple[int, ...] = ()


class Thing:
    def __init__(self) -> None:
        self.value = Shown()
        self.read_back = ReadBack(self.get, Change)

    async def get(self, call: Call) -> Shown:
        return self.value

    def call(self, id: str = "a") -> Call:
        return Call(make_mocked_request("GET", "/"), LOCAL, "", {"id": id})


async def test_what_was_shown_earlier_is_unchanged_for_its_reader() -> None:
    thing = Thing()
    await thing.read_back.get(thing.call())
    thing.value = Shown(2, "old", (1, 2))
    prune = await thing.read_back.pruner(thing.call())
    assert prune({"size": 3, "status": "new", "times": []}) == {"size": 3}
    assert prune({"size": 3, "status": "old", "times": [1, 2], "more": 1}) == {"size": 3, "more": 1}
    for wrong in ({"status": "else"}, {"times": [1]}, {"times": None}, {"status": "\ud800"}):
        with pytest.raises(ValidationError, match="is read-only"):
            prune(wrong)
    of_another = await thing.read_back.pruner(thing.call("b"))
    with pytest.raises(ValidationError, match="status"):
        of_another({"status": "new"})
    assert prune([1]) == [1]


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homed.api.read_back._MAX_REMEMBERED", 40)
    thing = Thing()
    for number in range(100):
        await thing.read_back.get(thing.call(str(number)))
    assert len(thing.read_back._shown) == 40


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder: Path = tmp_path_factory.mktemp("homed")
    with Homed(folder, f"unix://{folder}/no-engine.sock") as homed:
        yield homed.api


def test_a_service_is_read_changed_and_sent_back(api: Api) -> None:
    api.create("web", image="busybox:1", enabled=False, ports=["8080:80"], labels={"a": "b"}, memory="64m")
    read: dict[str, Any] = api.service("web")
    answer = api.put(f"{SERVICES}/web", {**read, "environment": {"A": "1"}})
    assert answer.status == 200, answer
    now = api.service("web")
    assert now["environment"] == {"A": "1"}
    assert now | {"environment": {}, "updated_at": ""} == read | {"environment": {}, "updated_at": ""}
    assert api.put(f"{SERVICES}/web", read).status == 200, "what it was is unchanged for who has read it"
    for name, value in (("status", "running"), ("name", "other"), ("created_at", "2020-01-01T00:00:00Z")):
        answer = api.put(f"{SERVICES}/web", {**read, name: value})
        assert answer.status == 400
        assert [one["field"] for one in answer.json["error"]["details"]["errors"]] == [name]
    assert api.put(f"{SERVICES}/web", {**read, "nonsense": 1}).status == 400
    assert api.put(f"{SERVICES}/none", read).status == 404


def test_the_configuration_and_a_host_are_read_and_sent_back(api: Api) -> None:
    assert api.put("/api/v1/config", api.get("/api/v1/config").json).status == 200
    host = {"name": "h", "hostname": "10.0.0.1", "user": "u", "auth_type": "password", "password": "p"}
    id = api.post("/api/v1/servers", host).json["id"]
    read = api.get(f"/api/v1/servers/{id}").json
    assert api.put(f"/api/v1/servers/{id}", {**read, "name": "other"}).json["name"] == "other"
    assert api.put(f"/api/v1/servers/{id}", read["data"]).json["name"] == "h"
