"""Buses that are none: whatever listens at the address, homed goes on, tries again in time, and leaves nothing open."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from dbus_next.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homed.bus import connection
from homed.bus.connection import Bus
from homed.bus.transport import Transport
from homed.errors import BusUnavailableError
from tests.support.bus import PEER, Running, eventually, hello

pytestmark = pytest.mark.usefixtures("nothing_left")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bus"


class FakeBus:
    """Serves each connection by a function, and counts them."""

    def __init__(self, path: Path, serve: Serve):
        self.count = 0
        self.address = f"unix:path={path}"
        self._path = path
        self._serve = serve
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "FakeBus":
        self._server = await asyncio.start_unix_server(self._accept, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


async def authenticate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a bus does, up to the first message."""
    await reader.readuntil(b"\r\n")
    writer.write(b"OK 0123456789abcdef0123456789abcdef\r\n")
    await reader.readuntil(b"BEGIN\r\n")


async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await authenticate(reader, writer)
    await reader.read(4096)
    writer.write(hello())


async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


async def close_in_authentication(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n")
    writer.write(b"OK 0123")


async def reject(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n")
    writer.write(b"REJECTED EXTERNAL\r\n")
    await reader.read()


async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\xff\xfe\0220 mail ESMTP\r\n")
    await reader.read()


async def talk_without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"OK" * 4096)
        await writer.drain()


async def close_after_authentication(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await authenticate(reader, writer)


async def send_no_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await authenticate(reader, writer)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await reader.read()


async def send_an_impossible_length(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await authenticate(reader, writer)
    writer.write(b"l\2\1\1" + struct.pack("<III", 0xFFFFFFF0, 1, 0xFFFFFFF0) + b"\0" * 64)
    await reader.read()


async def close_when_connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await welcome(reader, writer)


async def babble_when_connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await welcome(reader, writer)
    writer.write(b"\0" * 4096)
    await reader.read()


ODD = (
    close_at_once, close_in_authentication, reject, babble, talk_without_end, close_after_authentication,
    send_no_message, send_an_impossible_length, close_when_connected, babble_when_connected,
)  # fmt: skip


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_PATIENCE", 0.3)
    monkeypatch.setattr(connection, "_WAITS", (0.05, 0.1))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("serve", ODD, ids=lambda serve: serve.__name__)
async def test_what_is_no_bus_is_tried_again(path: Path, serve: Serve) -> None:
    """With a watch, so that it is asked something as soon as there is a connection."""
    async with FakeBus(path, serve) as fake:
        made = Bus(fake.address)
        made.watch(PEER.name, lambda _: None, lambda _: None)
        async with Running(made) as bus:
            await eventually("some tries", lambda: fake.count >= 4)
            with pytest.raises(BusUnavailableError):
                await bus.call(PEER, "Do", deadline=1)


@pytest.mark.usefixtures("impatient")
async def test_one_that_says_nothing_is_left_in_time(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with FakeBus(path, hang) as fake, Running(Bus(fake.address)):
        await eventually("some tries", lambda: fake.count >= 3)
    assert "cannot be reached" in caplog.text


async def test_one_that_lets_in_and_closes_is_not_tried_without_a_pause(path: Path) -> None:
    async with FakeBus(path, close_when_connected) as fake, Running(Bus(fake.address)):
        await eventually("the first", lambda: fake.count)
        began, at = fake.count, asyncio.get_running_loop().time()
        await asyncio.sleep(1)
        lasted = asyncio.get_running_loop().time() - at
        assert fake.count - began <= lasted / 0.2 + 1


async def test_a_bus_that_accepts_nobody_does_not_stop_homed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its queue is full, a socket that waits would wait for ever, and all of homed with it."""
    monkeypatch.setattr(connection, "_WAITS", (0.05,))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        waiting = socket.socket(socket.AF_UNIX)
        waiting.connect(str(path))
        with waiting:
            made = Bus(f"unix:path={path}")
            async with Running(made):
                turns = 0
                for _ in range(50):
                    await asyncio.sleep(0.01)
                    turns += 1
                assert turns == 50 and not made.connected


@pytest.mark.parametrize(
    "address",
    ["", "nonsense", "unix:", "unix:path", "tcp:host=127.0.0.1,port=1", "unix:path=/no/such;unix:path=/none", "x:y=z"],
)
@pytest.mark.usefixtures("impatient")
async def test_an_address_that_is_none_is_told_and_tried_again(
    address: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    async with Running(Bus(address or None)) as bus:
        await eventually("a try", lambda: "cannot be reached" in caplog.text)
        assert not bus.connected


@pytest.mark.usefixtures("impatient")
async def test_the_second_of_two_addresses_is_taken(path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        await reader.read()

    async with FakeBus(path, serve) as fake, Running(Bus(f"unix:path=/no/such;{fake.address}")) as bus:
        await eventually("the connection", lambda: bus.connected)


async def test_a_call_after_the_loss_does_not_wait_for_its_deadline(path: Path) -> None:
    """In the moment between the loss and homed's seeing it."""
    async with FakeBus(path, close_when_connected) as fake:
        transport = Transport(fake.address)
        await transport.connect()
        await eventually("the loss", lambda: transport._disconnected)
        with pytest.raises(BusUnavailableError, match="was lost"):
            await connection._call(transport, PEER, "Do", "", (), 600)
        transport.close()


async def test_a_write_to_a_bus_that_is_gone_fails_at_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        await gone.wait()

    async with FakeBus(path, serve) as fake, Running(Bus(fake.address)) as bus:
        await eventually("the connection", lambda: bus.connected)
        gone.set()
        with pytest.raises(BusUnavailableError):
            await bus.call(PEER, "Do", "s", "x" * 1_000_000, deadline=60)
    assert "Traceback" not in caplog.text


@pytest.mark.usefixtures("impatient")
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.booleans(), st.booleans())
async def test_whatever_it_says_homed_goes_on(path: Path, said: bytes, authenticated: bool, is_hello: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if authenticated:
            await authenticate(reader, writer)
        writer.write(hello()[: len(said)] + said if is_hello else said)

    async with FakeBus(path, serve) as fake, Running(Bus(fake.address)):
        await eventually("two tries", lambda: fake.count >= 2)


async def test_what_the_socket_does_not_take_at_once_is_sent_when_it_does(path: Path) -> None:
    """The bus's end reads nothing until all was said: far more than the socket holds."""
    reading = asyncio.Event()
    received = bytearray()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        await reading.wait()
        while piece := await reader.read(1 << 16):
            received.extend(piece)

    async with FakeBus(path, slow) as fake:
        bus = Transport(fake.address)
        await bus.connect()
        sent = [bus.send(Message("a.b", "/c", "d.e", "F", signature="s", body=["x" * 50_000])) for _ in range(100)]
        await asyncio.sleep(0)
        reading.set()
        await asyncio.gather(*sent)
        await eventually("all of it", lambda: received.count(b"x" * 50_000) == 100)
        bus.close()
