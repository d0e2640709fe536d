"""From RAUC's Progress, as anybody on the bus hears it, to the event on homed's socket: many small installations."""

import asyncio
import statistics
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import aiohttp
from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageType
from dbus_next.message import Message

from tests.bench.figures import Figure, at_most
from tests.rauc.bundles import Bundle
from tests.rauc.machine import ENDED, Machine

_SAMPLES: Final = 500
_DEADLINE: Final = 60.0
_RULE: Final = "type='signal',interface='org.freedesktop.DBus.Properties',member='PropertiesChanged'"
_RAUC: Final = "de.pengutronix.rauc.Installer"


class Told(NamedTuple):
    """One progress: when (`perf_counter`), and what was said."""

    at: float
    percentage: int
    message: str


class Heard(NamedTuple):
    """What the bus and what the socket told of one installation."""

    signals: list[Told]
    events: list[Told]


def run(machine: Machine, bundle: Bundle) -> Figure:
    heard = asyncio.run(_gather(machine, bundle))
    waits, missed = [], 0
    for one in heard:
        pairs = _paired(one)
        waits += [1000 * (event.at - signal.at) for signal, event in pairs]
        first, _ = pairs[0]
        missed += len(one.signals) - one.signals.index(first) - len(pairs)
    waits.sort()
    p99 = waits[int(0.99 * (len(waits) - 1))]
    note = (
        f"{len(waits)} of {len(heard)} installations by RAUC itself, {missed} signals without an event; "
        f"median {statistics.median(waits):.2g} ms, longest {waits[-1]:.3g} ms"
    )
    return at_most("RAUC's Progress on the bus to its event on the socket, p99", 50, [p99], "ms", note=note)


def _paired(heard: Heard) -> list[tuple[Told, Told]]:
    """Each event with its signal. From the end: before it installs RAUC tells of the bundle's check, in like words."""
    pairs, left = [], list(heard.signals)
    for event in reversed(heard.events):
        while (signal := left.pop())[1:] != event[1:]:
            pass
        pairs.append((signal, event))
    return pairs[::-1]


async def _gather(machine: Machine, bundle: Bundle) -> list[Heard]:
    signals: list[Told] = []
    heard: list[Heard] = []
    bus = await _listen(machine.bus.address, signals)
    try:
        async with (
            aiohttp.ClientSession(machine.api.url) as session,
            session.ws_connect("/ws/events?type=update.*") as socket,
        ):
            while sum(len(one.events) for one in heard) < _SAMPLES:
                signals.clear()
                async with asyncio.timeout(_DEADLINE):
                    events = await _installation(session, socket, bundle)
                heard.append(Heard(signals.copy(), events))
    finally:
        bus.disconnect()
    return heard


async def _listen(address: str, signals: list[Told]) -> MessageBus:
    bus = await MessageBus(bus_address=address).connect()

    def hear(message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.body and message.body[0] == _RAUC:
            at = time.perf_counter()
            if (progress := message.body[1].get("Progress")) is not None:
                percentage, message, _depth = progress.value
                # What is told twice in a row is one event.
                if not signals or signals[-1][1:] != (percentage, message):
                    signals.append(Told(at, percentage, message))

    bus.add_message_handler(hear)
    await bus.call(
        Message(
            destination="org.freedesktop.DBus", path="/org/freedesktop/DBus", interface="org.freedesktop.DBus",
            member="AddMatch", signature="s", body=[_RULE],
        )
    )  # fmt: skip
    return bus


async def _installation(
    session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse, bundle: Bundle
) -> list[Told]:
    """The events of one, which is taken back."""
    events = []
    async with session.post("/api/v1/update/install", json={"bundle_path": str(bundle.path)}) as answer:
        answer.raise_for_status()
        identity = str((await answer.json())["id"])
    while True:
        event = await socket.receive_json()
        at, data = time.perf_counter(), event["data"]
        if event["type"] == "update.progress":
            events.append(Told(at, data["percentage"], data["message"]))
        elif data["id"] == identity and data["state"] == "installed":
            break
        elif data["id"] == identity and data["state"] in ENDED:
            raise RuntimeError(f"the update ended: {data}")
    await take_back(session, identity)
    return events


async def take_back(session: aiohttp.ClientSession, identity: str) -> Mapping[str, Any]:
    """Have an installed update not be started, so that there can be another; what it was."""
    async with session.get(f"/api/v1/update/history/{identity}") as answer:
        update: Mapping[str, Any] = await answer.json()
    async with session.post("/api/v1/update/mark-bad", json={"slot": "other"}) as answer:
        answer.raise_for_status()
    return update
