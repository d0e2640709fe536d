"""The journal of a failed boot is kept: in order, bounded, and an update goes on where there is none."""

import asyncio
import logging
import os
from pathlib import Path

import pytest

from homed.updates import journal
from tests.support.wait import until

NEWEST_FIRST = """\
2026-01-01T00:00:03.000000+0000 board homed[7]: the end
2026-01-01T00:00:02.000000+0000 board homed[7]: Traceback:
                                                  File "x.py"
                                                ValueError
2026-01-01T00:00:01.000000+0000 board kernel: the beginning
"""
MOST = 4 * 2**20


@pytest.fixture
def journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of a program of that name; there is none yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "journalctl"


def play(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def texts(path: Path) -> list[str]:
    return [line.rpartition(": ")[-1].strip() for line in path.read_text().splitlines()]


async def test_a_boots_journal_is_kept_oldest_first(journalctl: Path, tmp_path: Path) -> None:
    (tmp_path / "said").write_text(NEWEST_FIRST)
    play(journalctl, f'echo "$@" > {tmp_path}/asked; cat {tmp_path}/said')
    kept = tmp_path / "journal.log"
    assert await journal.keep(kept, "-1")
    assert texts(kept) == ["the beginning", "Traceback:", 'File "x.py"', "ValueError", "the end"]
    assert "--boot=-1" in (tmp_path / "asked").read_text().split()
    assert kept.stat().st_mode & 0o777 == 0o600


async def test_one_without_end_is_kept_up_to_a_bound(journalctl: Path, tmp_path: Path) -> None:
    play(journalctl, 'echo "board x[1]: newest"; exec yes "board x[1]: repeated and repeated"')
    kept = tmp_path / "journal.log"
    assert await journal.keep(kept, "0")
    assert MOST - 100 < kept.stat().st_size <= MOST
    assert texts(kept)[-1] == "newest" and set(texts(kept)[:-1]) == {"repeated and repeated"}


async def test_one_line_without_end_is_not_kept(journalctl: Path, tmp_path: Path) -> None:
    play(journalctl, "exec cat /dev/zero")
    assert not await journal.keep(tmp_path / "journal.log", "0")


@pytest.mark.parametrize("script", ["exit 1", "echo 'no such boot' >&2; exit 1", ":", "echo; echo"])
async def test_a_boot_without_a_journal_leaves_no_file(journalctl: Path, tmp_path: Path, script: str) -> None:
    play(journalctl, script)
    assert not await journal.keep(tmp_path / "journal.log", "0")
    assert not (tmp_path / "journal.log").exists()


async def test_what_is_no_text_is_kept_as_it_is(journalctl: Path, tmp_path: Path) -> None:
    play(journalctl, r"printf 'b: \377\374\n\na: \rx\n'")
    assert await journal.keep(tmp_path / "journal.log", "0")
    assert (tmp_path / "journal.log").read_bytes() == b"a: \rx\nb: \xff\xfc\n"


async def test_a_board_without_journalctl_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not await journal.keep(tmp_path / "journal.log", "0")


async def test_a_disk_that_does_not_take_it_is_logged(
    journalctl: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    play(journalctl, "echo x")
    assert not await journal.keep(tmp_path / "gone" / "journal.log", "0")
    assert "could not be kept" in caplog.text


async def test_one_that_hangs_is_ended(
    journalctl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    play(journalctl, f"echo $$ > {tmp_path}/pid; exec sleep 600")
    monkeypatch.setattr(journal, "_PATIENCE", 0.5)
    assert not await journal.keep(tmp_path / "journal.log", "0")
    pid = int((tmp_path / "pid").read_text())
    await asyncio.to_thread(until, "its end", lambda: not os.path.exists(f"/proc/{pid}"))
    assert "could not be kept" in caplog.text


async def test_a_normal_end_is_nothing_to_be_told_of(
    journalctl: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    play(journalctl, "echo x")
    with caplog.at_level(logging.DEBUG):
        for _ in range(5):
            assert await journal.keep(tmp_path / "journal.log", "0")
    assert "Unknown child" not in caplog.text
