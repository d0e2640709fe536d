"""Targets of every kind, what a restore is to make of them, and a kill at any step of it."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from homed.backups.worker import disk, journal, mountpoint, staging, swap
from homed.backups.worker.staging import Place
from homed.backups.worker.swap import Swap

ID = "op1"
_STEPS = (
    (disk, ("make", "unmake", "move", "exchange", "remove", "sync")),
    (journal, ("save", "drop")),
    (mountpoint, ("apply",)),
)
Picture = dict[str, tuple[object, ...]]


class KilledError(BaseException):
    """Not an Exception: nothing that is being tested may think that it can go on."""


class Steps:
    """Counts every change; from number `last` on (0: none) the process is gone."""

    def __init__(self, last: int = 0):
        self.count = 0
        self._last = last

    def step(self) -> None:
        self.count += 1
        if self._last and self.count >= self._last:
            raise KilledError

    def wrap(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def change(*arguments: Any, **options: Any) -> Any:
            if name == "remove" and self._last == self.count + 1:
                _half_removed(arguments[0])
            self.step()
            return real(*arguments, **options)

        return change


def _half_removed(name: disk.Name) -> None:
    """A kill in the middle of a removal."""
    path = Path(os.readlink(f"/proc/self/fd/{name[0]}"), name[1])
    for one in sorted(path.rglob("*"), reverse=True)[::2]:
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one)
        else:
            one.unlink(missing_ok=True)


@contextmanager
def killed_at(last: int, patch: pytest.MonkeyPatch, *, sync: bool = False) -> Iterator[Steps]:
    """With `sync` the filesystems are really synced, which else would cost the most time."""
    steps = Steps(last)
    with patch.context() as patched:
        if not sync:
            patched.setattr(disk, "sync", lambda _: None)
            patched.setattr(os, "fsync", lambda _: None)
        for module, names in _STEPS:
            for name in names:
                patched.setattr(module, name, steps.wrap(getattr(module, name), name))
        yield steps


def is_killed(act: Callable[..., object], *arguments: object) -> bool:
    try:
        act(*arguments)
    except KilledError:
        return True
    return False


def write_tree(folder: Path, mark: str) -> None:
    (folder / "sub" / "deeper").mkdir(parents=True, exist_ok=True)
    (folder / "data").write_text(mark * 100)
    (folder / f"only-{mark}").write_text(mark)
    (folder / "sub" / "deeper" / "file").write_text(mark)
    if not (folder / "link").is_symlink():
        (folder / "link").symlink_to(f"to-{mark}")
    folder.chmod(0o750 if mark == "old" else 0o711)
    os.utime(folder, ns=(10**18, 10**18 + len(mark) * 10**9 + (mark == "old")))


def picture(root: Path) -> Picture:
    """Everything in a folder, as far as a restore is answerable for it."""
    found: Picture = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            status = path.lstat()
            content: object = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
            found[str(path.relative_to(root))] = (status.st_mode, content)
    return found


def times(targets: Sequence[Path]) -> dict[Path, int]:
    """Of the targets' roots: a restore gives them the archive's, and an undone one leaves them as they were."""
    return {target: target.stat().st_mtime_ns for target in targets if target.exists()}


class World:
    """A folder with targets: `plain` and `volume/_data` (folders), `single` (a file), `was-folder` (becomes a file),
    `made/deep/tree` and `made/other` (not there yet), and `disk`, which is a mount point where one is mounted there.
    """

    def __init__(self, root: Path, work: Path, *, mount: bool):
        self.root = root
        self.work = work
        self.folders = ["plain", "volume/_data", "made/deep/tree", "made/other", *(["disk"] if mount else [])]
        self.files = ["single", "was-folder"]
        for name in ("plain", "volume/_data", "was-folder", *(["disk"] if mount else [])):
            write_tree(root / name, "old")
        (root / "single").write_text("old")
        (root / "bystander").write_text("nobody touches this")
        self.old = picture(root)
        self.old_times = times(self.targets)

    @property
    def targets(self) -> list[Path]:
        return [self.root / name for name in (*self.folders, *self.files)]

    def places(self) -> list[Place]:
        return [staging.place(self.root / name, ID, single=name in self.files) for name in (*self.folders, *self.files)]

    def restore(self) -> None:
        """To its end, as the worker does it."""
        swapping = self.stage()
        swapping.swap()
        swapping.finish()

    def stage(self) -> Swap:
        self.work.mkdir(exist_ok=True)
        places = self.places()
        swapping = Swap.begin(self.work, places, ID, silent)
        for place in places:
            if place.single:
                place.item.write_text("new")
                os.utime(place.item, ns=(10**18, 10**18 + 3 * 10**9))
            else:
                write_tree(place.tree, "new")
        return swapping

    def recover(self, applied: bool) -> swap.Outcome:
        return swap.recover(self.work, applied, silent)

    def is_old(self) -> bool:
        return picture(self.root) == self.old and times(self.targets) == self.old_times

    def new(self) -> tuple[Picture, dict[Path, int]]:
        return picture(self.root), times(self.targets)


def silent(message: str) -> None:
    raise AssertionError(f"nothing is in the way: {message}")
