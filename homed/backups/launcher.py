"""Starting the worker of an operation: as a unit of systemd where homed is one, else as a process of its own."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from homed.errors import BackupError, HomedError

log = logging.getLogger(__name__)
_STARTS_WITHIN = 60.0
_ENDS_WITHIN = 30.0
_LONGEST_LINE = 64 << 20
UNIT = "homed-backup-worker@{}.service"


class Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Units(Protocol):
    async def start(self, name: str) -> None: ...

    async def stop(self, name: str) -> None: ...


class Started(Protocol):
    """A worker that was started. `ended` returns when it is gone, and why where it says so."""

    async def ended(self) -> str: ...

    async def end(self) -> None: ...


Start = Callable[[Path], Awaitable[Started]]


class AsProcess:
    """A child in a session of its own, so that a signal to homed's terminal does not reach it."""

    def __init__(self, process: asyncio.subprocess.Process):
        self._process = process

    @classmethod
    async def start(cls, work: Path) -> "AsProcess":
        return cls(await spawn([sys.executable, "-m", "homed", "backup-worker", str(work)], work))

    async def ended(self) -> str:
        code = await self._process.wait()
        return f"the backup worker ended with {code}"

    async def end(self) -> None:
        """Wait for it, and kill it where it does not end: it has lost its socket by now."""
        try:
            async with asyncio.timeout(_ENDS_WITHIN):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def spawn(command: Sequence[str], work: Path) -> asyncio.subprocess.Process:
    environment = {**os.environ, "TMPDIR": str(work)}
    environment.pop("NOTIFY_SOCKET", None)
    return await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, start_new_session=True, env=environment
    )


class AsUnit:
    """`homed-backup-worker@<id>.service`, with the powers over the board's data that homed itself does not have."""

    def __init__(self, units: Units, name: str):
        self._units = units
        self._name = name

    async def ended(self) -> str:
        # Its socket tells sooner that it is gone than systemd would.
        await asyncio.Event().wait()
        return ""

    async def end(self) -> None:
        await self._units.stop(self._name)


def by_systemd(units: Units) -> Start:
    async def start(work: Path) -> AsUnit:
        name = UNIT.format(work.name)
        await units.start(name)
        return AsUnit(units, name)

    return start


@asynccontextmanager
async def worker(start: Start, work: Path) -> AsyncIterator[Connection]:
    """A worker that has connected; it is gone when the block is left. BackupError where it does not come."""
    path = work / "socket"
    connected: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if connected.done():
            writer.close()
        else:
            connected.set_result(Connection(reader, writer))

    server = await asyncio.start_unix_server(accept, sock=_listening(path), limit=_LONGEST_LINE)
    try:
        started = await start(work)
        try:
            connection = await _first(connected, started)
            try:
                yield connection
            finally:
                connection.writer.close()
                with contextlib.suppress(OSError):
                    await connection.writer.wait_closed()
        finally:
            # One that comes only now must not wait for what nobody will say any more.
            server.close()
            if not connected.cancel() and not connected.cancelled():
                connected.result().writer.close()
            try:
                await asyncio.shield(started.end())
            except HomedError as error:
                # It has lost its socket, and ends by itself; its work is kept.
                log.warning("A backup worker could not be stopped: %s", error.message)
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def _first(connected: "asyncio.Future[Connection]", started: Started) -> Connection:
    gone = asyncio.create_task(started.ended())
    try:
        await asyncio.wait((connected, gone), timeout=_STARTS_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        if connected.done():
            return connected.result()
        raise BackupError(f"{gone.result()} before it began" if gone.done() else "the backup worker did not start")
    finally:
        gone.cancel()


def _listening(path: Path) -> socket.socket:
    """Through its folder: a socket's address holds 107 bytes."""
    path.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        one.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.chmod(path, 0o600)
    except OSError as error:
        one.close()
        raise BackupError(f"{path} cannot be made: {error.strerror}") from error
    finally:
        os.close(folder)
    one.setblocking(False)
    return one
