"""What a container uses, from either generation of cgroups."""

from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.clock import now
from homed.containers.engine import Engine
from homed.containers.model import Container, State
from homed.containers.stats import Sample, Stats, parse, usage
from homed.containers.view import View
from homed.errors import ConflictError, EngineError

V2: dict[str, Any] = {
    "cpu_stats": {"cpu_usage": {"total_usage": 5_000_000_000}, "online_cpus": 4},
    "memory_stats": {"usage": 100_000, "limit": 1_000_000, "stats": {"inactive_file": 30_000, "anon": 1}},
    "blkio_stats": {
        "io_service_bytes_recursive": [
            {"major": 8, "minor": 0, "op": "read", "value": 10}, {"major": 8, "minor": 0, "op": "write", "value": 20},
            {"major": 8, "minor": 1, "op": "read", "value": 1},
        ]
    },
    "networks": {"eth0": {"rx_bytes": 1, "tx_bytes": 2}, "eth1": {"rx_bytes": 10, "tx_bytes": 20}},
    "pids_stats": {"current": 7},
}  # fmt: skip
V1: dict[str, Any] = {
    **V2,
    "memory_stats": {
        "usage": 100_000, "limit": 1_000_000, "stats": {"total_inactive_file": 40_000, "inactive_file": 1},
    },
    "blkio_stats": {
        "io_service_bytes_recursive": [
            {"op": "Read", "value": 10}, {"op": "Write", "value": 20}, {"op": "Total", "value": 30},
        ]
    },
}  # fmt: skip


def test_cgroup_v2_is_read() -> None:
    assert parse(V2, 1.0) == Sample(1.0, 5_000_000_000, 70_000, 1_000_000, 11, 22, 11, 20, 7)


def test_cgroup_v1_is_read() -> None:
    assert parse(V1, 1.0) == Sample(1.0, 5_000_000_000, 60_000, 1_000_000, 11, 22, 10, 20, 7)


@pytest.mark.parametrize(
    "data",
    [
        {}, {"cpu_stats": {}, "memory_stats": {}, "networks": None, "pids_stats": {}, "blkio_stats": {}},
        {"cpu_stats": None, "memory_stats": None, "pids_stats": None,
         "blkio_stats": {"io_service_bytes_recursive": None}},
    ],
)  # fmt: skip
def test_what_the_engine_does_not_tell_is_nothing(data: dict[str, Any]) -> None:
    assert parse(data, 1.0) == Sample(1.0, 0, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "data", [{"memory_stats": {"usage": "x"}}, {"networks": []}, {"cpu_stats": 5}, {"networks": {"e": 1}}]
)
def test_an_unknown_form_is_the_engines_error(data: dict[str, Any]) -> None:
    if data == {"networks": []}:
        assert parse(data, 0).rx == 0
    else:
        with pytest.raises(EngineError):
            parse(data, 0)


def test_more_cache_than_memory_is_not_less_than_nothing() -> None:
    assert parse({"memory_stats": {"usage": 5, "stats": {"inactive_file": 9}}}, 0).memory == 0


def test_usage_is_of_one_core() -> None:
    before, after = parse(V2, 10.0), parse(V2, 12.0)._replace(cpu=8_000_000_000)
    assert usage(before, after)[:2] == (150.0, 2.0)


@given(st.integers(0, 2**60), st.integers(0, 2**60), st.floats(0, 1e6), st.floats(0, 1e6))
def test_usage_is_never_negative_nor_fails(a: int, b: int, start: float, end: float) -> None:
    one = parse({}, start)
    found = usage(one._replace(cpu=a), one._replace(cpu=b, at=end))
    assert found.cpu_percent >= 0


class _Engine:
    def __init__(self) -> None:
        self.cpu, self.calls = 0, 0

    async def stats(self, container: str) -> dict[str, Any]:
        self.calls += 1
        return {"cpu_stats": {"cpu_usage": {"total_usage": self.cpu}}}


def container(state: State = State.RUNNING) -> Container:
    return Container(
        id="c", name="web", image="a", state=state, created_at=now(), started_at=now() - timedelta(seconds=100)
    )


async def test_the_first_answer_is_since_the_start_and_the_next_since_the_last_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, mono = _Engine(), 1000.0
    monkeypatch.setattr("homed.containers.stats.time.monotonic", lambda: mono)
    kept = Stats(cast(Engine, engine), cast(View, None), lambda: 30)
    engine.cpu = 50_000_000_000
    first = await kept.usage(container())
    assert first.cpu_percent == pytest.approx(50, abs=1)
    mono, engine.cpu = 1002.0, 51_000_000_000
    assert (await kept.usage(container()))[:2] == (50.0, 2.0)
    assert (await kept.usage(container()))[:2] == (50.0, 2.0) and engine.calls == 2, "asked twice at once, told once"
    mono, engine.cpu = 1004.0, 1_000_000_000
    assert (await kept.usage(container())).cpu_percent == pytest.approx(1, abs=0.1), "it was restarted: counted anew"


async def test_what_does_not_run_uses_nothing_and_says_so() -> None:
    kept = Stats(cast(Engine, _Engine()), cast(View, None), lambda: 30)
    with pytest.raises(ConflictError) as raised:
        await kept.usage(container(State.STOPPED))
    assert raised.value.code == "CONTAINER_NOT_RUNNING"
