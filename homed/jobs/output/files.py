"""The files of one attempt's output: stdout and stderr as they came, bounded, and their order. All of it blocks."""

import contextlib
import logging
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from homed.jobs.output import order, text
from homed.jobs.output.order import HEAD_SIZE, RECORD_SIZE, Head, Order, Run, Stream

log = logging.getLogger(__name__)
_RESULT = struct.Struct("<8sQ")
_RESULT_MAGIC = b"homed-r1"
_TAIL = 3
# From so many changes between the streams on, only the watch puts in order what is written: its looks are few.
_MOST_RUNS = 100_000


def taken(folder: Path) -> int:
    """Bytes that a job's folder takes: all files of all attempts."""
    total = 0
    with contextlib.suppress(OSError):
        for attempt in os.scandir(folder):
            for entry in os.scandir(attempt.path):
                with contextlib.suppress(OSError):
                    # A mark is a link, which takes nothing; to look at it would take as long as all the rest.
                    total += 0 if entry.is_symlink() else entry.stat(follow_symlinks=False).st_size
    return total


class Result(NamedTuple):
    """A stream delivered as a whole at the end: bytes kept, and bytes dropped beyond the limit."""

    size: int
    dropped: int


class Files:
    """`limit` is how many bytes of each stream are kept. Its functions may be called on any thread.

    No file is held open: the folder may be removed at any moment, and then nothing more is kept.
    """

    def __init__(self, folder: Path, limit: Callable[[], int], *, fresh: bool = False):
        self._paths = tuple(f"{folder}/{stream.word}" for stream in Stream)
        self._order_path = f"{folder}/order"
        self._limit = limit
        self._lock = threading.Lock()
        self._loaded = fresh
        self._order = Order()
        self._records = 0
        self._sizes = [0, 0]
        self._results: list[Result | None] = [None, None]
        self._head = Head()
        self._written: Head | None = None
        self._failed = False

    def path(self, stream: Stream) -> Path:
        return Path(self._paths[stream])

    @property
    def loaded(self) -> bool:
        return self._loaded

    @property
    def finished(self) -> bool:
        return self._head.finished

    @property
    def total(self) -> int:
        """Bytes in order."""
        return self._order.total

    def dropped(self, stream: Stream) -> int:
        """Bytes that were not kept of what came."""
        return self._head.dropped[stream]

    def result(self, stream: Stream) -> Result | None:
        """Return the stream delivered at the end that replaces the streamed one; None if there is none."""
        self.load()
        return self._results[stream]

    def put_result(self, stream: Stream, data: bytes) -> None:
        """Store a stream that replaces the streamed one for readers; followers keep the streamed order."""
        self.load()
        kept = data[: self._limit()]
        result = Result(len(kept), len(data) - len(kept))
        with self._lock, self._tolerated("kept"):
            path = self._result_path(stream)
            with open(f"{path}.new", "wb") as file:
                file.write(_RESULT.pack(_RESULT_MAGIC, result.dropped) + kept)
                file.flush()
                os.fsync(file.fileno())
            os.replace(f"{path}.new", path)
            self._results[stream] = result

    def make(self) -> None:
        """Both files, empty. OSError."""
        for path in self._paths:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))

    def load(self) -> None:
        """What is there from earlier. Without files it is empty; an order that cannot be read is an OSError."""
        with self._lock:
            if not self._loaded:
                self._load()

    def reopen(self) -> None:
        """More may come, also where it was finished; what came while nobody looked has its place before that."""
        self.load()
        with self._lock:
            self._head = self._head._replace(finished=False)
            if self._written is not None and self._written.finished:
                self._write_head()
            self._cut(self._look())
            self._arrange(final=False)

    def look(self) -> bool:
        """Put in order what has come, and cut what is too much. Whether the files have grown."""
        self.load()
        with self._lock:
            if self._head.finished:
                return False
            before = tuple(self._sizes)
            sizes = self._look()
            if sizes == before:
                return False
            self._cut(sizes)
            self._arrange(final=False)
            return True

    def append(self, stream: Stream, data: bytes) -> None:
        """Keep what there is room for; the rest, and what the disk does not take, is counted as dropped."""
        self.load()
        with self._lock:
            if self._head.finished:
                return
            size = self._look()[stream]
            room = max(0, self._limit() - size)
            kept = self._write(stream, data[:room]) if room else 0
            if kept < len(data):
                self._drop(stream, len(data) - kept)
            if self._order.runs < _MOST_RUNS:
                self._sizes[stream] = size + kept
                self._arrange(final=False)

    def finish(self) -> None:
        """Nothing more comes: all that is there is in order afterwards, also where that cannot be written down."""
        self.load()
        with self._lock:
            if self._head.finished:
                return
            self._cut(self._look())
            self._arrange(final=True)
            self._head = self._head._replace(finished=True)
            if self._records or any(self._head.dropped):
                self._write_head()

    def read(self, stream: Stream, start: int, most: int) -> bytes:
        """The bytes of one stream as they are on the disk, in order or not yet; of its result if there is one."""
        most = min(most, self.size(stream) - start)
        if most <= 0:
            return b""
        if self._results[stream] is not None:
            return self._pread(self._result_path(stream), most, _RESULT.size + start)
        return self._read(Run(stream, start, most))

    def size(self, stream: Stream) -> int:
        """Bytes kept of a stream."""
        result = self.result(stream)
        return self.came(stream) if result is None else result.size

    def came(self, stream: Stream) -> int:
        """Bytes kept of what came."""
        self.load()
        if self._head.finished:
            return self._order.lengths[stream]
        with contextlib.suppress(OSError):
            # What is past the limit is about to be cut.
            return min(os.stat(self._paths[stream]).st_size, max(self._limit(), self._order.lengths[stream]))
        return 0

    def run_at(self, position: int) -> Run | None:
        with self._lock:
            return self._order.at(position)

    def piece(self, position: int, most: int) -> tuple[Run, bytes] | None:
        """What stands at a position in order, at most `most` bytes, without half a character at its end."""
        run = self.run_at(position)
        if run is None:
            return None
        wanted = min(run.length, most)
        data = self._read(run._replace(length=wanted))
        if len(data) < wanted:
            # The file was made shorter by somebody else: what is gone keeps its place.
            return run._replace(length=wanted), data
        if wanted < run.length and (part := text.incomplete(data)) < wanted:
            data = data[: wanted - part]
        return run._replace(length=len(data)), data

    def rest(self) -> list[Run]:
        """What is on the disk and not in order yet: it would stand so, if nothing more came."""
        sizes = [self.came(stream) for stream in Stream]
        with self._lock:
            lengths = list(self._order.lengths)
        return [Run(stream, lengths[stream], sizes[stream] - lengths[stream]) for stream in Stream]

    def _load(self) -> None:
        self._results = [self._load_result(stream) for stream in Stream]
        self._sizes = list(self._look())
        data = b""
        with contextlib.suppress(FileNotFoundError):
            data = Path(self._order_path).read_bytes()
        kept = order.decode(data)
        records = order.within(kept.records, self._sizes)
        self._head = kept.head
        # A torn one is written again, before the first record.
        self._written = kept.head if data.startswith(order.encode_head(kept.head)) else None
        self._order, self._records = Order(records), len(records)
        # Not looked at yet: what came meanwhile is put in order with the next look.
        self._sizes = list(self._order.lengths)
        self._loaded = True
        if self._head.finished:
            # A full disk kept the last records from being written: they can only have been these.
            self._sizes = [min(size, self._limit()) for size in self._look()]
            self._arrange(final=True)

    def _load_result(self, stream: Stream) -> Result | None:
        with contextlib.suppress(OSError):
            path = self._result_path(stream)
            head = self._pread(path, _RESULT.size, 0)
            if head.startswith(_RESULT_MAGIC) and len(head) == _RESULT.size:
                return Result(os.stat(path).st_size - _RESULT.size, _RESULT.unpack(head)[1])
        return None

    def _result_path(self, stream: Stream) -> str:
        return f"{self._paths[stream]}.result"

    def _look(self) -> tuple[int, int]:
        """The sizes of both; a file that is gone has not changed."""
        found = list(self._sizes)
        for stream in Stream:
            with contextlib.suppress(OSError):
                found[stream] = os.stat(self._paths[stream]).st_size
        return found[0], found[1]

    def _cut(self, sizes: tuple[int, int]) -> None:
        """Bytes past the limit go, but none that are in order. What is written between look and cut is not counted."""
        for stream in Stream:
            most = max(self._limit(), self._order.lengths[stream])
            self._sizes[stream] = min(sizes[stream], most)
            if sizes[stream] > most:
                self._drop(stream, sizes[stream] - most)
                with self._tolerated("cut"):
                    os.truncate(self._paths[stream], most)

    def _drop(self, stream: Stream, count: int) -> None:
        dropped = list(self._head.dropped)
        dropped[stream] += count
        self._head = self._head._replace(dropped=(dropped[0], dropped[1]))
        self._write_head()

    def _arrange(self, *, final: bool) -> None:
        """Give what has come its place: stdout's first. A character that is not whole waits for its rest."""
        fresh: list[tuple[Stream, int]] = []
        for stream in Stream:
            known = self._order.lengths[stream]
            length = self._sizes[stream] - known
            if length > 0 and not final:
                tail = self._read(Run(stream, known + max(0, length - _TAIL), min(length, _TAIL)))
                length -= text.incomplete(tail)
            if length > 0:
                fresh.append((stream, length))
        if not fresh or not (self._write_records(fresh) or final):
            return
        for stream, length in fresh:
            self._order.add(stream, length)

    def _write_records(self, records: list[tuple[Stream, int]]) -> bool:
        """Whether they are kept: what is not keeps no place, and is given one later."""
        if self._written is None and not self._write_head():
            return False
        data = b"".join(order.encode(stream, length) for stream, length in records)
        if not self._write_at(HEAD_SIZE + self._records * RECORD_SIZE, data):
            return False
        self._records += len(records)
        return True

    def _write_head(self) -> bool:
        if self._write_at(0, order.encode_head(self._head)):
            self._written = self._head
            return True
        return False

    def _write_at(self, offset: int, data: bytes) -> bool:
        """A place of its own for each record: half of one is written over by the next try."""
        with self._tolerated("put in order"):
            file = os.open(self._order_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.pwrite(file, data, offset) == len(data):
                    return True
                os.ftruncate(file, offset)
            finally:
                os.close(file)
        return False

    def _write(self, stream: Stream, data: bytes) -> int:
        """How many bytes the disk took."""
        done = 0
        with self._tolerated("kept"):
            file = os.open(self._paths[stream], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                while done < len(data):
                    done += os.write(file, data[done:])
            finally:
                os.close(file)
        return done

    def _read(self, run: Run) -> bytes:
        return self._pread(self._paths[run.stream], run.length, run.start)

    def _pread(self, path: str, length: int, start: int) -> bytes:
        """Read at an offset; return fewer bytes if the file is missing or shorter."""
        with contextlib.suppress(OSError):
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(file, length, start)
            finally:
                os.close(file)
        return b""

    @contextlib.contextmanager
    def _tolerated(self, what: str) -> Iterator[None]:
        """Output that cannot be kept is no reason for its job to fail; it is said once."""
        try:
            yield
        except OSError as error:
            if not self._failed:
                log.warning("Output in %s cannot be %s: %s", os.path.dirname(self._order_path), what, error.strerror)
            self._failed = True
