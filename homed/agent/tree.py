"""The processes of a job, and their end: those of its session, and those that left it but still carry its mark."""

import asyncio
import os
import signal
import time
from contextlib import suppress

MARK = "HOMED_WORKER_RUN"
_TERM, _KILL, _LOOK = 1.0, 2.0, 0.02


def members(mark: str, session: int | None = None) -> list[int]:
    """Those that are no zombies. Blocking."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError, ValueError, IndexError):
                state, its_session = _state(name)
                if state not in "ZX" and (its_session == session or wanted in _environment(name)):
                    found.append(int(name))
    return found


def _state(pid: str) -> tuple[str, int]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[3])


def _environment(pid: str) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except PermissionError:
        return []


def _end(mark: str, session: int | None) -> bool:
    """TERM, then KILL; whether none is left. Blocking, for at most `_KILL` seconds."""
    began = time.monotonic()
    told: set[int] = set()
    while pids := members(mark, session):
        passed = time.monotonic() - began
        if passed > _KILL:
            return False
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                if passed > _TERM:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in told:
                    os.kill(pid, signal.SIGTERM)
                    os.kill(pid, signal.SIGCONT)  # what is stopped would not hear of it
        told.update(pids)
        time.sleep(_LOOK)
    return True


async def end(mark: str, session: int | None = None) -> bool:
    """End all of them. Whether none is left."""
    return await asyncio.to_thread(_end, mark, session)
