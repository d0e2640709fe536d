"""homed's end of a spawner: what is asked of it, and what it says."""

import asyncio
import os
import socket
import subprocess
import sys
from typing import NamedTuple

import msgspec

from homed.errors import JobError
from homed.jobs.spawner.messages import Begun, Ended, Frames, Said, Start, frame

_PATIENCE = 1.0


class Call(NamedTuple):
    """None where the spawner is gone. `begun` is an Ended where it could not be started."""

    begun: "asyncio.Future[Begun | Ended | None]"
    ended: "asyncio.Future[Ended | None]"


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._frames = Frames[Said](msgspec.msgpack.Decoder(Said))
        self._calls: dict[int, Call] = {}
        self._last = 0
        self._closed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def start(self, start: Start) -> Call:
        """`start.key` is given here."""
        loop = asyncio.get_running_loop()
        self._last += 1
        call = self._calls[self._last] = Call(loop.create_future(), loop.create_future())
        if self._transport is None or not self.is_open:
            self._lose()
        else:
            self._transport.write(frame(msgspec.structs.replace(start, key=self._last)))
        return call

    async def close(self) -> None:
        """What was asked for is said before."""
        if self._transport is None:
            return
        self._transport.close()
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._closed.wait()
        except TimeoutError:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for said in self._frames.feed(data):
            call = self._calls[said.key]
            if isinstance(said, Ended):
                del self._calls[said.key]
                _settle(call.ended, said)
            _settle(call.begun, said)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()
        self._lose()

    def _lose(self) -> None:
        calls, self._calls = self._calls, {}
        for call in calls.values():
            _settle(call.begun, None)
            _settle(call.ended, None)


def _settle(future: "asyncio.Future[Ended | None] | asyncio.Future[Begun | Ended | None]", said: Said | None) -> None:
    if not future.done():
        future.set_result(said)  # type: ignore[arg-type]  # Begun goes to the futures of beginnings alone


async def connect(boot: str) -> Connection:
    """To a spawner of its own. JobError where none can be started."""
    ours, theirs = socket.socketpair()
    try:
        try:
            await asyncio.to_thread(_spawner, theirs.fileno(), boot)
        finally:
            theirs.close()
        ours.setblocking(False)
        _, connection = await asyncio.get_running_loop().create_connection(Connection, sock=ours)
    except (OSError, subprocess.SubprocessError) as error:
        ours.close()
        raise JobError(f"no spawner can be started: {error}", code="JOB_NOT_STARTED") from error
    except BaseException:
        ours.close()
        raise
    return connection


def _spawner(descriptor: int, boot: str) -> None:
    """Its first process ends as soon as there is a second, which is nobody's child."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG") or name.startswith("PYTHON")}
    subprocess.run(
        [sys.executable, "-P", "-m", "homed.jobs.spawner", str(descriptor), boot or "-"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        start_new_session=True,
        env=kept,
        check=True,
        timeout=60,
    )
