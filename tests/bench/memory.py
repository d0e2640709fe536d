"""The memory of homed and of what it starts, looked at while they run."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_BETWEEN: Final = 0.05
_WORKER: Final = "backup-worker"
_PROC: Final = Path("/proc")


class Peaks:
    """MB of PSS, at most at any moment: `own` of homed and its worker together, of which `homed` is then homed's part.

    `others` are the programs beside them, by name.
    """

    def __init__(self) -> None:
        self.own = self.homed = 0.0
        self.others: dict[str, float] = {}

    def look(self, homed: int) -> None:
        part = own = pss(homed)
        others: dict[str, float] = {}
        for pid, parent in _descendants(homed):
            size, words = pss(pid), _words(pid)
            if _WORKER in words:
                # One of its own that is about to be another program shares all that the worker has.
                own += size if parent == homed else 0.0
            elif words[0]:
                name = "sealing" if "homed.backups.archive.age" in words else Path(words[0]).name
                others[name] = others.get(name, 0.0) + size
        if own > self.own:
            self.own, self.homed = own, part
        for name, size in others.items():
            self.others[name] = max(self.others.get(name, 0.0), size)


@contextmanager
def watched(homed: int) -> Iterator[Peaks]:
    """The peaks while the block runs."""
    peaks, ended = Peaks(), threading.Event()

    def watch() -> None:
        while not ended.wait(_BETWEEN):
            peaks.look(homed)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def pss(pid: int) -> float:
    """MB; 0 for a process that is gone."""
    try:
        rollup = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0.0
    line = next((line for line in rollup.splitlines() if line.startswith("Pss:")), "Pss: 0 kB")
    return int(line.split()[1]) * 1024 / 1e6


def _descendants(pid: int) -> Iterator[tuple[int, int]]:
    """Each with its parent."""
    try:
        tasks = list((_PROC / str(pid) / "task").iterdir())
        children = [int(one) for task in tasks for one in (task / "children").read_text().split()]
    except OSError:
        return
    for child in children:
        yield child, pid
        yield from _descendants(child)


def _words(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return [""]
