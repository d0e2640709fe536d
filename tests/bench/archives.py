"""Full backups by homed's worker beside tar and restic on the same trees, and putting them back beside tar.

All sides end with their output on the disk, find the tree in the page cache, and are timed from the start of their
process to its end.
"""

import os
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from pyrage import x25519

from homed.backups.worker.messages import Seal
from tests.bench import trees
from tests.bench.bed import Bed
from tests.bench.figures import Figure, at_least, by_turns
from tests.bench.trees import Tree
from tests.bench.worker import Board, sync

_ROUNDS: Final = 3
_MIXED: Final = 10**9
_SMALL: Final = 200_000
_MB: Final = 10**6
_PROGRAMS: Final = ("tar", "pigz", "restic")


def why_not() -> str | None:
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    return f"{', '.join(missing)} is not installed" if missing else None


def run(bed: Bed) -> Iterator[Figure]:
    folder = bed.folder / "archives"
    for title, make, size in (("mixed files", trees.mixed, _MIXED), ("small files", trees.small, _SMALL)):
        tree = make(folder / "tree", int(size * bed.scale))
        trees.read(tree)
        what = f"{tree.files:,} {title}, {tree.size / _MB:,.0f} MB"
        try:
            yield from _Measured(Board(folder / "board"), tree, folder, title, what).figures()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Measured:
    """One tree: `title` names it in the table, `what` in a note."""

    def __init__(self, board: Board, tree: Tree, folder: Path, title: str, what: str):
        self._board = board
        self._tree = tree
        self._folder = folder
        self._title = title
        self._what = what
        self._costs: dict[str, list[float]] = {}
        self._archive = folder / "kept.tar.gz"

    def figures(self) -> Iterator[Figure]:
        seal = Seal((str(x25519.Identity.generate().to_public()),))
        taken = by_turns(
            _ROUNDS,
            {
                "homed": self._costing("homed", self._full),
                "pigz": self._costing("pigz", lambda: self._tar("-I", "pigz", "-cf")),
                "gzip": self._costing("gzip", lambda: self._tar("-z", "-cf")),
                "restic": self._costing("restic", self._restic),
                "sealed": self._costing("sealed", lambda: self._full(seal)),
            },
        )
        print(f"  {self._what}: {self._seconds(taken)}", flush=True)
        of = f"of {self._title}"
        yield at_least(f"full backup {of}, of `tar -I pigz`", 0.9, _faster(taken, "homed", "pigz"))
        yield at_least(f"full backup {of}, of `tar -z`", 3, _faster(taken, "homed", "gzip"))
        yield at_least(f"full backup {of}, of `restic backup`, new", 1, _faster(taken, "homed", "restic"))
        yield at_least(f"sealed backup {of}, of `tar -I pigz`", 0.9, _faster(taken, "sealed", "pigz"))
        yield self._restoring()

    def _restoring(self) -> Figure:
        taken = by_turns(
            _ROUNDS,
            {"homed": self._costing("homed", self._restore), "tar": self._costing("tar", self._extract)},
        )
        print(f"  {self._what}: {self._seconds(taken)}", flush=True)
        return at_least(f"restore of {self._title}, of `tar -xz`", 0.8, _faster(taken, "homed", "tar"))

    def _seconds(self, taken: Mapping[str, Sequence[float]]) -> str:
        """What each took; of the processor too, as the machine may be busy."""
        parts = []
        for name, times in taken.items():
            cost = statistics.median(self._costs[name][-len(times) :])
            parts.append(f"{name} {statistics.median(times):.2f} s ({cost:.2f} s of processors)")
        return ", ".join(parts)

    def _costing(self, name: str, measure: Callable[[], float]) -> Callable[[], float]:
        def costing() -> float:
            before = _spent()
            seconds = measure()
            self._costs.setdefault(name, []).append(_spent() - before)
            return seconds

        return costing

    def _full(self, seal: Seal | None = None) -> float:
        seconds, archive = self._board.full(self._tree.path, seal)
        if seal is None:
            archive.replace(self._archive)
        else:
            archive.unlink()
        return seconds

    def _tar(self, *how: str) -> float:
        target = self._folder / "tar.tar.gz"
        started = time.perf_counter()
        subprocess.run(["tar", *how, target, "-C", self._tree.path, "."], check=True)
        sync(target)
        seconds = time.perf_counter() - started
        target.unlink()
        return seconds

    def _restic(self) -> float:
        repository = self._folder / "repository"
        restic: list[str | Path] = ["restic", "--quiet", "--repo", repository, "--cache-dir", self._folder / "cache"]
        environment = {**os.environ, "RESTIC_PASSWORD": "benchmark"}
        subprocess.run([*restic, "init"], env=environment, check=True)
        started = time.perf_counter()
        subprocess.run([*restic, "backup", self._tree.path], env=environment, check=True)
        seconds = time.perf_counter() - started
        shutil.rmtree(repository)
        return seconds

    def _restore(self) -> float:
        target = self._folder / "restored" / "tree"
        target.parent.mkdir()
        name = self._board.backups / "bench-20260101-000000.tar.gz"
        self._archive.rename(name)
        seconds = self._board.restore(name, target)
        name.rename(self._archive)
        shutil.rmtree(target.parent)
        return seconds

    def _extract(self) -> float:
        target = self._folder / "restored"
        target.mkdir()
        started = time.perf_counter()
        subprocess.run(["tar", "-xzf", self._archive, "-C", target], check=True)
        sync(target)
        seconds = time.perf_counter() - started
        shutil.rmtree(target)
        return seconds


def _faster(taken: Mapping[str, Sequence[float]], ours: str, theirs: str) -> list[float]:
    return [their / our for our, their in zip(taken[ours], taken[theirs], strict=True)]


def _spent() -> float:
    """Seconds of processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
