"""Uploads are whole or not there, have names that lead nowhere, and go when nobody needs them."""

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.config.jobs import JobWorkers
from homed.errors import JobError, NotFoundError, TooLargeError
from homed.jobs import uploads as module
from homed.jobs.uploads import Uploads, UploadSpaceError, is_upload, sanitised


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for one in data:
        yield one


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "uploads", lambda: JobWorkers(upload_limit=2048, upload_days=1))


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "uploads").glob("*"))


async def test_an_upload_is_kept_under_the_time_and_its_name(uploads: Uploads, tmp_path: Path) -> None:
    before = int(time.time() * 1000)
    made = await uploads.receive("../my project.zip", pieces(b"ab", b"c"))
    stamp, _, name = made.name.partition("-")
    assert before <= int(stamp) <= time.time() * 1000 and name == "my_project.zip"
    assert made.path.read_bytes() == b"abc" and made.size == 3 and made.url == f"/uploads/{made.name}"
    assert uploads.path(made.name) == made.path and is_upload(made.url)
    assert made.path.stat().st_mode & 0o777 == 0o600 and made.path.parent.stat().st_mode & 0o777 == 0o700
    await uploads.discard(made)
    assert kept(tmp_path) == []


async def test_two_of_one_name_at_once_are_two(uploads: Uploads, tmp_path: Path) -> None:
    made = await asyncio.gather(*(uploads.receive("a.zip", pieces(str(n).encode())) for n in range(20)))
    assert len({one.name for one in made}) == 20
    assert sorted(one.path.read_bytes() for one in made) == sorted(str(n).encode() for n in range(20))


async def test_too_much_is_refused_and_leaves_nothing(uploads: Uploads, tmp_path: Path) -> None:
    with pytest.raises(TooLargeError):
        await uploads.receive("a", pieces(b"x" * 2048, b"x"))
    assert kept(tmp_path) == []


async def test_a_sender_that_fails_leaves_nothing(uploads: Uploads, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise ConnectionResetError("gone")

    with pytest.raises(JobError):
        await uploads.receive("a", broken())
    assert kept(tmp_path) == []


async def test_a_full_disk_is_told_as_one(uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RESERVE", 1 << 62)
    with pytest.raises(UploadSpaceError):
        await uploads.receive("a", pieces(b"x"))
    monkeypatch.undo()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UploadSpaceError):
        await uploads.receive("a", pieces(b"x"))
    assert kept(tmp_path) == []


async def test_what_is_old_goes_unless_a_job_needs_it(uploads: Uploads, tmp_path: Path) -> None:
    old, needed, new = [await uploads.receive(name, pieces(b"x")) for name in ("old", "needed", "new")]
    for one in (old, needed):
        os.utime(one.path, (1, 1))
    (tmp_path / "uploads" / ".part-ff").write_bytes(b"half")
    (tmp_path / "uploads" / "mine").write_bytes(b"not an upload")
    os.utime(tmp_path / "uploads" / "mine", (1, 1))
    coming = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        await coming.wait()
        yield b"b"

    receiving = asyncio.create_task(uploads.receive("slow", slow()))
    while not any(name.startswith(".part-") and name != ".part-ff" for name in kept(tmp_path)):
        await asyncio.sleep(0.01)
    sweeping = asyncio.create_task(uploads.run(lambda: {needed.url}))
    while old.path.exists() or (tmp_path / "uploads" / ".part-ff").exists():
        await asyncio.sleep(0.01)
    sweeping.cancel()
    coming.set()
    assert (await receiving).path.read_bytes() == b"ab"
    assert needed.path.exists() and new.path.exists() and "mine" in kept(tmp_path)


@pytest.mark.parametrize("name", ["", "..", "../x", "1-", "1-a/b", "x", "1-a\n", "1-\0", "1-.a", ".part-1"])
def test_only_an_uploads_name_is_looked_for(uploads: Uploads, name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        uploads.path(name)
    assert caught.value.code == "UPLOAD_NOT_FOUND"


@given(st.text(max_size=300))
def test_any_name_becomes_a_safe_one(name: str) -> None:
    made = sanitised(name)
    assert 0 < len(made) <= 100
    assert made.isascii() and not set(made) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert made[0] not in "._-"
    assert is_upload(f"/uploads/1-{made}")


def test_a_long_name_keeps_its_ending() -> None:
    assert sanitised("a" * 300 + ".zip") == "a" * 96 + ".zip"
    assert sanitised("C:\\work\\my file.zip") == "my_file.zip"
