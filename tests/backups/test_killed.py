"""kill -9 at random moments: homed, its worker, or both at once; and what the next start makes of it."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from homed.backups.archive.verify import verify
from tests.support.archives import Told
from tests.support.killing import TREES, begun, fill, generations, in_memory, kill_at, measured, run, without_worker
from tests.support.nursery import Nursery

RUNS = 100
SEED = 20261121


@pytest.fixture
def root() -> Iterator[Path]:
    with in_memory() as folder:
        yield folder


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    with Nursery(tmp_path) as made:
        yield made


def moments(duration: float) -> Iterator[tuple[int, float, str]]:
    """Spread evenly over a run and a little beyond, each third of them for one way of killing."""
    chance = random.Random(SEED)
    for i in range(RUNS):
        yield i, (i + chance.random()) / RUNS * duration * 1.05, ("homed", "worker", "both")[i % 3]


def test_whenever_a_create_is_killed_no_half_backup_is_listed(nursery: Nursery, root: Path, tmp_path: Path) -> None:
    fill(root, "a")
    folder = root / "state" / "backups"
    whole = run(nursery, root, "create")["backups"]
    for i, delay, who in moments(measured(nursery, root, "create")):
        kill_at(delay, who, root, begun(nursery, root, "create"))
        at_once = run(nursery, root, "look")
        without_worker(root)
        told = run(nursery, root, "look")

        assert set(at_once["backups"]) <= set(told["backups"])
        assert set(whole) <= set(told["backups"])
        there = {path.name for path in folder.iterdir()}
        assert there == {name for backup in told["backups"] for name in (backup, f"{backup}.json")}, (i, delay, who)
        for name in set(told["backups"]) - set(whole):
            verify(folder / name, tmp_path / "spool", None, Told().context)
        whole = told["backups"]
        assert not list((root / "state" / "backup-work").iterdir())
        assert generations(root) == {"a"}
        assert sorted(path.name for path in (root / "data").iterdir()) == list(TREES)


def test_whenever_a_restore_is_killed_all_is_old_or_all_is_new(nursery: Nursery, root: Path) -> None:
    backups: dict[str, str] = {}
    for generation in ("a", "b"):
        fill(root, generation)
        known = set(backups.values())
        (backups[generation],) = set(run(nursery, root, "create")["backups"]) - known
    outcomes = set()
    for i, delay, who in moments(measured(nursery, root, "restore", backups["b"])):
        (before,) = generations(root)
        wanted = "b" if before == "a" else "a"
        kill_at(delay, who, root, begun(nursery, root, "restore", backups[wanted]))
        at_once = run(nursery, root, "look")
        held = at_once["held"]
        without_worker(root)
        told = run(nursery, root, "look")

        assert held == told["held"] == [], (i, delay, who)
        assert len(generations(root)) == 1, (i, delay, who)
        outcomes.add(generations(root) == {wanted})
        assert sorted(path.name for path in (root / "data").iterdir()) == list(TREES), (i, delay, who)
        assert not list((root / "state" / "backup-work").iterdir()), (i, delay, who)
        assert sorted(told["backups"]) == sorted(backups.values())
    assert outcomes == {True, False}, "the moments were not spread over what matters"
