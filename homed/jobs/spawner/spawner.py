"""The spawner: starts what homed asks for, waits for it, and marks how it ended before it tells homed."""

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from homed.jobs.spawner import marks
from homed.jobs.spawner.marks import Identity
from homed.jobs.spawner.messages import Begun, Ended, Frames, Said, Start, frame
from homed.jobs.spawner.processes import Ending, Process, Tracked, all_processes, look, mark_of, members, send
from homed.jobs.spawner.spawning import clear, spawn

_AT_ONCE: Final = 1 << 18
_SOON, _NOW_AND_THEN = 0.02, 1.0


class Running(NamedTuple):
    start: Start
    tracked: Tracked


class Left(NamedTuple):
    """A job whose first process has ended, and others of it have not."""

    job: Running
    end: str
    ending: Ending


class Spawner:
    """One thread, and nothing that waits. It goes on without homed until its last job has ended."""

    def __init__(self, homed: socket.socket, boot: str):
        self._homed: socket.socket | None = homed
        own = look(os.getpid())
        self._own = Identity(boot, os.getpid(), own.started if own else 0)
        self._frames = Frames(msgspec.msgpack.Decoder(Start))
        self._selector = selectors.DefaultSelector()
        self._running: dict[int, Running] = {}
        self._left: list[Left] = []
        self._unmarked: list[tuple[str, str]] = []
        self._strangers: set[int] = set()
        self._outbox = bytearray()
        self._writing = False

    def run(self) -> None:
        assert self._homed is not None
        woken, wakes = socket.socketpair()
        woken.setblocking(False)
        wakes.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._homed.setblocking(False)
        self._selector.register(self._homed, selectors.EVENT_READ)
        self._selector.register(woken, selectors.EVENT_READ)
        while self._homed is not None or self._running or self._left or self._strangers or self._unmarked:
            for key, events in self._selector.select(self._timeout()):
                if key.fileobj is woken:
                    with contextlib.suppress(BlockingIOError):
                        woken.recv(_AT_ONCE)
                elif events & selectors.EVENT_READ:
                    self._listen()
            self._reap()
            self._bring_to_end()
            self._mark_again()
            self._flush()

    def _timeout(self) -> float | None:
        if self._left:
            return _SOON
        return _NOW_AND_THEN if self._strangers or self._unmarked else None

    def _listen(self) -> None:
        if self._homed is None:
            return
        try:
            data = self._homed.recv(_AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._part()
            return
        for start in self._frames.feed(data):
            self._start(start)

    def _part(self) -> None:
        if self._homed is not None:
            self._selector.unregister(self._homed)
            self._homed.close()
            self._homed = None

    def _start(self, start: Start) -> None:
        try:
            marks.take_up(start.folder, self._own)
        except OSError as error:
            # Not this one's to say how it ended: it may be another's.
            self._say(Ended(start.key, marks.refused("JOB_NOT_STARTED", _said(error)), left=True))
            return
        try:
            pid = spawn(start)
        except (OSError, ValueError) as error:
            self._finish(start, marks.refused("JOB_NOT_STARTED", _said(error)))
            return
        process = look(pid)
        identity = Identity(self._own.boot, pid, process.started if process else 0)
        with contextlib.suppress(OSError):
            # Without it, it is found by the id that its processes bear.
            marks.runs(start.folder, identity)
        self._running[pid] = Running(start, Tracked(start.id, start.attempt, pid, identity.started))
        self._say(Begun(start.key, pid, identity.started))

    def _reap(self) -> None:
        ended: list[tuple[Running, str]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._strangers.discard(pid)
            job = self._running.pop(pid, None)
            if job is not None:
                ended.append((job, _end(status)))
        if not ended and not self._strangers:
            return
        strangers = self._children() - self._running.keys()
        for job, end in ended:
            if (strangers or _has_group(job.tracked.pid)) and members(job.tracked, all_processes()):
                self._left.append(Left(job, end, Ending(job.tracked, time.monotonic())))
            else:
                self._finish(job.start, end)
        self._strangers = strangers
        self._end_strangers()

    def _children(self) -> set[int]:
        """Besides the jobs' first processes: those whose parents are gone."""
        pid = os.getpid()
        try:
            return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_bytes().split()}
        except OSError:
            return {process.pid for process in all_processes().values() if process.parent == pid}

    def _end_strangers(self) -> None:
        """Those that no job is left for: each is of a job that began before it."""
        jobs = [job.tracked for job in (*self._running.values(), *(left.job for left in self._left))]
        for pid in self._strangers:
            process = look(pid)
            if process is not None and process.alive and not any(_may_be_of(process, job) for job in jobs):
                send(process, signal.SIGKILL)

    def _bring_to_end(self) -> None:
        for left in tuple(self._left):
            if left.ending.step(time.monotonic()):
                self._left.remove(left)
                self._finish(left.job.start, left.end)

    def _finish(self, start: Start, end: str) -> None:
        try:
            marks.ended(start.folder, end)
        except OSError:
            self._unmarked.append((start.folder, end))
        self._say(Ended(start.key, end, left=not clear(start)))

    def _mark_again(self) -> None:
        """As long as its folder is there: a disk that was full may have room by now."""
        for folder, end in tuple(self._unmarked):
            with contextlib.suppress(OSError):
                if os.path.isdir(folder) and not marks.end(folder):
                    marks.ended(folder, end)
                self._unmarked.remove((folder, end))

    def _say(self, message: Said) -> None:
        if self._homed is not None:
            self._outbox += frame(message)

    def _flush(self) -> None:
        if self._homed is None:
            return
        try:
            if self._outbox:
                del self._outbox[: self._homed.send(self._outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self._part()
            return
        if bool(self._outbox) != self._writing:
            self._writing = not self._writing
            write = selectors.EVENT_WRITE if self._writing else 0
            self._selector.modify(self._homed, selectors.EVENT_READ | write)


def _may_be_of(process: Process, job: Tracked) -> bool:
    """By its session or its mark; where it bears none, by its age."""
    if process.session == job.pid:
        return True
    id, attempt = mark_of(process.pid)
    if id:
        return (id, attempt) == (job.id, str(job.attempt))
    return process.started >= job.started


def _has_group(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _end(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return marks.exited(code)
    try:
        return marks.signalled(signal.Signals(-code).name)
    except ValueError:
        return marks.signalled(f"SIG{-code}")  # a real-time signal


def _said(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def main(descriptor: int, boot: str) -> int:
    """`descriptor` is of a socket to homed. The spawner is a child of nobody who would have to wait for it."""
    if os.fork() != 0:
        return 0
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        # What it waits for is to be known, whoever is told to end.
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o022)
    os.chdir("/")
    _adopt_orphans()
    with socket.socket(fileno=descriptor) as homed:
        os.set_inheritable(homed.fileno(), False)
        Spawner(homed, boot).run()
    return 0


def _adopt_orphans() -> None:
    import ctypes  # takes as long to import as all the rest

    PR_SET_CHILD_SUBREAPER = 36
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        print("homed: processes that leave a job are not all found here", file=sys.stderr)
