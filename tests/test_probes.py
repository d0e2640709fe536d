"""What is healthy on this board, in the words that an update is judged by."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from homed.config import UpdateCheck
from homed.containers.keeper import Report
from homed.containers.model import Container, State
from homed.containers.reconciler import Reconciler
from homed.containers.records import Service
from homed.containers.services import Services
from homed.containers.spec import ServiceSpec
from homed.health import Component, Health, Level
from homed.host import network
from homed.host.network import Address, Interface, Route, Traffic
from homed.probes import Probes
from homed.updates.judgement import Finding, healthy

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
NONE = Traffic(0, 0, 0)


def service(name: str, **changes: Any) -> Service:
    made = Service(name=name, spec=ServiceSpec(image="app:1"), created_at=EPOCH, updated_at=EPOCH)
    return msgspec.structs.replace(made, **changes)


def container(identity: str, started: datetime = EPOCH) -> Container:
    return Container(id=identity, name="web", image="app:1", state=State.RUNNING, created_at=EPOCH, started_at=started)


def interface(name: str, *scopes: str, **changes: Any) -> Interface:
    made = Interface(
        name=name, mac=None, state="up", mtu=1500, kind=None, speed=None,
        addresses=tuple(Address("192.0.2.1", 24, "inet", scope) for scope in scopes), rx=NONE, tx=NONE,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


class Rig:
    """Its parts can be changed between two looks."""

    def __init__(self, threads: ThreadPoolExecutor):
        self.services: list[Service] = []
        self.reports: dict[str, Report] = {}
        self.health = Health()
        self.checks: list[UpdateCheck] = []
        self.probes = Probes(
            cast(Services, SimpleNamespace(all=lambda: self.services)),
            cast(Reconciler, SimpleNamespace(report=lambda name: self.reports.get(name, Report()))),
            self.health,
            lambda: self.checks,
            threads,
        )


@pytest.fixture
def rig() -> Iterator[Rig]:
    with ThreadPoolExecutor(1) as threads:
        yield Rig(threads)


async def test_a_service_that_runs_is_healthy_and_bears_its_containers_token(rig: Rig) -> None:
    rig.services = [service("web")]
    rig.reports["web"] = Report(status="running", container=container("a"))
    first = (await rig.probes.observe())["service:web"]
    assert first.reason is None and first.token
    assert (await rig.probes.observe())["service:web"] == first
    for another in (container("b"), container("a", datetime(2026, 1, 2, tzinfo=UTC))):
        rig.reports["web"] = Report(status="running", container=another)
        assert (await rig.probes.observe())["service:web"].token != first.token


@pytest.mark.parametrize("status", ["starting", "failing", "pending", "pulling"])
async def test_a_service_that_does_not_run_says_why(rig: Rig, status: str) -> None:
    rig.services = [service("web"), service("db")]
    rig.reports = {"web": Report(status=status, message="port 80 is taken"), "db": Report(status=status)}
    found = await rig.probes.observe()
    assert found["service:web"] == Finding(f"is {status} (port 80 is taken)")
    assert found["service:db"] == Finding(f"is {status}")


@pytest.mark.parametrize("reason", ["held", "backup"])
async def test_a_service_that_stands_still_for_a_backup_is_well(rig: Rig, reason: str) -> None:
    rig.services = [service("web")]
    rig.reports = {"web": Report(status="paused", reason=reason, container=container("one"))}
    assert (await rig.probes.observe())["service:web"].reason is None


async def test_what_is_not_wanted_is_not_asked_for(rig: Rig) -> None:
    rig.services = [service("a", enabled=False), service("b", stopped=True), service("c", deleting=True), service("d")]
    assert [name for name in await rig.probes.observe() if name.startswith("service:")] == ["service:d"]


async def test_homeds_parts_are_asked_but_for_updates_and_backups(rig: Rig) -> None:
    for name, component in {
        "store": Component(Level.HEALTHY), "docker": Component(Level.UNHEALTHY, "is away"),
        "disk": Component(Level.DEGRADED), "services": Component(Level.UNHEALTHY),
        "updates": Component(Level.DEGRADED, "RAUC is away"), "backups": Component(Level.DEGRADED, "overdue"),
    }.items():  # fmt: skip
        rig.health.add(name, lambda component=component: component)  # type: ignore[misc]
    found = await rig.probes.observe()
    assert {name: one.reason for name, one in found.items() if name.startswith("component:")} == {
        "component:store": None, "component:docker": "is away", "component:disk": "degraded",
    }  # fmt: skip


async def test_the_owners_checks_are_asked(rig: Rig) -> None:
    rig.checks = [UpdateCheck(name="good", command=("true",)), UpdateCheck(name="bad", command=("false",))]
    found = await rig.probes.observe()
    assert (found["check:good"].reason, found["check:bad"].reason) == (None, "exited with 1")
    rig.checks = []
    assert not [name for name in await rig.probes.observe() if name.startswith("check:")]


@pytest.mark.parametrize(
    ("interfaces", "well"),
    [
        ([interface("eth0", "global")], True),
        ([interface("eth0", "link", "global")], True),
        ([interface("lo", "host", kind="loopback"), interface("wlan0", "global")], True),
        ([], False),
        ([interface("eth0", "link")], False),
        ([interface("eth0", "global", state="down")], False),
        ([interface("lo", "global", kind="loopback")], False),
        # The engine's own bridge reaches nobody.
        ([interface("docker0", "global", kind="bridge")], False),
    ],
)
async def test_an_interface_that_others_reach_is_asked_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, interfaces: list[Interface], well: bool
) -> None:
    monkeypatch.setattr(network, "interfaces", lambda: tuple(interfaces))
    monkeypatch.setattr(network, "default_routes", tuple)
    assert ((await rig.probes.observe())["network:link"].reason is None) == well


async def test_each_family_that_had_a_default_route_must_have_one_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "interfaces", tuple)
    monkeypatch.setattr(network, "default_routes", lambda: (Route(None, "eth0", "inet6", 100),))
    assert healthy(await rig.probes.observe()) == ("network:inet6",)


async def test_a_kernel_that_does_not_tell_is_not_healthy(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[Route, ...]:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(network, "default_routes", refuse)
    found = await rig.probes.observe()
    assert set(found) == {"network:link"} and found["network:link"].reason is not None


async def test_this_machine_is_asked_as_it_is(rig: Rig) -> None:
    assert {"network:link", "network:inet", "network:inet6"} <= set(await rig.probes.observe())
