"""systemd's Manager: units are started and stopped, and what came of it is awaited."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from dbus_next.message import Message
from dbus_next.signature import Variant

from homed.bus.connection import Bus, CallError, Peer
from homed.bus.systemd1 import JobError, Timer, Unit, Units
from homed.errors import BusUnavailableError
from tests.support.bus import Method, Running, Service, eventually
from tests.support.rauc import SystemBus

pytestmark = pytest.mark.usefixtures("nothing_left")
NAME, PATH = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
MANAGER = f"{NAME}.Manager"
JOB = f"{PATH}/job/7"
WORKER = "homed-backup-worker@1.service"


@pytest.fixture
async def bus(daemon: SystemBus) -> AsyncIterator[Bus]:
    async with Running(Bus(daemon.address)) as made:
        await eventually("the connection", lambda: made.connected)
        yield made


class Systemd(Service):
    """Answers each job with `JOB`; what came of it is told by `told`."""

    def __init__(self, daemon: SystemBus, *results: tuple[str, str]):
        queued = dict.fromkeys(("StartUnit", "StopUnit", "RestartUnit"), self._queued)
        super().__init__(daemon.address, queued, NAME)
        self._results = results
        self._telling: list[asyncio.Task[None]] = []

    def _queued(self, message: Message) -> tuple[str, list[object]]:
        # Of a job that is done at once it is told before the caller knows which it is.
        for job, result in self._results:
            self._telling.append(asyncio.create_task(self.told(job, result)))
        return "o", [JOB]

    async def told(self, job: str, result: str) -> None:
        await self.signal("JobRemoved", "uoss", 7, job, "a.service", result, interface=MANAGER, path=PATH)


@pytest.mark.parametrize(("act", "member"), [("start", "StartUnit"), ("stop", "StopUnit"), ("restart", "RestartUnit")])
async def test_a_unit_is_started_when_its_job_is_done(bus: Bus, daemon: SystemBus, act: str, member: str) -> None:
    async with Systemd(daemon, (f"{PATH}/job/6", "failed"), (JOB, "done"), (JOB, "failed")) as systemd:
        await getattr(Units(bus), act)(WORKER)
        assert systemd.asked == [(member, [WORKER, "replace"])]


@pytest.mark.parametrize("result", ["failed", "timeout", "canceled", "dependency"])
async def test_a_job_that_fails_says_how(bus: Bus, daemon: SystemBus, result: str) -> None:
    async with Systemd(daemon, (JOB, result)):
        with pytest.raises(JobError) as raised:
            await Units(bus).start(WORKER)
    assert raised.value.name == result
    assert WORKER in raised.value.message


async def test_a_job_that_never_ends_is_not_waited_for_for_ever(bus: Bus, daemon: SystemBus) -> None:
    async with Systemd(daemon, (f"{PATH}/job/8", "done")):
        with pytest.raises(BusUnavailableError, match=r"StartUnit of .* was not done within"):
            await Units(bus).start(WORKER, deadline=0.2)


async def test_a_bus_that_is_lost_ends_the_wait(bus: Bus, daemon: SystemBus) -> None:
    async with Systemd(daemon) as systemd:
        waiting = asyncio.create_task(Units(bus).start(WORKER))
        await eventually("the call", lambda: systemd.asked)
        daemon.kill()
        with pytest.raises(BusUnavailableError):
            await waiting


async def test_what_somebody_else_says_of_a_job_is_not_believed(bus: Bus, daemon: SystemBus) -> None:
    async with Systemd(daemon) as systemd, Service(daemon.address, name=None) as liar:
        waiting = asyncio.create_task(Units(bus).start(WORKER))
        await eventually("the call", lambda: systemd.asked)
        said = (7, JOB, "a.service")
        await liar.signal("JobRemoved", "uoss", *said, "failed", interface=MANAGER, path=PATH)
        await systemd.told(JOB, "done")
        await waiting


async def test_of_signals_nothing_more_is_heard_than_what_is_waited_for(bus: Bus, daemon: SystemBus) -> None:
    peer = Peer(NAME, PATH, MANAGER)
    async with Systemd(daemon) as systemd:
        async with bus.signals(peer, "JobRemoved") as heard:
            await systemd.signal("JobNew", "u", 1, interface=MANAGER, path=PATH)
            await systemd.signal("JobRemoved", "u", 2, interface=MANAGER, path=PATH + "/other")
            await systemd.signal("JobRemoved", "u", 3, interface=MANAGER, path=PATH)
            signal = await heard.get()
            assert signal is not None and signal.body == [3]
        await systemd.signal("JobRemoved", "u", 4, interface=MANAGER, path=PATH)
        await bus.call(Peer("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"), "GetId")
        assert heard.empty()


def refusing(name: str) -> Method:
    return lambda message: Message.new_error(message, f"{NAME}.{name}", "in its words")


async def test_a_unit_that_is_not_there_is_stopped(bus: Bus, daemon: SystemBus) -> None:
    async with Systemd(daemon) as systemd:
        systemd.methods["StopUnit"] = systemd.methods["StartUnit"] = refusing("NoSuchUnit")
        await Units(bus).stop(WORKER)
        with pytest.raises(CallError, match="in its words"):
            await Units(bus).start(WORKER)


async def test_a_stop_that_is_refused_is_told(bus: Bus, daemon: SystemBus) -> None:
    async with Systemd(daemon) as systemd:
        systemd.methods["StopUnit"] = refusing("OnlyByDependency")
        with pytest.raises(CallError, match="in its words"):
            await Units(bus).stop(WORKER)


async def test_what_a_unit_is_and_when_a_timer_elapses_is_told(bus: Bus, daemon: SystemBus) -> None:
    moment = datetime(2026, 11, 22, 2, 0, 30, 250_000, UTC)
    elapses = Variant("t", int(moment.timestamp() * 1e6))
    timer = {"NextElapseUSecRealtime": elapses, "LastTriggerUSec": Variant("t", 0)}
    loaded, active = Variant("s", "loaded"), Variant("s", "active")
    unit = {"LoadState": loaded, "ActiveState": active, "NeedDaemonReload": Variant("b", True)}

    def properties(message: Message) -> tuple[str, list[object]]:
        assert message.path == f"{PATH}/unit/x"
        return "a{sv}", [timer if message.body == [f"{NAME}.Timer"] else unit]

    answers = {"LoadUnit": lambda _: ("o", [f"{PATH}/unit/x"]), "GetAll": properties}
    async with Service(daemon.address, answers, NAME) as systemd:
        units = Units(bus)
        assert await units.timer("x.timer") == Timer(next=moment, last=None)
        assert await units.unit("x.timer") == Unit("loaded", "active", stale=True)
        assert systemd.asked[0] == ("LoadUnit", ["x.timer"])


async def test_a_timer_that_never_elapses_says_so(bus: Bus, daemon: SystemBus) -> None:
    never = {"NextElapseUSecRealtime": Variant("t", 2**64 - 1), "LastTriggerUSec": Variant("t", 1_000_000)}
    answers = {"LoadUnit": lambda _: ("o", [f"{PATH}/unit/x"]), "GetAll": lambda _: ("a{sv}", [never])}
    async with Service(daemon.address, answers, NAME):
        assert await Units(bus).timer("x.timer") == Timer(None, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))


async def test_systemd_is_told_to_read_its_files_anew(bus: Bus, daemon: SystemBus) -> None:
    async with Service(daemon.address, {"Reload": lambda _: ("", [])}, NAME) as systemd:
        await Units(bus).reload()
        assert systemd.asked == [("Reload", [])]


async def test_without_systemd_on_the_bus_it_is_told(bus: Bus) -> None:
    with pytest.raises(CallError):
        await Units(bus).start(WORKER)
