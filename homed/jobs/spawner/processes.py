"""The processes of a job, wherever they have gone: its session, its descendants, and whatever bears its id."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

_PROC = "/proc"
_GRACE: Final = 1.5
_MOST_ROUNDS: Final = 50
_GONE: Final = ("Z", "X")


class Process(NamedTuple):
    """As /proc/PID/stat has it; `started` in clock ticks since the boot."""

    pid: int
    state: str
    parent: int
    session: int
    started: int

    @property
    def alive(self) -> bool:
        return self.state not in _GONE


class Tracked(NamedTuple):
    """A job by what its processes are known by. `pid` leads its session; 0 where that is not known."""

    id: str
    attempt: int
    pid: int
    started: int


def look(pid: int) -> Process | None:
    try:
        with open(f"{_PROC}/{pid}/stat", "rb", buffering=0) as file:
            words = file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return None
    if len(words) < 20:
        return None
    return Process(pid, words[0].decode(), int(words[1]), int(words[3]), int(words[19]))


def is_alive(pid: int, started: int) -> bool:
    """Whether this very process runs: a number is given again."""
    process = look(pid)
    return process is not None and process.alive and process.started == started


def all_processes() -> dict[int, Process]:
    numbers = (int(name) for name in os.listdir(_PROC) if name.isdecimal())
    return {pid: process for pid in numbers if (process := look(pid)) is not None}


def mark_of(pid: int) -> tuple[str, str]:
    """The job's id and the attempt that a process was given, each empty where it has none or none can be read."""
    try:
        words = Path(_PROC, str(pid), "environ").read_bytes().split(b"\0")
    except OSError:
        return "", ""
    known = {name: value.decode(errors="replace") for name, _, value in (word.partition(b"=") for word in words)}
    return known.get(b"HOMED_JOB_ID", ""), known.get(b"HOMED_JOB_ATTEMPT", "")


def members(job: Tracked, processes: Mapping[int, Process]) -> list[Process]:
    """Those of the job that live."""
    leader = processes.get(job.pid)
    # Where its number belongs to another process now, no session of that number is the job's.
    ours = job.pid != 0 and (leader is None or leader.started == job.started)
    mark = job.id, str(job.attempt)
    found: dict[int, Process] = {}
    for process in processes.values():
        if process.started < job.started or process.pid == os.getpid():
            continue
        in_session = ours and (process.pid == job.pid or process.session == job.pid)
        if in_session or (process.alive and mark_of(process.pid) == mark):
            found[process.pid] = process
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    to_see = list(found.values())
    while to_see:
        for child in children.get(to_see.pop().pid, ()):
            if child.pid not in found:
                found[child.pid] = child
                to_see.append(child)
    return [process for process in found.values() if process.alive]


def send(process: Process, *signals: signal.Signals) -> None:
    """To this very process, or to none."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        current = look(process.pid)
        if current is not None and current.started == process.started:
            for number in signals:
                signal.pidfd_send_signal(descriptor, number)
    except (ProcessLookupError, PermissionError):
        return  # it is gone, or has become another user's: the next look finds it, if it is there still
    finally:
        os.close(descriptor)


class Ending:
    """Brings a job's processes to their end: TERM first, KILL for what is there 1.5 s later. `now` is monotonic."""

    def __init__(self, job: Tracked, now: float):
        self._job = job
        self._until = now + _GRACE
        self._told: set[tuple[int, int]] = set()

    def step(self, now: float) -> bool:
        """To be called again, every 20 ms or so, until it says that all of them are gone."""
        found = members(self._job, all_processes())
        if not found:
            return True
        if now >= self._until:
            self._kill()
            return not members(self._job, all_processes())
        for process in found:
            if (process.pid, process.started) not in self._told:
                self._told.add((process.pid, process.started))
                send(process, signal.SIGTERM, signal.SIGCONT)
        return False

    def _kill(self) -> None:
        """All are stopped before the first is killed: none can make another meanwhile."""
        stopped: dict[tuple[int, int], Process] = {}
        for _ in range(_MOST_ROUNDS):
            fresh = [p for p in members(self._job, all_processes()) if (p.pid, p.started) not in stopped]
            if not fresh:
                break
            for process in fresh:
                stopped[process.pid, process.started] = process
                send(process, signal.SIGSTOP)
        for process in stopped.values():
            send(process, signal.SIGKILL)
