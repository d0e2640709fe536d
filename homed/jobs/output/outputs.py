"""All outputs: made, found again, removed, and watched while jobs write to their files."""

import asyncio
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from homed.jobs import removal
from homed.jobs.output.files import Files, taken
from homed.jobs.output.output import Output

log = logging.getLogger(__name__)
_THREADS = 4
_OFTEN = 0.05
_SELDOM = 0.5
_YOUNG = 1.0
_MODE = 0o700


class Outputs:
    """`root` has a folder for each job, and in it one for each attempt. `limit` is how many bytes of a stream are kept.

    `create`, `remove`, `sweep` and `size` block, and may be called on any thread; `run` is the watch.
    """

    def __init__(self, root: Path, limit: Callable[[], int]):
        self._root = root
        self._limit = limit
        self._pool = ThreadPoolExecutor(_THREADS, "output")
        self._lock = threading.Lock()
        self._known: weakref.WeakValueDictionary[tuple[str, int], Output] = weakref.WeakValueDictionary()
        # Those that homed has made and not finished, and those that are followed.
        self._active: dict[tuple[str, int], Output] = {}
        self._watched: set[Output] = set()
        self._grown: set[Output] = set()
        self._young: dict[tuple[str, int], float] = {}
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def create(self, id: str, attempt: int) -> Output:
        """For an attempt that writes, also one that an earlier homed began: what there is stays. OSError."""
        folder = self._folder(id, attempt)
        fresh = _make_folder(folder)
        with self._lock:
            output = self._known.get((id, attempt)) or self._open(id, attempt, fresh=fresh)
            self._active[id, attempt] = output
            self._young[id, attempt] = time.monotonic() + _YOUNG
        output.files.make()
        if not fresh:
            output.files.reopen()
        self._wake()
        return output

    def find(self, id: str, attempt: int) -> Output | None:
        """None where nothing was kept of it."""
        with self._lock:
            output = self._known.get((id, attempt))
            if output is None and self._folder(id, attempt).is_dir():
                output = self._open(id, attempt)
            return output

    def remove(self, id: str) -> None:
        """Everything of a job, from the disk too."""
        with self._lock:
            for key in [key for key in self._active if key[0] == id]:
                del self._active[key]
            for key in [key for key in self._known if key[0] == id]:
                self._known.pop(key, None)
        removal.remove(self._root / id)

    def sweep(self, known: Callable[[str], bool]) -> list[str]:
        """Remove what no job is known for. Returns its ids."""
        with contextlib.suppress(FileNotFoundError):
            gone = [name for name in os.listdir(self._root) if not known(name)]
            for id in gone:
                self.remove(id)
            return gone
        return []

    def size(self, id: str) -> int:
        """Bytes that a job's output and what else lies beside it take, of all attempts."""
        return taken(self._root / id)

    async def run(self) -> None:
        """See what jobs write: soon where one is new, or writes, or is followed; else each half second. What comes
        between two looks may be more than is kept, until it is cut.
        """
        self._loop = asyncio.get_running_loop()
        seldom = 0.0
        while True:
            self._woken.clear()
            if not self._active and not self._watched:
                await self._woken.wait()
            is_time_for_all = self._loop.time() >= seldom
            if is_time_for_all:
                seldom = self._loop.time() + _SELDOM
            await self._look(self._due(everything=is_time_for_all))
            await asyncio.sleep(_OFTEN)
            if not (self._watched or self._grown or self._young):
                await self._pause(seldom - self._loop.time())

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _look(self, outputs: Sequence[Output]) -> None:
        if not outputs:
            return
        before = [output.end if output.files.loaded else None for output in outputs]
        loop = asyncio.get_running_loop()
        grown = await loop.run_in_executor(self._pool, _look_at_all, [output.files for output in outputs])
        for output, position, has_grown in zip(outputs, before, grown, strict=True):
            if has_grown:
                self._grown.add(output)
                await output.tell(output.end if position is None else position)

    def _due(self, *, everything: bool) -> list[Output]:
        """Those that are followed, that have just grown, and that were made just now: these begin with much, or end
        soon.
        """
        at = time.monotonic()
        due = self._watched | self._grown
        self._grown.clear()
        with self._lock:
            self._young = {key: until for key, until in self._young.items() if until > at and key in self._active}
            due.update(self._active.values() if everything else [self._active[key] for key in self._young])
        return [output for output in due if not output.finished]

    async def _pause(self, seconds: float) -> None:
        """Shorter where something new wants to be watched."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    def _attend(self, output: Output) -> None:
        """It is written to, is followed, is so no longer, or has ended."""
        key = output.folder.parent.name, int(output.folder.name)
        with self._lock:
            if output.finished:
                if self._active.get(key) is output:
                    del self._active[key]
            elif output.written:
                self._active.setdefault(key, output)
        if output.finished or not output.followed:
            self._watched.discard(output)
        elif output not in self._watched:
            self._watched.add(output)
            self._woken.set()

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None and not self._woken.is_set():
            with contextlib.suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(self._woken.set)

    def _open(self, id: str, attempt: int, *, fresh: bool = False) -> Output:
        folder = self._folder(id, attempt)
        output = Output(folder, Files(folder, self._limit, fresh=fresh), self._pool, self._attend)
        self._known[id, attempt] = output
        return output

    def _folder(self, id: str, attempt: int) -> Path:
        return self._root / id / str(attempt)


def _make_folder(folder: Path) -> bool:
    """Whether it is new."""
    with contextlib.suppress(FileExistsError):
        folder.parent.mkdir(_MODE, parents=True)
    try:
        os.mkdir(folder, _MODE)
    except FileExistsError:
        return False
    return True


def _look_at_all(files: Sequence[Files]) -> list[bool]:
    return [_look_at(one) for one in files]


def _look_at(files: Files) -> bool:
    """Nothing of one output keeps the others from being looked at."""
    try:
        return files.look()
    except OSError as error:
        log.warning("Output cannot be looked at: %s", error)
        return False
