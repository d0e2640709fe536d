"""One connection to the system bus that comes back by itself; every call on it has a deadline.

dbus-next's own proxies introspect first and hold signals for ever; plain messages need neither.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from dbus_next import Message, MessageFlag, MessageType

from homed.bus.transport import Transport
from homed.bus.values import unwrap
from homed.errors import BusUnavailableError, HomedError

log = logging.getLogger(__name__)

_BUS = "org.freedesktop.DBus"
_BUS_PATH = "/org/freedesktop/DBus"
_PATIENCE = 10.0
_WAITS = (0.2, 0.5, 1.0, 2.0, 5.0)


class CallError(HomedError):
    """The other side answered with an error: `name` is D-Bus's, the message the other side's own words."""

    code = "BUS_ERROR"
    status = 502
    grpc = "INTERNAL"

    def __init__(self, name: str, message: str):
        super().__init__(message or name)
        self.name = name


class Signal(NamedTuple):
    """One signal; `body` is unwrapped to plain values."""

    interface: str
    member: str
    path: str
    body: Sequence[Any]


class Peer(NamedTuple):
    """A service on the bus and the object that is spoken to."""

    name: str
    path: str
    interface: str


OnSignal = Callable[[Signal], None]
OnOwner = Callable[[bool], None]


class _Watch(NamedTuple):
    on_signal: OnSignal
    on_owner: OnOwner
    rule: str


class _Subscription(NamedTuple):
    owner: str
    peer: Peer
    member: str
    heard: "asyncio.Queue[Signal | None]"

    def fits(self, message: Message) -> bool:
        wanted = (self.owner, self.peer.path, self.peer.interface, self.member)
        return (message.sender, message.path, message.interface, message.member) == wanted


class Bus:
    """`run` keeps it connected. `watch` tells of a peer's signals, and each time that it comes or goes."""

    def __init__(self, address: str | None = None):
        self._address = address
        self._bus: Transport | None = None
        self._watches: dict[str, _Watch] = {}
        self._owners: dict[str, str] = {}
        self._connected: list[Callable[[], None]] = []
        self._subscriptions: list[_Subscription] = []

    @property
    def connected(self) -> bool:
        return self._bus is not None

    def has(self, name: str) -> bool:
        """Whether somebody owns a watched name now."""
        return name in self._owners

    def watch(self, name: str, on_signal: OnSignal, on_owner: OnOwner, rule: str = "") -> None:
        """To be said before `run`: signals of `name`, and whether anybody owns it now. `rule` is more for the bus to
        match, as `,member='…'`: what it sends nobody here has to look at. Others of the name's may be heard still.
        """
        self._watches[name] = _Watch(on_signal, on_owner, rule)

    def listen(self, connected: Callable[[], None]) -> None:
        """To be said before `run`: have `connected` called each time that the bus is there again."""
        self._connected.append(connected)

    async def run(self) -> None:
        """Connect, and connect again for as long as it runs."""
        failures = 0
        while True:
            try:
                bus = await self._connect()
            except (OSError, HomedError) as error:
                if not failures:
                    log.warning("The system bus cannot be reached: %s", error)
                await asyncio.sleep(_WAITS[min(failures, len(_WAITS) - 1)])
                failures += 1
                continue
            failures = 0
            log.info("Connected to the system bus")
            for connected in self._connected:
                self._guarded(connected)
            try:
                await self._until_lost(bus)
            finally:
                self._forget(bus)
            await asyncio.sleep(_WAITS[0])

    async def call(
        self, peer: Peer, member: str, signature: str = "", *body: object, deadline: float = _PATIENCE
    ) -> list[Any]:
        """The answer's values, unwrapped. CallError from the peer; BusUnavailableError where there is no answer."""
        bus = self._bus
        if bus is None:
            raise BusUnavailableError("the system bus is away")
        return await _call(bus, peer, member, signature, body, deadline)

    def tell(self, peer: Peer, member: str, signature: str = "", *body: object) -> None:
        """A call that nobody answers. Where the bus is away nothing is told."""
        if self._bus is not None:
            message = _message(peer, member, signature, body)
            message.flags = MessageFlag.NO_REPLY_EXPECTED
            with suppress(EOFError):
                self._bus.send(message)

    async def property(self, peer: Peer, name: str, deadline: float = _PATIENCE) -> Any:
        (value,) = await self.call(
            peer._replace(interface="org.freedesktop.DBus.Properties"), "Get", "ss", peer.interface, name,
            deadline=deadline,
        )  # fmt: skip
        return value

    async def properties(self, peer: Peer, deadline: float = _PATIENCE) -> dict[str, Any]:
        (values,) = await self.call(
            peer._replace(interface="org.freedesktop.DBus.Properties"), "GetAll", "s", peer.interface,
            deadline=deadline,
        )  # fmt: skip
        return dict(values)

    @asynccontextmanager
    async def signals(self, peer: Peer, member: str) -> "AsyncIterator[asyncio.Queue[Signal | None]]":
        """Hear one signal of a peer while the block lasts; None comes where the bus was lost.

        Unlike `watch` the bus sends nothing more than this, and nothing before and after. As `call` it raises.
        """
        bus_peer = Peer(_BUS, _BUS_PATH, _BUS)
        (owner,) = await self.call(bus_peer, "GetNameOwner", "s", peer.name)
        rule = f"type='signal',sender='{peer.name}',path='{peer.path}',interface='{peer.interface}',member='{member}'"
        subscription = _Subscription(owner, peer, member, asyncio.Queue())
        self._subscriptions.append(subscription)
        try:
            await self.call(bus_peer, "AddMatch", "s", rule)
            yield subscription.heard
        finally:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
                with suppress(HomedError):
                    await self.call(bus_peer, "RemoveMatch", "s", rule)

    async def _connect(self) -> Transport:
        bus: Transport | None = None
        try:
            async with asyncio.timeout(_PATIENCE):
                bus = Transport(self._address)
                await bus.connect()
                bus.add_message_handler(self._received)
                self._bus = bus
                await self._look_for_owners(bus)
        except BaseException as error:
            if bus is not None:
                self._forget(bus)
            if isinstance(error, TimeoutError):
                raise BusUnavailableError(f"it did not answer within {_PATIENCE:g} s") from error
            if isinstance(error, Exception) and not isinstance(error, (OSError, HomedError)):
                # dbus-next raises its own kinds, and bare ones for what is not D-Bus at all.
                raise BusUnavailableError(f"{type(error).__name__}: {error}") from error
            raise
        return bus

    async def _look_for_owners(self, bus: Transport) -> None:
        bus_peer = Peer(_BUS, _BUS_PATH, _BUS)
        for name, watch in self._watches.items():
            for rule in (
                f"type='signal',sender='{name}'{watch.rule}",
                f"type='signal',sender='{_BUS}',interface='{_BUS}',member='NameOwnerChanged',arg0='{name}'",
            ):
                await _call(bus, bus_peer, "AddMatch", "s", (rule,), _PATIENCE)
            try:
                (owner,) = await _call(bus, bus_peer, "GetNameOwner", "s", (name,), _PATIENCE)
            except CallError:
                owner = ""
            self._owned(name, owner)

    async def _until_lost(self, bus: Transport) -> None:
        with suppress(Exception):  # why it was lost is told by the next try to connect
            await bus.wait_for_disconnect()
        log.warning("The connection to the system bus was lost")

    def _forget(self, bus: Transport) -> None:
        if self._bus is bus:
            self._bus = None
        bus.close()
        for name in list(self._owners):
            self._owned(name, "")
        while self._subscriptions:
            self._subscriptions.pop().heard.put_nowait(None)

    def _received(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.sender == _BUS and message.member == "NameOwnerChanged":
            name, _, owner = message.body
            if name in self._watches:
                self._owned(name, owner)
            return
        for subscription in self._subscriptions:
            if subscription.fits(message):
                body = unwrap(message.body)
                subscription.heard.put_nowait(Signal(message.interface, message.member, message.path, body))
        for name, watch in self._watches.items():
            if self._owners.get(name) == message.sender:
                signal = Signal(message.interface, message.member, message.path, unwrap(message.body))
                self._guarded(lambda watch=watch, signal=signal: watch.on_signal(signal))  # type: ignore[misc]

    def _owned(self, name: str, owner: str) -> None:
        before = self._owners.pop(name, "")
        if owner:
            self._owners[name] = owner
        if before == owner:
            return
        watch = self._watches[name]
        if before:
            self._guarded(lambda: watch.on_owner(False))
        if owner:
            self._guarded(lambda: watch.on_owner(True))

    def _guarded(self, act: Callable[[], None]) -> None:
        """A listener's fault must not end the connection: dbus-next would drop it."""
        try:
            act()
        except Exception:
            log.exception("A listener on the bus failed")


async def _call(
    bus: Transport, peer: Peer, member: str, signature: str, body: Sequence[object], deadline: float
) -> list[Any]:
    message = _message(peer, member, signature, body)
    what = f"{peer.interface}.{member}"
    try:
        async with asyncio.timeout(deadline):
            reply = await bus.call(message)
    except TimeoutError as error:
        raise BusUnavailableError(f"{what} did not answer within {deadline:g} s") from error
    except (OSError, EOFError) as error:
        raise BusUnavailableError(f"the system bus was lost in {what}: {error}") from error
    if reply is None:
        raise BusUnavailableError(f"the system bus was lost in {what}")
    if reply.message_type is MessageType.ERROR:
        raise CallError(reply.error_name, str(reply.body[0]) if reply.body else "")
    return list(unwrap(reply.body))


def _message(peer: Peer, member: str, signature: str, body: Sequence[object]) -> Message:
    return Message(
        destination=peer.name, path=peer.path, interface=peer.interface, member=member,
        signature=signature, body=list(body),
    )  # fmt: skip


def address() -> str | None:
    """Where the system bus is; None for the usual place."""
    return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or None
