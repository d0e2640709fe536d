"""kill -9 at random moments: homed, its worker, or both at once; and what the next start makes of it."""

import json
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homed.backups.archive.verify import verify
from tests.support.archives import Told
from tests.support.nursery import Child, Nursery, send
from tests.support.wait import until

RUNS = 100
SEED = 20261121
TREES = ("five", "four", "one", "three", "two")


@pytest.fixture
def root() -> Iterator[Path]:
    """In memory: a hundred runs are not to wait for a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        (Path(folder) / "data").mkdir()
        yield Path(folder)


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    with Nursery(tmp_path) as made:
        yield made


def fill(root: Path, generation: str) -> None:
    """All trees and all records of one generation: no file of one is as in the other."""
    random_bytes = random.Random(generation)
    for name in TREES:
        tree = root / "data" / name
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "deep" / generation).mkdir(parents=True)
        for i in range(12):
            (tree / "deep" / generation / str(i)).write_bytes(random_bytes.randbytes(3000))
        (tree / "generation").write_text(generation)
    records = {name: json.dumps({"name": name, "generation": generation, **_spec(root, name)}) for name in TREES}
    (root / "services.json").write_text(json.dumps(records))


def _spec(root: Path, name: str) -> dict[str, Any]:
    return {"spec": {"paths": [str(root / "data" / name)]}}


def generations(root: Path) -> set[str]:
    """Those of all trees, by what is in them, and of all records."""
    found = {json.loads(record)["generation"] for record in json.loads((root / "services.json").read_text()).values()}
    for name in TREES:
        tree = root / "data" / name
        (generation,) = (path.name for path in (tree / "deep").iterdir())
        found |= {generation, (tree / "generation").read_text()}
        assert len(list((tree / "deep" / generation).iterdir())) == 12
    return found


def run(nursery: Nursery, root: Path, act: str, *arguments: str) -> dict[str, Any]:
    """One that is left alone; what it told."""
    (root / "told").unlink(missing_ok=True)
    assert nursery.homed(root, act, *arguments).wait() == 0, nursery.log[-3000:]
    told: dict[str, Any] = json.loads((root / "told").read_text())
    return told


def measured(nursery: Nursery, root: Path, act: str, *arguments: str) -> float:
    """How long it takes from when homed is ready."""
    times = []
    for _ in range(3):
        child = begun(nursery, root, act, *arguments)
        started = time.monotonic()
        assert child.wait() == 0
        times.append(time.monotonic() - started)
    return sorted(times)[1]


def begun(nursery: Nursery, root: Path, act: str, *arguments: str) -> Child:
    for name in ("ready", "worker", "told"):
        (root / name).unlink(missing_ok=True)
    child = nursery.homed(root, act, *arguments)
    until("homed to be ready", (root / "ready").exists, every=0.001)
    return child


def kill_at(delay: float, who: str, root: Path, homed: Child) -> None:
    """Returns when homed is gone; its worker may not be, where it was not killed."""
    time.sleep(delay)
    if who != "homed" and (root / "worker").exists():
        send(int((root / "worker").read_text()), signal.SIGKILL)
    if who != "worker":
        homed.kill()
    homed.wait()


def without_worker(root: Path) -> None:
    """Until the worker that lost its homed has ended by itself."""
    if (root / "worker").exists():
        process = Path(f"/proc/{(root / 'worker').read_text()}")
        until("the worker to end", lambda: not process.exists(), every=0.002)


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
