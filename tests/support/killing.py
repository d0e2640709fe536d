"""Killing a board at its backups: two generations of its data that can be told apart, and who is killed when."""

import json
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.nursery import Child, Nursery, send
from tests.support.wait import until

TREES = ("five", "four", "one", "three", "two")


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder for a board: a hundred runs are not to wait for a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        (Path(folder) / "data").mkdir()
        yield Path(folder)


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
