"""One connection to a real bus: calls, their errors and deadlines, signals, owners, and a bus that goes and comes."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dbus_next.message import Message
from dbus_next.signature import Variant

from homed.bus.connection import Bus, CallError, Peer, Signal, address
from homed.errors import BusUnavailableError
from tests.support.bus import NAME, PEER, Running, Service, eventually
from tests.support.rauc import SystemBus

pytestmark = pytest.mark.usefixtures("nothing_left")


class Heard:
    """What a watch was told."""

    def __init__(self, bus: Bus, name: str = NAME):
        self.signals: list[Signal] = []
        self.owners: list[bool] = []
        bus.watch(name, self.signals.append, self.owners.append)

    @property
    def members(self) -> list[str]:
        return [signal.member for signal in self.signals]


@pytest.fixture
async def bus(daemon: SystemBus) -> AsyncIterator[Bus]:
    async with Running(Bus(daemon.address)) as made:
        await eventually("the connection", lambda: made.connected)
        yield made


async def test_what_a_service_answers_comes_unwrapped(bus: Bus, daemon: SystemBus) -> None:
    twice = Variant("v", Variant("a{sv}", {"x": Variant("as", ["y"])}))
    answers = {
        "Nothing": lambda _: ("", []),
        "Two": lambda _: ("si", ["x", 7]),
        "Wrapped": lambda _: ("v(sv)", [twice, ["a", Variant("b", True)]]),
    }
    async with Service(daemon.address, answers) as service:
        assert await bus.call(PEER, "Nothing") == []
        assert await bus.call(PEER, "Two", "s", "argument") == ["x", 7]
        assert await bus.call(PEER, "Wrapped") == [{"x": ["y"]}, ["a", True]]
        assert service.asked[1] == ("Two", ["argument"])


@pytest.mark.parametrize(("body", "said"), [(["no"], "no"), ([], "org.example.No"), ([""], "org.example.No")])
async def test_what_a_service_refuses_is_told_in_its_words(
    bus: Bus, daemon: SystemBus, body: list[str], said: str
) -> None:
    def refuse(message: Message) -> Message:
        error = Message.new_error(message, "org.example.No", "")
        error.signature, error.body = "s" if body else "", body
        return error

    async with Service(daemon.address, {"Do": refuse}):
        with pytest.raises(CallError) as raised:
            await bus.call(PEER, "Do")
    assert (raised.value.name, raised.value.message, raised.value.status) == ("org.example.No", said, 502)


async def test_a_service_that_is_not_there_is_told_by_the_bus(bus: Bus) -> None:
    with pytest.raises(CallError) as raised:
        await bus.call(PEER, "Do")
    assert raised.value.name == "org.freedesktop.DBus.Error.ServiceUnknown"


async def test_one_that_does_not_answer_has_a_deadline(bus: Bus, daemon: SystemBus) -> None:
    kept: list[Message] = []
    async with Service(daemon.address, {"Do": kept.append, "Ask": lambda _: ("s", ["x"])}) as service:
        with pytest.raises(BusUnavailableError, match=r"org.example.Board.Do did not answer within 0.2 s"):
            await bus.call(PEER, "Do", deadline=0.2)
        # What comes too late is nobody's, and harms nobody.
        service.reply(kept[0], "s", ["late"])
        assert await bus.call(PEER, "Ask") == ["x"]
    assert bus.connected


async def test_calls_that_were_never_answered_are_forgotten(bus: Bus, daemon: SystemBus) -> None:
    async with Service(daemon.address, {"Do": lambda _: None}):
        for _ in range(20):
            with pytest.raises(BusUnavailableError):
                await bus.call(PEER, "Do", deadline=0.01)
    assert bus._bus is not None and not bus._bus._method_return_handlers


async def test_one_that_goes_away_over_a_call_is_told_at_once(bus: Bus, daemon: SystemBus) -> None:
    async with Service(daemon.address, {"Do": lambda _: None}) as service:
        call = asyncio.ensure_future(bus.call(PEER, "Do", deadline=60))
        await eventually("the call", lambda: service.asked)
        service.close()
        with pytest.raises(CallError) as raised:
            await call
    assert raised.value.name == "org.freedesktop.DBus.Error.NoReply"


async def test_many_calls_at_once_have_each_its_own_answer(bus: Bus, daemon: SystemBus) -> None:
    kept: list[Message] = []
    async with Service(daemon.address, {"Do": kept.append}) as service:
        calls = [asyncio.ensure_future(bus.call(PEER, "Do", "i", number)) for number in range(50)]
        await eventually("all of them", lambda: len(kept) == 50)
        for message in reversed(kept):
            service.reply(message, "i", [message.body[0] * 2])
        assert await asyncio.gather(*calls) == [[number * 2] for number in range(50)]


async def test_a_call_that_nobody_waits_for_any_more_leaves_the_connection_well(bus: Bus, daemon: SystemBus) -> None:
    kept: list[Message] = []
    async with Service(daemon.address, {"Do": kept.append, "Ask": lambda _: ("s", ["x"])}) as service:
        call = asyncio.ensure_future(bus.call(PEER, "Do"))
        await eventually("the call", lambda: kept)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        service.reply(kept[0], "", [])
        assert await bus.call(PEER, "Ask") == ["x"]


async def test_a_large_answer_comes_whole(bus: Bus, daemon: SystemBus) -> None:
    long = "x" * 3_000_000
    async with Service(daemon.address, {"Do": lambda _: ("s", [long])}):
        assert await bus.call(PEER, "Do") == [long]


async def test_properties_are_read(bus: Bus, daemon: SystemBus) -> None:
    values = {"Progress": Variant("(isi)", [50, "x", 1]), "Operation": Variant("s", "idle")}

    def get(message: Message) -> tuple[str, list[Any]]:
        assert message.interface == "org.freedesktop.DBus.Properties" and message.body[0] == PEER.interface
        return ("v", [values[message.body[1]]]) if message.member == "Get" else ("a{sv}", [values])

    async with Service(daemon.address, {"Get": get, "GetAll": get}):
        assert await bus.property(PEER, "Progress") == [50, "x", 1]
        assert await bus.properties(PEER) == {"Progress": [50, "x", 1], "Operation": "idle"}


async def test_without_a_connection_a_call_fails_at_once(daemon: SystemBus) -> None:
    with pytest.raises(BusUnavailableError, match="is away"):
        await Bus(daemon.address).call(PEER, "Do")


async def test_a_service_is_seen_to_come_and_go(daemon: SystemBus) -> None:
    made = Bus(daemon.address)
    heard = Heard(made)
    async with Running(made) as bus:
        await eventually("the connection", lambda: bus.connected)
        assert (bus.has(NAME), heard.owners) == (False, [])
        async with Service(daemon.address):
            await eventually("its coming", lambda: bus.has(NAME))
        await eventually("its going", lambda: not bus.has(NAME))
        assert heard.owners == [True, False]


async def test_a_service_that_was_there_before_is_seen(daemon: SystemBus) -> None:
    async with Service(daemon.address) as service:
        made = Bus(daemon.address)
        heard = Heard(made)
        async with Running(made) as bus:
            await eventually("the service", lambda: bus.has(NAME))
            assert heard.owners == [True]
            await service.signal("Changed", "s", "x")
            await eventually("the signal", lambda: heard.signals)
    assert heard.signals == [Signal(PEER.interface, "Changed", PEER.path, ["x"])]


async def test_one_that_takes_another_ones_place_is_another_one(daemon: SystemBus) -> None:
    made = Bus(daemon.address)
    heard = Heard(made)
    async with Running(made) as bus, Service(daemon.address) as first:
        await eventually("the first", lambda: bus.has(NAME))
        async with Service(daemon.address) as second:
            await eventually("the second", lambda: len(heard.owners) == 3)
            assert heard.owners == [True, False, True]
            await first.signal("OfTheFirst")
            await second.signal("OfTheSecond")
            await eventually("the signal", lambda: heard.signals)
    assert heard.members == ["OfTheSecond"]


async def test_nobody_but_the_owner_is_listened_to(daemon: SystemBus) -> None:
    made = Bus(daemon.address)
    heard = Heard(made)
    async with (
        Running(made) as bus,
        Service(daemon.address) as service,
        Service(daemon.address, name="org.example.Stranger") as stranger,
    ):
        await eventually("the service", lambda: bus.has(NAME))
        assert bus._bus is not None
        ours = str(bus._bus.unique_name)
        await stranger.signal("Completed", "i", 0)
        await stranger.signal("Completed", "i", 0, to=ours)
        # Even one that pretends to be the bus.
        await stranger.signal(
            "NameOwnerChanged", "sss", NAME, service.unique_name, stranger.unique_name, to=ours,
            interface="org.freedesktop.DBus", path="/org/freedesktop/DBus",
        )  # fmt: skip
        await stranger.signal("Completed", "i", 0, to=ours)
        await service.signal("Honest", "v", Variant("v", Variant("s", "x")))
        await eventually("the signal", lambda: heard.signals)
        assert heard.owners == [True]
    assert heard.signals == [Signal(PEER.interface, "Honest", PEER.path, ["x"])]


async def test_two_services_are_told_apart(daemon: SystemBus) -> None:
    made = Bus(daemon.address)
    one, other = Heard(made), Heard(made, "org.example.Other")
    async with (
        Running(made) as bus,
        Service(daemon.address) as first,
        Service(daemon.address, name="org.example.Other") as second,
    ):
        await eventually("both", lambda: bus.has(NAME) and bus.has("org.example.Other"))
        await first.signal("One")
        await second.signal("Other")
        await eventually("both signals", lambda: one.signals and other.signals)
    assert (one.members, other.members) == (["One"], ["Other"])


async def test_a_listener_that_fails_does_not_end_the_connection(
    daemon: SystemBus, caplog: pytest.LogCaptureFixture
) -> None:
    made = Bus(daemon.address)
    heard: list[str] = []

    def fail(signal: Signal) -> None:
        heard.append(signal.member)
        raise RuntimeError("a fault of the listener")

    def fail_too(_: bool) -> None:
        raise RuntimeError("another one")

    made.watch(NAME, fail, fail_too)
    async with Running(made) as bus, Service(daemon.address, {"Ask": lambda _: ("s", ["x"])}) as service:
        await eventually("the service", lambda: bus.has(NAME))
        await service.signal("First")
        await service.signal("Second")
        await eventually("both", lambda: len(heard) == 2)
        assert await bus.call(PEER, "Ask") == ["x"]
    assert "a fault of the listener" in caplog.text and "another one" in caplog.text


async def test_a_call_of_somebody_else_to_us_is_answered_and_harmless(bus: Bus, daemon: SystemBus) -> None:
    assert bus._bus is not None
    ours = Peer(str(bus._bus.unique_name), "/", "org.example.Nothing")
    async with Running(Bus(daemon.address)) as other:
        await eventually("the connection", lambda: other.connected)
        with pytest.raises(CallError):
            await other.call(ours, "Do")
        assert await other.call(ours._replace(interface="org.freedesktop.DBus.Peer"), "Ping") == []
    assert bus.connected


async def test_a_bus_that_is_killed_is_connected_to_again(daemon: SystemBus, caplog: pytest.LogCaptureFixture) -> None:
    made = Bus(daemon.address)
    heard = Heard(made)
    caplog.set_level(logging.INFO)
    async with Running(made) as bus:
        async with Service(daemon.address, {"Do": lambda _: None}) as service:
            await eventually("the service", lambda: bus.has(NAME))
            call = asyncio.ensure_future(bus.call(PEER, "Do", deadline=60))
            await eventually("the call", lambda: service.asked)
            await asyncio.to_thread(daemon.kill)
            with pytest.raises(BusUnavailableError, match="was lost"):
                await call
            await eventually("the loss", lambda: not bus.connected)
            assert (bus.has(NAME), heard.owners) == (False, [True, False])
        await asyncio.to_thread(daemon.start)
        await eventually("the connection", lambda: bus.connected)
        async with Service(daemon.address, {"Ask": lambda _: ("s", ["x"])}) as again:
            await eventually("the service", lambda: bus.has(NAME))
            assert await bus.call(PEER, "Ask") == ["x"]
            await again.signal("Back")
            await eventually("the signal", lambda: heard.signals)
    assert heard.owners == [True, False, True, False]
    assert "was lost" in caplog.text


async def test_a_bus_that_is_not_there_yet_is_waited_for(daemon: SystemBus, caplog: pytest.LogCaptureFixture) -> None:
    await asyncio.to_thread(daemon.kill)
    async with Running(Bus(daemon.address)) as bus:
        await eventually("a try", lambda: "cannot be reached" in caplog.text)
        with pytest.raises(BusUnavailableError):
            await bus.call(PEER, "Do")
        await asyncio.to_thread(daemon.start)
        await eventually("the connection", lambda: bus.connected)
    # Each try of many is not worth a line.
    assert caplog.text.count("cannot be reached") == 1


async def test_a_bus_that_hangs_is_called_in_vain_and_heard_again(daemon: SystemBus) -> None:
    async with Running(Bus(daemon.address)) as bus, Service(daemon.address, {"Ask": lambda _: ("s", ["x"])}):
        await eventually("the connection", lambda: bus.connected)
        assert daemon._process is not None
        os.kill(daemon._process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(BusUnavailableError, match="did not answer"):
                await bus.call(PEER, "Ask", deadline=0.3)
        finally:
            os.kill(daemon._process.pid, signal.SIGCONT)
        assert await bus.call(PEER, "Ask") == ["x"]


async def test_what_is_under_way_at_the_end_fails_and_nothing_stays_open(daemon: SystemBus) -> None:
    async with Service(daemon.address, {"Do": lambda _: None}) as service:
        async with Running(Bus(daemon.address)) as bus:
            await eventually("the connection", lambda: bus.connected)
            call = asyncio.ensure_future(bus.call(PEER, "Do", deadline=60))
            await eventually("the call", lambda: service.asked)
        with pytest.raises(BusUnavailableError):
            await call
        assert not bus.connected


def test_the_bus_of_the_environment_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/x")
    assert address() == "unix:path=/x"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "")
    assert address() is None
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS")
    assert address() is None
