"""What a spawner leaves in an attempt's folder, so that the truth outlives both it and homed.

A mark is a symbolic link whose target is the text: made in one step or not at all, by one alone, and on a disk that
takes no more data it still has room.

- `started`: a spawner (boot, process, its start) has taken the attempt up; or homed has seen to it that none will.
- `process`: the job's process. Missing where it could not be started.
- `exit`: how it ended.
"""

import os
from pathlib import Path
from typing import NamedTuple

from homed.jobs.records import Result

_STARTED, _PROCESS, _EXIT = "started", "process", "exit"
_NEVER = "never"
_LONGEST = 1000


class Identity(NamedTuple):
    """A process that no other is taken for: `started` in clock ticks since the boot."""

    boot: str
    pid: int
    started: int


def take_up(folder: Path | str, spawner: Identity) -> None:
    """FileExistsError where the attempt was taken up before, or never is to be."""
    os.symlink(_text(spawner), f"{folder}/{_STARTED}")


def never(folder: Path | str) -> bool:
    """See to it that the attempt is not started any more; False where a spawner has taken it up."""
    try:
        os.symlink(_NEVER, f"{folder}/{_STARTED}")
    except FileExistsError:
        return _read(f"{folder}/{_STARTED}") == _NEVER
    return True


def taken_up_by(folder: Path | str) -> Identity | None:
    return _identity(_read(f"{folder}/{_STARTED}"))


def runs(folder: Path | str, process: Identity) -> None:
    os.symlink(_text(process), f"{folder}/{_PROCESS}")


def process(folder: Path | str) -> Identity | None:
    return _identity(_read(f"{folder}/{_PROCESS}"))


def ended(folder: Path | str, end: str) -> None:
    """`end` from `exited`, `signalled` or `refused`. OSError where it cannot be written down."""
    os.symlink(end, f"{folder}/{_EXIT}")


def end(folder: Path | str) -> str:
    """How it ended, or empty."""
    return _read(f"{folder}/{_EXIT}")


def exited(code: int) -> str:
    return f"exit {code}"


def signalled(name: str) -> str:
    return f"signal {name}"


def refused(code: str, why: str) -> str:
    """It was taken up and could not be started."""
    return f"refused {code} {why}"[:_LONGEST].replace("\0", "")


def result(end: str) -> Result:
    kind, _, rest = end.partition(" ")
    match kind:
        case "exit":
            code = int(rest)
            return Result(exit_code=code, code="EXIT" if code else "", error=f"it ended with {code}" if code else "")
        case "signal":
            return Result(signal=rest, code="SIGNAL", error=f"it was ended by {rest}")
        case _:
            code_, _, why = rest.partition(" ")
            return Result(code=code_, error=why)


def _text(identity: Identity) -> str:
    return f"{identity.boot or '-'} {identity.pid} {identity.started}"


def _identity(text: str) -> Identity | None:
    words = text.split(" ")
    if len(words) != 3 or not words[1].isdecimal() or not words[2].isdecimal():
        return None
    return Identity("" if words[0] == "-" else words[0], int(words[1]), int(words[2]))


def _read(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
