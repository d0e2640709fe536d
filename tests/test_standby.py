"""What a lost, damaged or read-only state refuses, and what ends it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from homed.errors import StateUnavailableError
from homed.health import Level
from homed.standby import Standby
from homed.store import damage
from homed.store.sqlite import SqliteStore
from homed.store.standing import Standing


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "homed.db")
    await made.open()
    yield made
    await made.close()


async def reload() -> None:
    raise AssertionError("nothing has come back")


def refusals(standby: Standby) -> set[str]:
    """The acts that are refused, of some of each kind."""
    acts = ["backup.restore", "backup.upload", "token.issue", "service.create", "config.update", "backup.create", None]
    found = set()
    for act in acts:
        try:
            standby.check("POST", act)
        except StateUnavailableError:
            found.add(str(act))
    standby.check("GET", None)
    standby.check("GET", "backup.download")
    return found


async def test_a_whole_state_refuses_nothing(store: SqliteStore) -> None:
    standby = Standby(store, reload)
    assert refusals(standby) == set()
    assert standby.health().status is Level.HEALTHY and standby.missing() == ""
    assert not standby.has_lost_keys()


@pytest.mark.parametrize(
    ("standing", "code", "level", "restores"),
    [
        (Standing.MISSING, "STATE_MISSING", Level.UNHEALTHY, True),
        (Standing.DAMAGED, "STATE_DAMAGED", Level.UNHEALTHY, True),
        (Standing.READ_ONLY, "STATE_READ_ONLY", Level.DEGRADED, False),
        (Standing.UNREADABLE, "STATE_UNAVAILABLE", Level.UNHEALTHY, False),
    ],
)
async def test_another_one_refuses_changes_with_its_code(
    store: SqliteStore, standing: Standing, code: str, level: Level, restores: bool
) -> None:
    store.standing, store.message = standing, "why it is so"
    standby = Standby(store, reload)
    refused = {"service.create", "config.update", "backup.create", "None"}
    assert refusals(standby) == (refused if restores else refused | {"backup.restore", "backup.upload"})
    with pytest.raises(StateUnavailableError, match="why it is so") as raised:
        standby.check("DELETE", "service.delete")
    assert (raised.value.code, raised.value.status) == (code, 503)
    health = standby.health()
    assert health.status is level and health.message is not None and "why it is so" in health.message
    assert standby.missing() == "why it is so" and standby.has_lost_keys()
    gauges = {name: dict(samples) for name, _, _, samples in standby.gauges()}
    assert gauges["homed_state_standing"][(str(standing),)] == 1.0


async def test_damaged_records_are_told_of_by_kind_and_key(store: SqliteStore) -> None:
    standby = Standby(store, reload)
    await store.put("services", "web", b"\x00{", 0)
    await store.put("keys", "1", b"[", 0)
    record = await store.get("services", "web")
    assert record is not None
    await damage.set_aside(store, "services", record, ValueError("no JSON"))
    await standby.look_for_damage()
    health = standby.damage()
    assert health.status is Level.DEGRADED and not health.needed
    assert health.message is not None and "services/web" in health.message
    assert not standby.has_lost_keys()
    assert await damage.read_all(store, "keys", lambda record: int(record.value)) == []
    await standby.look_for_damage()
    assert standby.has_lost_keys()
    gauges = {name: dict(samples) for name, _, _, samples in standby.gauges()}
    assert gauges["homed_records_damaged"] == {("keys",): 1.0, ("services",): 1.0}
    kept = await store.get(damage.BUCKET, "services/web")
    assert kept is not None and kept.value == b"\x00{", "its bytes are kept"
    assert await store.get("services", "web") is None
