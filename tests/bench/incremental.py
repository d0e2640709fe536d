"""An incremental backup through homed's API, of trees of which 1 % was written anew, beside restic on its own.

Each has a repository of its own that holds the tree as it was; both are asked after each change, in turns who is first.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.bench import trees
from tests.bench.bed import Bed, Served
from tests.bench.figures import Figure, at_most, by_turns, medians
from tests.bench.trees import Tree
from tests.support.engine import IMAGE, why_no_engine

_ROUNDS: Final = 5
_MIXED: Final = 10**9
_SMALL: Final = 200_000
_CHANGED: Final = 0.01
_PASSWORD: Final = "benchmark"


def why_not() -> str | None:
    return why_no_engine() if shutil.which("restic") else "restic is not installed"


def run(bed: Bed) -> Iterator[Figure]:
    folder = bed.folder / "incremental"
    folder.mkdir()
    (folder / "password").write_text(_PASSWORD)
    for title, make, size in (("mixed files", trees.mixed, _MIXED), ("small files", trees.small, _SMALL)):
        tree = make(folder / "tree", int(size * bed.scale))
        tables = {"backups.repository": {"url": str(folder / "ours"), "password_file": str(folder / "password")}}
        try:
            with bed.homed(tables=tables) as homed:
                yield _measure(homed, tree, folder, title)
        finally:
            for name in ("tree", "ours", "theirs"):
                shutil.rmtree(folder / name, ignore_errors=True)


def _measure(homed: Served, tree: Tree, folder: Path, title: str) -> Figure:
    homed.api.create("data", image=IMAGE, command="sleep 100000", volumes=[f"{tree.path}:/data"], stop_timeout=0)
    _restic(folder, "init")
    turn = 0

    def changing() -> None:
        nonlocal turn
        turn += 1
        trees.change(tree, _CHANGED, turn)

    def ours() -> float:
        return _ours(homed)

    def theirs() -> float:
        return _restic(folder, "backup", tree.path)

    ours(), theirs()
    pairs = []
    for number in range(_ROUNDS):
        changing()
        one = by_turns(1, {"ours": ours, "theirs": theirs} if number % 2 else {"theirs": theirs, "ours": ours})
        pairs.append((one["ours"][0], one["theirs"][0]))
    name = f"incremental backup of {title}, 1 % changed, of `restic backup`"
    return at_most(name, 1.15, [our / their for our, their in pairs], note=medians(pairs, "s"))


def _ours(homed: Served) -> float:
    started = time.perf_counter()
    answer = homed.api.post("/api/v1/backups", {"type": "incremental"}, timeout=900)
    if answer.status != 201:
        raise RuntimeError(f"there is no backup: {answer}")
    return time.perf_counter() - started


def _restic(folder: Path, *arguments: str | Path) -> float:
    restic: list[str | Path] = ["restic", "--quiet", "--repo", folder / "theirs", "--cache-dir", folder / "cache"]
    started = time.perf_counter()
    subprocess.run([*restic, *arguments], env={**os.environ, "RESTIC_PASSWORD": _PASSWORD}, check=True)
    return time.perf_counter() - started
