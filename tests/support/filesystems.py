"""Small filesystems of their own: in an image on a loop device, or in memory. Mounted for one test (root)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.tools import program

_DEADLINE = 60
_MAKERS = {
    "ext4": ("e2fsprogs", "sbin/mkfs.ext4", ("-q", "-F", "-m", "0")),
    "btrfs": ("btrfs-progs", "bin/mkfs.btrfs", ("-q", "-f")),
    "xfs": ("xfsprogs", "sbin/mkfs.xfs", ("-q", "-f")),
}


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("mounts a filesystem, which only root can")


def make(kind: str, image: Path, megabytes: int) -> Path:
    package, path, options = _MAKERS[kind]
    maker = shutil.which(Path(path).name, path="/usr/sbin:/sbin:/usr/bin:/bin") or program(package, path)
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    _run(str(maker), *options, str(image))
    return image


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    needs_root()
    folder.mkdir(parents=True, exist_ok=True)
    _run("mount", "-o", "loop", str(image), str(folder))
    try:
        yield folder
    finally:
        _run("umount", str(folder))


@contextmanager
def in_memory(folder: Path, megabytes: int = 8) -> Iterator[Path]:
    needs_root()
    folder.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        _run("umount", str(folder))


@contextmanager
def bound(source: Path, folder: Path) -> Iterator[Path]:
    needs_root()
    _run("mount", "--bind", str(source), str(folder))
    try:
        yield folder
    finally:
        _run("umount", str(folder))


@contextmanager
def full(folder: Path, left: int) -> Iterator[None]:
    """All but `left` KiB of the filesystem are taken (or a little more, where it keeps some for itself)."""
    ballast = folder / "ballast"
    now = os.statvfs(folder)
    size = now.f_bavail * now.f_frsize - left * 1024
    with ballast.open("wb") as file:
        while True:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
                break
            except OSError:
                os.ftruncate(file.fileno(), 0)
                size -= 256 << 10
    try:
        yield
    finally:
        ballast.unlink()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
