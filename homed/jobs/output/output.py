"""The output of one attempt: written or watched, read, and followed by any number at once."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple, TypeVar

from homed.errors import JobError
from homed.jobs.output import text
from homed.jobs.output.files import Files, taken
from homed.jobs.output.order import Run, Stream
from homed.jobs.output.signals import Signal

PIECE = 8 * 1024  # an event holds it twice, and a byte that is no text takes three
_MOST_HELD = 32
_AHEAD = 4
_ALL = 1 << 56
_CHUNK = 32 * 1024  # held for each reader of a log; up to six times as much when escaped in JSON
_TAIL = 4  # bytes in which a character ends that began before
_T = TypeVar("_T")


class Piece(NamedTuple):
    """Text of one stream, in its place: `position_after` is where the next one begins."""

    stream: Stream
    text: str
    position_after: int


class Output:
    """`attend` is told when it is written to, is followed, is so no longer, or has ended. A job may have `path(stream)`
    open with O_APPEND: what it writes there is seen by the watch (`Outputs.run`).

    Its coroutines are for the event loop; `read`, `excerpt` and `combined` block, and are for a thread.
    """

    def __init__(self, folder: Path, files: Files, pool: Executor, attend: Callable[["Output"], None]):
        self.folder = folder
        self.files = files
        self._pool = pool
        self._attend = attend
        self.written = False
        self._listeners: list[Callable[[], None]] = []
        self._pieces: dict[int, asyncio.Future[Piece]] = {}

    def path(self, stream: Stream) -> Path:
        return self.files.path(stream)

    @property
    def finished(self) -> bool:
        return self.files.finished

    @property
    def followed(self) -> bool:
        return bool(self._listeners)

    @property
    def size(self) -> int:
        """Bytes kept of both streams."""
        return sum(self.files.size(stream) for stream in Stream)

    @property
    def end(self) -> int:
        """The position after all that can be followed now."""
        return self.files.total + len(self._marks())

    def dropped(self, stream: Stream) -> int:
        """Bytes that were not kept. What a job writes while its file is being cut is not counted."""
        result = self.files.result(stream)
        return self.files.dropped(stream) if result is None else result.dropped

    @property
    def has_result(self) -> bool:
        """True if a stream was delivered as a whole at the end: readers get that, followers the streamed one."""
        return any(self.files.result(stream) is not None for stream in Stream)

    @property
    def text_end(self) -> int:
        """The end position of `combined`."""
        return self.size if self.has_result else self.end

    async def put_result(self, stream: Stream, data: bytes) -> None:
        """Replace a stream by `data` for readers; followers are not notified."""
        await self._run(self.files.put_result, stream, data)

    async def write(self, stream: Stream, data: bytes) -> None:
        """Kept and in order when it returns, as far as there is room for it. It fails never: see `dropped`."""
        if not self.written:
            self.written = True
            self._attend(self)
        before = self.end
        await self._run(self.files.append, stream, data)
        await self.tell(before)

    async def finish(self) -> int:
        """Nothing more comes: the rest is put in order, and who follows comes to the end. Returns how many bytes all of
        the job takes.
        """
        before, was_finished = self.end, self.finished
        size = await self._run(self._finish)
        if not was_finished:
            self._attend(self)
            await self.tell(before)
        return size

    def _finish(self) -> int:
        self.files.finish()
        return taken(self.folder.parent)

    async def load(self) -> None:
        """Know what an earlier homed has left. JobError."""
        if self.files.loaded:
            return
        try:
            await self._run(self.files.load)
        except OSError as error:
            raise JobError(f"the job's output cannot be read: {error.strerror}") from error

    def read(self, stream: Stream, start: int = 0, most: int = _ALL) -> bytes:
        """Blocking. Byte for byte, as far as it was kept."""
        return self.files.read(stream, start, most)

    def excerpt(self, stream: Stream, most: int) -> str:
        """Blocking. All of a stream, or its beginning and its end: about `most` bytes. What was dropped is said."""
        size = self.files.size(stream)
        if size <= most:
            shown = text.decode(self.files.read(stream, 0, size))
        else:
            half = most // 2
            head, tail = self.files.read(stream, 0, half), self.files.read(stream, size - half, half)
            shown = text.joined(head, size - len(head) - len(tail), tail)
        dropped = self.dropped(stream)
        return shown + text.cut_mark(stream, dropped) if dropped else shown

    def combined(self, start: int = 0, most: int = _ALL) -> str:
        """Blocking. Both streams in order, from a position on, about `most` bytes; standard output first if the job
        gave them whole at its end, since nobody knows their order then.
        """
        return "".join(self.texts(start, most))

    def texts(self, start: int = 0, most: int = _ALL) -> Iterator[str]:
        """Blocking. The same, in pieces that are not large."""
        self.files.load()
        if self.has_result:
            yield from self._result_texts(start, most)
            return
        left = most
        is_inside = start > 0
        while left > 0 and (found := self.files.piece(start, min(left, _CHUNK))) is not None:
            run, data = found
            yield text.decode(data[text.began_before(data) :] if is_inside else data)
            is_inside = False
            start += run.length
            left -= run.length
        for rest in self.files.rest():
            part = rest._replace(length=min(left, rest.length))
            left -= max(0, part.length)
            yield from self._rest(part)
        if left > 0:
            yield from (mark for _, mark in self._marks())

    def _result_texts(self, start: int, most: int) -> Iterator[str]:
        for stream in Stream:
            size = self.files.size(stream)
            at, end = min(start, size), min(start + most, size)
            if at < end:
                skipped = text.began_before(self.files.read(stream, at, _TAIL)) if at else 0
                yield from self._rest(Run(stream, at + skipped, end - at - skipped))
            start, most = max(0, start - size), most - (end - at)
            if most > 0 and (dropped := self.dropped(stream)):
                yield text.cut_mark(stream, dropped)

    def _rest(self, run: Run) -> Iterator[str]:
        at, end = run.start, run.start + run.length
        while at < end and (data := self.files.read(run.stream, at, min(_CHUNK, end - at))):
            if at + len(data) < end:
                data = data[: len(data) - text.incomplete(data)]
            at += len(data)
            yield text.decode(data)

    async def follow(self, position: int = 0) -> AsyncGenerator[Piece, None]:
        """What comes, from a position on, until it is finished. Who is slow holds up nobody, and misses nothing."""
        await self.load()
        changed = Signal()
        self.listen(changed.tell)
        try:
            while True:
                while position < self.end:
                    piece = await self.piece(position)
                    position = piece.position_after
                    yield piece
                if self.finished:
                    return
                await changed.wait()
        finally:
            self.unlisten(changed.tell)

    def listen(self, listener: Callable[[], None]) -> None:
        """Have it called each time that there is more, or the end. It is watched more closely meanwhile."""
        self._listeners.append(listener)
        self._attend(self)

    def unlisten(self, listener: Callable[[], None]) -> None:
        self._listeners.remove(listener)
        self._attend(self)
        if not self._listeners:
            self._pieces.clear()

    async def piece(self, position: int) -> Piece:
        """The piece at a position before `end`: read once for all that are there."""
        future = self._pieces.get(position)
        if future is None or (future.done() and not _is_good(future)):
            marks = self._marks()
            if position >= self.files.total:
                stream, mark = marks[position - self.files.total]
                return Piece(stream, mark, position + 1)
            future = self._run(self._read_piece, position)
            while len(self._pieces) >= _MOST_HELD:
                del self._pieces[next(iter(self._pieces))]
            self._pieces[position] = future
        if future.done():
            return future.result()
        return await asyncio.shield(future)

    async def tell(self, before: int) -> None:
        """What came after the position `before` is read for all who wait for it, and they are woken."""
        if not self._listeners:
            return
        for _ in range(_AHEAD):
            if before >= self.files.total:
                break
            before = (await self.piece(before)).position_after
        for listener in list(self._listeners):
            listener()

    def _read_piece(self, position: int) -> Piece:
        found = self.files.piece(position, PIECE)
        assert found is not None, "it is asked for what is in order only"
        run, data = found
        return Piece(run.stream, text.decode(data), position + run.length)

    def _marks(self) -> list[tuple[Stream, str]]:
        if not self.finished:
            return []
        return [(stream, text.cut_mark(stream, count)) for stream in Stream if (count := self.files.dropped(stream))]

    def _run(self, work: Callable[..., _T], *arguments: object) -> "asyncio.Future[_T]":
        return asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)


def _is_good(future: "asyncio.Future[Piece]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
