"""Old or new, never half: also where the writer is killed, and where the disk is full."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from homed import atomic

REPOSITORY = Path(__file__).resolve().parent.parent

_WRITER = """
import pathlib, sys
from homed import atomic
path, number = pathlib.Path(sys.argv[1]), 0
while True:
    number += 1
    atomic.write(path, (str(number % 10) * 200_000).encode())
    print(number, flush=True)
"""


def test_the_content_and_the_mode_are_those_given(tmp_path: Path) -> None:
    path = tmp_path / "a"
    before = os.umask(0)
    try:
        atomic.write(path, b"one")
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o600)
        atomic.write(path, b"two", mode=0o644)
    finally:
        os.umask(before)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o644)
    assert os.listdir(tmp_path) == ["a"]


def test_a_killed_writer_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for i in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(3 + 5 * i):
                said = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            rest = process.stdout.read().split()
        said = int(rest[-1]) if rest else said
        content = path.read_bytes()
        assert len(content) == 200_000 and len(set(content)) == 1, "half of one"
        assert int(content[:1]) in (said % 10, (said + 1) % 10), "what was told to be written is not there"


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_a_write_that_fails_leaves_the_old_and_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "a"
    atomic.write(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"homed.atomic.os.{call}", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_the_data_is_synced_before_it_takes_the_place_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut asks for."""
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        order.append("sync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync file")
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        order.append("replace")
        replace(source, target)

    monkeypatch.setattr("homed.atomic.os.fsync", note_sync)
    monkeypatch.setattr("homed.atomic.os.replace", note_replace)
    atomic.write(tmp_path / "a", b"x")
    assert order == ["sync file", "replace", "sync folder"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic.write(tmp_path / "none" / "a", b"x")
