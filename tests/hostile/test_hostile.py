"""Hostile requests to a real homed in 256 MiB: none costs more than it may, and health is answered meanwhile.

Asserted are the CPU time of each callback on the event loop, and the memory above idle. How late health is answered is
printed beside its target.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import hostile_requests
from tests.support.hostile_requests import ATTACKS, Attack
from tests.support.hostile_world import MEMORY_LIMIT, Cost, MeasuredHomed, World, memory_cgroup, sources
from tests.support.job_api import JOBS, ended

_MAX_CALLBACK_SECONDS = 0.25
_MAX_MEMORY = 64 << 20
_TARGET_LAG = 0.25
_TABLES: dict[str, dict[str, Any]] = {"log": {"level": "info"}}


@pytest.fixture(scope="module")
def homed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeasuredHomed]:
    with (
        memory_cgroup() as cgroup,
        MeasuredHomed(tmp_path_factory.mktemp("hostile"), cgroup, _TABLES) as made,
    ):
        print(f"bounded to {MEMORY_LIMIT >> 20} MiB: {'by a control group' if cgroup else 'no, only watched'}")
        yield made
        assert made.runs


@pytest.fixture(scope="module")
def world(homed: MeasuredHomed) -> World:
    homed.api.get("/openapi.json")
    return World(homed)


def check(name: str, cost: Cost, statuses: list[int]) -> None:
    print(
        f"| {name} | {cost.cpu * 1000:.0f} ms | {cost.memory / (1 << 20):.0f} MiB "
        f"| {cost.lag_p99 * 1000:.0f} ms (target {_TARGET_LAG * 1000:.0f}) | {sorted(set(statuses))} |"
    )
    assert cost.cpu <= _MAX_CALLBACK_SECONDS, cost.callback
    assert cost.memory <= _MAX_MEMORY
    assert cost.lags


async def _attack(world: World, attack: Attack) -> None:
    async with world.measured() as cost:
        statuses = await attack.run(world)
    check(attack.name, cost, statuses)
    assert set(statuses) <= attack.allowed
    assert (await _health(world)) == 200


async def _health(world: World) -> int:
    return await world.send(hostile_requests.request(b"GET", b"/health/live"), "127.0.8.8")


@pytest.mark.parametrize("attack", [one for one in ATTACKS if not one.thorough], ids=lambda one: one.name)
async def test_a_hostile_request_costs_little(world: World, attack: Attack) -> None:
    await _attack(world, attack)


@pytest.mark.thorough
@pytest.mark.parametrize("attack", [one for one in ATTACKS if one.thorough], ids=lambda one: one.name)
async def test_any_other_hostile_request_costs_little(world: World, attack: Attack) -> None:
    await _attack(world, attack)


@pytest.mark.thorough
async def test_readers_that_do_not_read_a_long_log_hold_little_of_it(world: World, homed: MeasuredHomed) -> None:
    """A job's 15 MB of output, a third of which JSON shows six times as long, asked for by 60 that read nothing."""
    script = "head -c 10000000 /dev/zero | tr '\\0' x; head -c 5000000 /dev/zero | tr '\\0' '\\1'"
    made = await asyncio.to_thread(
        homed.api.post, f"{JOBS}/script", {"script": script, "server_id": "local", "timeout": 60}
    )
    job = await asyncio.to_thread(ended, homed.api, made.json["id"])
    for path in (f"{JOBS}/{job['id']}/logs", f"{JOBS}/{job['id']}", f"{JOBS}/{job['id']}/stdout"):
        async with world.measured() as cost:
            held = await world.hold(hostile_requests.request(b"GET", path.encode()), sources(60, each=15), 2.0)
        check(f"60 that do not read {path.rpartition('/')[2]}", cost, held)


@pytest.mark.thorough
@pytest.mark.timeout(600)
async def test_every_route_that_takes_a_body_withstands_every_body(world: World, homed: MeasuredHomed) -> None:
    """The routes come from the API's own description: a new one is attacked as soon as it is there."""
    description = homed.api.get("/openapi.json").json
    async with world.measured() as cost:
        statuses = await hostile_requests.every_route(world, description)
    check(f"{len(statuses)} bodies to every route", cost, statuses)
    assert max(statuses) < 500 or set(statuses) & set(range(500, 600)) == {503}, Path(homed.folder / "homed.log")
