"""Transient units: what is said to systemd, what is heard of it, and what is not believed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dbus_next.message import Message
from dbus_next.signature import Variant

from homed.bus.connection import Bus, CallError, Peer
from homed.bus.systemd1_jobs import Main, Program, Standing, TransientUnits, UnitExistsError
from homed.errors import BusUnavailableError
from tests.support.bus import Method, Running, Service, eventually
from tests.support.rauc import SystemBus

pytestmark = pytest.mark.usefixtures("nothing_left")
NAME, PATH = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
UNIT, OTHER = "homed-job-1.service", "homed-job-2.service"
UNIT_PATH = f"{PATH}/unit/homed_2djob_2d1_2eservice"
OTHER_PATH = f"{PATH}/unit/homed_2djob_2d2_2eservice"
PROPERTIES = "org.freedesktop.DBus.Properties"
TRUE = Program(("/bin/true", "$x", "%n"), {"Type": "exec", "Nice": 5, "UMask": 0o22, "RuntimeMaxUSec": 7})


class World:
    """homed's bus and its transient units, and a bus's other end to ask when all that was sent has come."""

    def __init__(self, bus: Bus):
        self.bus = bus
        self.units = TransientUnits(bus)

    async def settle(self) -> None:
        await self.bus.call(Peer("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"), "GetId")


@pytest.fixture
async def world(daemon: SystemBus) -> AsyncIterator[World]:
    world = World(Bus(daemon.address))
    async with Running(world.bus):
        await eventually("the connection", lambda: world.bus.connected)
        yield world


def systemd(daemon: SystemBus, **methods: Method) -> Service:
    quiet: dict[str, Method] = dict.fromkeys(
        ("UnrefUnit", "StopUnit", "ResetFailedUnit", "RefUnit"), lambda message: ("", [])
    )
    return Service(daemon.address, {"StartTransientUnit": lambda _: ("o", [f"{PATH}/job/1"]), **quiet, **methods}, NAME)


async def changed(service: Service, path: str, main: Main, interface: str = f"{NAME}.Service") -> None:
    values = {
        "MainPID": Variant("u", main.pid),
        "ExecMainCode": Variant("i", main.code),
        "ExecMainStatus": Variant("i", main.status),
        "Result": Variant("s", main.result),
    }
    await service.signal(
        "PropertiesChanged", "sa{sv}as", interface, values, ["ExecStart"], interface=PROPERTIES, path=path
    )


async def test_a_unit_is_started_once_and_held_and_its_words_are_left_as_they_are(
    world: World, daemon: SystemBus
) -> None:
    program = TRUE._replace(shown=[("/a", "/b")], hidden=["/srv"], denied=["@mount"])
    async with systemd(daemon) as service:
        await world.units.start(UNIT, program)

    ((member, (name, mode, properties, auxiliary)),) = service.asked
    assert (member, name, mode, auxiliary) == ("StartTransientUnit", UNIT, "fail", [])
    sent = [(key, value.signature, value.value) for key, value in properties]
    assert ("ExecStart", "a(sasb)", [["/bin/true", ["/bin/true", "$$x", "%n"], False]]) in sent
    assert ("AddRef", "b", True) in sent
    assert ("Nice", "i", 5) in sent
    assert ("UMask", "u", 0o22) in sent
    assert ("RuntimeMaxUSec", "t", 7) in sent
    assert ("BindReadOnlyPaths", "a(ssbt)", [["/a", "/b", False, 0]]) in sent
    assert ("TemporaryFileSystem", "a(ss)", [["/srv", "ro,mode=0755"]]) in sent
    assert ("SystemCallFilter", "(bas)", [False, ["@mount"]]) in sent


def refusing(name: str) -> Method:
    return lambda message: Message.new_error(message, name, "in its words")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{NAME}.UnitExists", UnitExistsError),
        (f"{NAME}.BadUnitSetting", CallError),
        (f"{NAME}.ShuttingDown", BusUnavailableError),
        ("org.freedesktop.DBus.Error.NoReply", BusUnavailableError),
    ],
)
async def test_a_refusal_is_told_apart_from_not_being_there(
    world: World, daemon: SystemBus, name: str, expected: type[Exception]
) -> None:
    async with systemd(daemon, StartTransientUnit=refusing(name)):
        with pytest.raises(expected, match="in its words"):
            await world.units.start(UNIT, TRUE)


async def test_without_systemd_it_may_be_tried_again(world: World) -> None:
    with pytest.raises(BusUnavailableError):
        await world.units.start(UNIT, TRUE)


async def test_a_unit_that_is_followed_is_heard_and_no_other(world: World, daemon: SystemBus) -> None:
    heard: list[Main | None] = []
    ran, ended = Main(7, 0, 0, "success"), Main(0, 1, 3, "exit-code")
    async with systemd(daemon) as service, Service(daemon.address, name=None) as liar:
        await eventually("systemd to be seen", lambda: world.bus.has(NAME))
        with world.units.followed(UNIT, heard.append):
            await changed(service, UNIT_PATH, ran)
            await changed(service, OTHER_PATH, ended)
            await changed(service, UNIT_PATH, ended, interface=f"{NAME}.Unit")
            await changed(liar, UNIT_PATH, ended)
            await eventually("the first", lambda: heard == [ran])
            await changed(service, UNIT_PATH, ended)
            await eventually("the second", lambda: heard == [ran, ended])
        await changed(service, UNIT_PATH, ran)
        await world.settle()
    assert heard == [ran, ended]


async def test_who_follows_is_told_that_something_may_have_been_missed(world: World, daemon: SystemBus) -> None:
    heard: list[Main | None] = []
    with world.units.followed(UNIT, heard.append):
        async with systemd(daemon):
            await eventually("systemd to come", lambda: heard == [None])
        async with systemd(daemon):
            await eventually("systemd to come back", lambda: heard == [None, None])
            daemon.kill()
            daemon.start()
            await eventually("the bus to come back", lambda: world.bus.connected)
        async with systemd(daemon):
            await eventually("systemd to be on it", lambda: len(heard) > 2)


@pytest.mark.parametrize(
    ("failed", "expected"),
    [(False, ["StopUnit"]), (True, ["ResetFailedUnit"]), (None, ["StopUnit", "ResetFailedUnit"])],
)
async def test_a_unit_is_let_go_as_often_as_it_was_held(
    world: World, daemon: SystemBus, failed: bool | None, expected: list[str]
) -> None:
    async with systemd(daemon) as service:
        await world.units.start(UNIT, TRUE)
        await world.units.hold(UNIT)
        service.asked.clear()
        world.units.release(UNIT, failed=failed)
        world.units.release(OTHER, failed=True)
        await eventually("all to come", lambda: ("ResetFailedUnit", [OTHER]) in service.asked)
    assert [member for member, body in service.asked if body[0] == UNIT] == ["UnrefUnit", "UnrefUnit", *expected]


async def test_a_unit_that_may_not_be_held_is_only_not_heard_of(world: World, daemon: SystemBus) -> None:
    async with systemd(daemon, RefUnit=refusing(f"{NAME}.BadUnitSetting")):
        await world.units.hold(UNIT)


async def test_letting_go_where_the_bus_is_away_waits_for_nobody(daemon: SystemBus) -> None:
    TransientUnits(Bus(daemon.address)).release(UNIT, failed=None)


async def test_a_unit_that_is_not_there_is_stopped(world: World, daemon: SystemBus) -> None:
    async with systemd(daemon, StopUnit=refusing(f"{NAME}.NoSuchUnit")):
        await world.units.stop(UNIT)
    async with systemd(daemon, StopUnit=refusing(f"{NAME}.OnlyByDependency")):
        with pytest.raises(CallError, match="in its words"):
            await world.units.stop(UNIT)


async def test_how_units_stand_and_have_ended_is_asked(world: World, daemon: SystemBus) -> None:
    listed = [[UNIT, "", "loaded", "active", "exited", "", UNIT_PATH, 0, "", "/"]]
    values: dict[str, Any] = {
        "MainPID": Variant("u", 0), "ExecMainCode": Variant("i", 2), "ExecMainStatus": Variant("i", 9),
        "Result": Variant("s", "signal"), "ActiveEnterTimestampMonotonic": Variant("t", 5),
        "ExecMainStartTimestampMonotonic": Variant("t", 1_000_000),
        "ExecMainExitTimestampMonotonic": Variant("t", 3_500_000),
    }  # fmt: skip
    answers: dict[str, Method] = {
        "ListUnitsByPatterns": lambda message: ("a(ssssssouso)", [listed]),
        "Get": lambda message: ("v", [values[message.body[1]]]),
    }
    async with systemd(daemon, **answers) as service:
        assert await world.units.standings("homed-*") == {UNIT: Standing("active", "exited")}
        assert await world.units.main(UNIT) == Main(0, 2, 9, "signal")
        assert await world.units.was_active(UNIT)
        assert await world.units.lasted(UNIT) == 2.5
    assert service.asked[0] == ("ListUnitsByPatterns", [[], ["homed-*"]])


@pytest.mark.parametrize(
    ("standing", "over"),
    [
        (Standing("active", "running"), False),
        (Standing("activating", "start"), False),
        (Standing("deactivating", "stop-sigterm"), False),
        (Standing("active", "exited"), True),
        (Standing("failed", "failed"), True),
        (Standing("inactive", "dead"), True),
    ],
)
def test_a_unit_is_over_when_nothing_of_it_runs(standing: Standing, over: bool) -> None:
    assert standing.over is over


async def test_more_may_ask_at_once_than_a_bus_lets_wait(world: World, daemon: SystemBus) -> None:
    # Of these the socket does not take so many at once either.
    padded = TRUE._replace(settings={"Description": "x" * 20_000})
    held: list[Message] = []
    async with systemd(daemon, StartTransientUnit=held.append) as service:
        starts = asyncio.gather(*(world.units.start(f"homed-job-{n}.service", padded) for n in range(300)))
        answered = 0
        while not starts.done():
            before = len(held)
            await asyncio.sleep(0.05)
            if len(held) == before:
                for message in held[answered:]:
                    service.reply(message, "o", [f"{PATH}/job/1"])
                answered = before
        await starts
    assert len(held) == 300
