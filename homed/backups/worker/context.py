"""What every function of the worker gets: where it tells how far it is, and where it hears that it is to stop."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from homed.backups.records import Progress

_BETWEEN = 0.25
_PATIENCE = 5.0


class Stopped(Exception):
    """The operation was cancelled, or homed is gone: nothing is to be left half done."""


class Watch(Protocol):
    def phase(self, name: str, *, total: int | None = None, service: str | None = None) -> None:
        """A new part of the work begins, of `total` bytes; said again with the same name it goes on."""
        ...

    def advance(self, *, bytes: int = 0, files: int = 0) -> None: ...

    def warn(self, message: str) -> None: ...

    def check(self) -> None:
        """Stopped where it was cancelled."""
        ...

    def run(self, process: "subprocess.Popen[bytes]") -> AbstractContextManager["subprocess.Popen[bytes]"]:
        """The process is ended where the operation is cancelled, or the block is left while it runs."""
        ...


class Context:
    """A Watch that tells by `tell` and `warned`, not more often than anybody can look. Of any thread."""

    def __init__(self, tell: Callable[[Progress], None], warned: Callable[[str], None]):
        self._tell = tell
        self._warned = warned
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._shielded = 0
        self._children: set[subprocess.Popen[bytes]] = set()
        self._progress = Progress()
        self._bytes = self._files = 0
        self._started = self._told_at = time.monotonic()

    def phase(self, name: str, *, total: int | None = None, service: str | None = None) -> None:
        if name == self._progress.phase:
            self._progress = msgspec.structs.replace(self._progress, service=service)
        else:
            self._bytes = self._files = 0
            self._started = time.monotonic()
            self._progress = Progress(phase=name, bytes_total=total or None, service=service)
        self._say()

    def advance(self, *, bytes: int = 0, files: int = 0) -> None:
        self._bytes += bytes
        self._files += files
        if time.monotonic() - self._told_at >= _BETWEEN:
            self._say()

    def warn(self, message: str) -> None:
        self._warned(message)

    def check(self) -> None:
        if self._stopped.is_set() and not self._shielded:
            raise Stopped

    @contextlib.contextmanager
    def run(self, process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
        with self._lock:
            self._children.add(process)
        try:
            self.check()  # it may have been cancelled before the process was known
            yield process
        finally:
            with self._lock:
                self._children.discard(process)
            _end(process)

    def stop(self) -> None:
        """From another thread: end the children, and have the next `check` raise."""
        self._stopped.set()
        with self._lock:
            children = [] if self._shielded else list(self._children)
        for child in children:
            child.kill()

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """What must not be stopped half way: a cancellation is heard of after it."""
        self.check()
        self._shielded += 1
        try:
            yield
        finally:
            self._shielded -= 1

    def _say(self) -> None:
        self._told_at = time.monotonic()
        total = self._progress.bytes_total
        percent = remaining = None
        if total:
            percent = round(min(100.0, 100 * self._bytes / total), 1)
            spent = self._told_at - self._started
            if self._bytes and spent > 1:
                remaining = round(max(0.0, spent * (total - self._bytes) / self._bytes), 1)
        self._progress = msgspec.structs.replace(
            self._progress, bytes=self._bytes, files=self._files, percent=percent, remaining=remaining
        )
        self._tell(self._progress)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """By kill: what the worker's children write is thrown away where they have not ended by themselves."""
    if process.poll() is None:
        process.kill()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE)
