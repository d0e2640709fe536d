"""One command on a connection: what it prints, as it comes, and how it ended.

What is printed faster than it is taken waits at the host: no more than a window of it is ever held here.
"""

import asyncio
import contextlib
from collections import deque
from typing import Final, NamedTuple

import asyncssh

from homed.jobs.output.order import Stream

WINDOW: Final = 512 * 1024
_ENOUGH: Final = 256 * 1024


class Piece(NamedTuple):
    stream: Stream
    data: bytes


class Session(asyncssh.SSHClientSession[bytes]):
    """`began`: the host took the session, so the command may have run. `lost`: the connection went before its end.

    `exit_code`, or else `signal` (`SIGKILL`), is set where the host said how it ended.
    """

    def __init__(self) -> None:
        self.began = False
        self.exit_code: int | None = None
        self.signal = ""
        self.ended = asyncio.Event()
        self.lost = False
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._pieces: deque[Piece] = deque()
        self._held = 0
        self._paused = False
        self._closed = False
        self._came = False
        self._wanted = False
        self._some = asyncio.Event()

    async def next(self) -> Piece | None:
        """What it printed next; None when nothing more comes."""
        self._wanted = True
        while not self._pieces and not self._closed:
            self._some.clear()
            await self._some.wait()
        self._wanted = False
        if not self._pieces:
            return None
        stream, data = self._pieces.popleft()
        together = [data]
        while self._pieces and self._pieces[0].stream is stream:
            together.append(self._pieces.popleft().data)
        taken = b"".join(together)
        self._held -= len(taken)
        if self._paused and self._held < _ENOUGH and self._channel is not None:
            self._paused = False
            self._channel.resume_reading()
        return Piece(stream, taken)

    def send(self, data: bytes) -> None:
        """All that the command gets on its standard input, unless it has ended already."""
        assert self._channel is not None
        with contextlib.suppress(BrokenPipeError):
            if data:
                self._channel.write(data)
            self._channel.write_eof()

    def kill(self, name: str) -> None:
        """Send a signal (`TERM`) to the command's process group, where the host can do that."""
        if self._channel is not None and not self._closed:
            self._channel.send_signal(name)

    def close(self) -> None:
        """Let go of it, whether or not the host answers to that."""
        if self._channel is not None:
            self._channel.abort()
        self.connection_lost(None)

    def quiet(self) -> bool:
        """Whether nothing came since this was last asked, though somebody was there to take it."""
        came, self._came = self._came, False
        return self._wanted and not came

    @property
    def told(self) -> bool:
        """Whether the host has said how the command ended."""
        return self.exit_code is not None or bool(self.signal)

    @property
    def open(self) -> bool:
        return self.began and not self._closed

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self.began = True
        self._channel = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        stream = Stream.STDERR if datatype == asyncssh.EXTENDED_DATA_STDERR else Stream.STDOUT
        self._pieces.append(Piece(stream, data))
        self._held += len(data)
        self._came = True
        if self._held >= _ENOUGH and not self._paused and self._channel is not None:
            self._paused = True
            self._channel.pause_reading()
        self._some.set()

    def eof_received(self) -> bool:
        # How it ended may come after the last of its output.
        return True

    def exit_status_received(self, status: int) -> None:
        self.exit_code = status
        self.ended.set()

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.signal = signal if signal.startswith("SIG") else f"SIG{signal}"
        self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        self.lost = not self.told
        self.ended.set()
        self._some.set()
