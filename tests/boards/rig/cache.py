"""What is expensive to make is made once, under a key, and kept."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


def cache() -> Path:
    """The directory that outlives a run: `boards` in $HOMED_CACHE, or in the repository's `.cache`."""
    path = Path(os.environ.get("HOMED_CACHE") or REPOSITORY / ".cache").resolve() / "boards"
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(*parts: str | bytes) -> str:
    """A short name for a recipe: it changes when any part of it does."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:12]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock; another process that wants it waits, and gets it when this one ends in any way."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """The cached `name`, which `build` makes at the path given to it if it is not there yet."""
    finished = cache() / name
    if finished.exists():
        return finished
    with locked(cache() / f"{name}.lock"):
        if finished.exists():
            return finished
        # The lock is ours, so what lies here was left by a build that was broken off.
        building = cache() / f"{name}.building"
        remove(building)
        build(building)
        building.rename(finished)
    return finished


def remove(path: Path) -> None:
    """Remove a file or a tree, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
