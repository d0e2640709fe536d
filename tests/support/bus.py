"""Services on a system bus of the tests, in the test's own event loop; and buses that are none."""

import asyncio
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from dbus_next.constants import MessageFlag, MessageType, NameFlag
from dbus_next.message import Message

from homed.bus.connection import Bus, Peer
from homed.bus.transport import Transport

NAME: Final = "org.example.Board"
PEER: Final = Peer(NAME, "/org/example/Board", "org.example.Board")
# What a method gives back: (signature, values); or an answer of its own; or nothing, for ever.
Method = Callable[[Message], Any]


async def eventually(what: str, look: Callable[[], object], deadline: float = 30.0) -> None:
    """Wait in the event loop until it is so; AssertionError after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not look():
        assert time.monotonic() < end, f"waited {deadline:g} s in vain for {what}"
        await asyncio.sleep(0.01)


class Service:
    """Owns a name for as long as the block lasts, and answers by member. What it was asked is in `asked`."""

    def __init__(self, address: str, methods: Mapping[str, Method] | None = None, name: str | None = NAME):
        self.methods: dict[str, Method] = dict(methods or {})
        self.asked: list[tuple[str, list[Any]]] = []
        self._address = address
        self._name = name
        self._bus: Transport | None = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def connect(self) -> None:
        self._bus = Transport(self._address)
        await self._bus.connect()
        self._bus.add_message_handler(self._received)
        if self._name is not None:
            await self._bus.request_name(self._name, NameFlag.REPLACE_EXISTING | NameFlag.ALLOW_REPLACEMENT)

    def close(self) -> None:
        if self._bus is not None:
            self._bus.close()
            self._bus = None

    @property
    def unique_name(self) -> str:
        assert self._bus is not None
        return str(self._bus.unique_name)

    async def signal(
        self, member: str, signature: str = "", *body: object, to: str | None = None, interface: str = PEER.interface,
        path: str = PEER.path,
    ) -> None:  # fmt: skip
        """To everybody, or to one connection. It was sent when this returns."""
        assert self._bus is not None
        message = Message.new_signal(path, interface, member, signature, list(body))
        message.destination = to
        await self._bus.send(message)

    def _received(self, message: Message) -> Message | bool:
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        if message.destination not in (self._name, self.unique_name) or message.member not in self.methods:
            return False
        self.asked.append((message.member, list(message.body)))
        answer = self.methods[message.member](message)
        if isinstance(answer, tuple):
            signature, body = answer
            return Message.new_method_return(message, signature, body)
        # True: it is taken, and nothing is answered.
        return answer if answer is not None else True

    def reply(self, message: Message, signature: str, body: list[Any]) -> None:
        """Answer later what was not answered."""
        assert self._bus is not None
        self._bus.send(Message.new_method_return(message, signature, body))


class Running:
    """A Bus that runs for as long as the block lasts."""

    def __init__(self, bus: Bus):
        self.bus = bus
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Bus:
        self._task = asyncio.create_task(self.bus.run())
        return self.bus

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def hello(serial: int = 1) -> bytes:
    """A bus's answer to the first call of a connection."""
    message = Message(
        message_type=MessageType.METHOD_RETURN, reply_serial=serial, signature="s", body=[":1.1"], sender=NAME,
        flags=MessageFlag.NO_REPLY_EXPECTED, serial=1,
    )  # fmt: skip
    return bytes(message._marshall())
