"""The board reboots through logind, or through systemd where logind does not do it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from dbus_next.message import Message

from homed.bus.connection import Bus, CallError
from homed.bus.login1 import Power
from homed.errors import BusUnavailableError
from tests.support.bus import Method, Running, Service, eventually
from tests.support.rauc import SystemBus

pytestmark = pytest.mark.usefixtures("nothing_left")
LOGIN, SYSTEMD = "org.freedesktop.login1", "org.freedesktop.systemd1"


@pytest.fixture
async def bus(daemon: SystemBus) -> AsyncIterator[Bus]:
    async with Running(Bus(daemon.address)) as made:
        await eventually("the connection", lambda: made.connected)
        yield made


def accept(_: Message) -> tuple[str, list[object]]:
    return "", []


def service(daemon: SystemBus, name: str, reboot: Method) -> Service:
    return Service(daemon.address, {"Reboot": reboot}, name)


async def test_logind_is_asked_without_a_question_to_anybody(bus: Bus, daemon: SystemBus) -> None:
    async with service(daemon, LOGIN, accept) as logind, service(daemon, SYSTEMD, accept) as systemd:
        await Power(bus).reboot()
        assert (logind.asked, systemd.asked) == ([("Reboot", [False])], [])


@pytest.mark.parametrize("error", ["org.freedesktop.DBus.Error.TimedOut", "org.freedesktop.login1.NotSupported"])
async def test_where_logind_refuses_systemd_is_asked(bus: Bus, daemon: SystemBus, error: str) -> None:
    def refuse(message: Message) -> Message:
        return Message.new_error(message, error, "no")

    async with service(daemon, LOGIN, refuse), service(daemon, SYSTEMD, accept) as systemd:
        await Power(bus).reboot()
        assert systemd.asked == [("Reboot", [])]


async def test_where_there_is_no_logind_systemd_is_asked(bus: Bus, daemon: SystemBus) -> None:
    async with service(daemon, SYSTEMD, accept) as systemd:
        await Power(bus).reboot()
        assert systemd.asked == [("Reboot", [])]


async def test_where_logind_hangs_systemd_is_asked(
    bus: Bus, daemon: SystemBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = bus.call

    async def hurried(*arguments: object, deadline: float) -> list[object]:
        return await call(*arguments, deadline=deadline / 50)  # type: ignore[arg-type]

    monkeypatch.setattr(bus, "call", hurried)
    async with service(daemon, LOGIN, lambda _: None), service(daemon, SYSTEMD, accept) as systemd:
        await Power(bus).reboot()
        assert systemd.asked == [("Reboot", [])]


async def test_where_nobody_does_it_that_is_told(bus: Bus) -> None:
    with pytest.raises(CallError) as raised:
        await Power(bus).reboot()
    assert raised.value.name == "org.freedesktop.DBus.Error.ServiceUnknown"


async def test_without_a_bus_that_is_told(daemon: SystemBus) -> None:
    with pytest.raises(BusUnavailableError):
        await Power(Bus(daemon.address)).reboot()


async def test_where_the_bus_is_lost_over_it_nobody_else_is_asked(bus: Bus, daemon: SystemBus) -> None:
    async with service(daemon, LOGIN, lambda _: None) as logind:
        asked = asyncio.ensure_future(Power(bus).reboot())
        await eventually("the call", lambda: logind.asked)
        await asyncio.to_thread(daemon.kill)
        with pytest.raises(BusUnavailableError):
            await asked
