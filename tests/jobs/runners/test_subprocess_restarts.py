"""homed is killed while jobs run: afterwards the truth about each is known, and none has run twice."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from homed.jobs.records import Command, Handle
from homed.jobs.spawner import marks
from homed.jobs.spawner.marks import Identity
from tests.support import filesystems
from tests.support.played_homed import known
from tests.support.subprocess_world import BOOT, job, kill, processes_of, world
from tests.support.wait import until

REPOSITORY = Path(__file__).resolve().parents[3]
_COUNT = 200


def _played(root: Path, count: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "tests.support.played_homed", str(root), str(count)], cwd=REPOSITORY)


def _folders(root: Path) -> None:
    for name in ("ran", "known"):
        (root / name).mkdir()
        (root / name).chmod(0o777)


@pytest.mark.parametrize("kills", [1, 4])
def test_each_of_200_jobs_runs_once_however_often_homed_is_killed(root: Path, kills: int) -> None:
    _folders(root)
    chance = random.Random(kills)
    for _ in range(kills):
        homed = _played(root, _COUNT)
        before = len(os.listdir(root / "ran"))
        more = min(_COUNT, before + chance.randrange(1, _COUNT // kills))
        until("some to run", lambda more=more: len(os.listdir(root / "ran")) >= more, every=0.001)  # type: ignore[misc]
        homed.kill()
        homed.wait()
    last = _played(root, _COUNT)
    assert last.wait(60) == 0
    for number in range(_COUNT):
        facts = known(root, number)
        attempt = facts["attempt"]
        assert (root / "ran" / str(number)).read_text() == f"{attempt}\n"
        assert facts["result"].get("exit_code") == number % 5, facts
        folder = root / "jobs" / f"job-{number}" / str(attempt)
        assert (folder / "stdout").read_text() == f"out {number}\nend\n"
        assert (folder / "stderr").read_text() == f"err {number}\n"
    assert not (root / "places").exists()


async def test_an_attempt_that_never_began_cannot_begin_any_more(root: Path) -> None:
    one = job(Command("echo a"))
    async with world(root) as w:
        assert await w.resume(one) is None
        assert await w.resume(one) is None
        # What the homed before may have asked for, and its spawner reads only now.
        with pytest.raises(FileExistsError):
            marks.take_up(w.folder(one), Identity(BOOT, 1, 1))
    assert w.text(one) == ""


async def test_a_job_that_goes_on_is_followed_to_its_end(root: Path) -> None:
    one = job(Command("echo a; sleep 1; echo b; exit 4"))
    async with world(root) as first:
        task = asyncio.create_task(first.runner.run(first.attempt(one)))
        while one.id not in first.handles:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
    async with world(root) as second:
        result = await second.resume(one)
        assert result is not None
        assert (result.exit_code, second.text(one)) == (4, "a\nb\n")
        # Nobody had written down how it is found: it is told again.
        assert second.handles[one.id] == first.handles[one.id]


async def test_a_job_of_the_homed_before_is_killed(root: Path) -> None:
    one = job(Command("trap '' TERM; while :; do sleep 1000; done"))
    async with world(root) as first:
        task = asyncio.create_task(first.runner.run(first.attempt(one)))
        while one.id not in first.handles:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
    async with world(root) as second:
        resumed = asyncio.create_task(second.resume(one))
        while one.id not in second.handles:
            await asyncio.sleep(0.01)
        await second.runner.kill(one)
        result = await resumed
    assert result is not None
    assert result.signal == "SIGKILL"
    assert processes_of(one) == []


async def test_where_the_job_and_its_spawner_were_killed_it_is_lost(root: Path) -> None:
    one = job(Command("sleep 1000"))
    async with world(root) as w:
        task = asyncio.create_task(w.runner.run(w.attempt(one)))
        while one.id not in w.handles:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        kill(w.spawner_of(one))
        kill(w.handles[one.id].pid)
    async with world(root) as second:
        result = await second.resume(one)
    assert result is not None
    assert result.code == "JOB_LOST"


async def test_after_a_boot_what_was_marked_is_known_and_the_rest_is_lost(root: Path) -> None:
    ended, cut = job(Command("true")), job(Command("true"))
    async with world(root) as w:
        for one in (ended, cut):
            w.attempt(one)
            marks.take_up(w.folder(one), Identity(BOOT, os.getpid(), 1))
            marks.runs(w.folder(one), Identity(BOOT, os.getpid(), 1))
        marks.ended(w.folder(ended), marks.exited(3))
    async with world(root, boot="1" * 32) as after:
        known_, lost = await after.resume(ended), await after.resume(cut)
    assert known_ is not None
    assert lost is not None
    assert (known_.exit_code, lost.code) == (3, "JOB_LOST")


async def test_where_all_that_was_kept_is_gone_it_is_lost_and_not_run_again(root: Path) -> None:
    handle = Handle(runner="subprocess", boot=BOOT, pid=1, started=1)
    one = job(Command("true"), handle=handle)
    other = job(Command("true"), handle=Handle(runner="", boot="1" * 32))
    async with world(root) as w:
        lost, never = await w.resume(one), await w.resume(other)
    assert lost is not None
    assert lost.code == "JOB_LOST"
    assert never is None


async def test_a_spawner_that_was_killed_between_the_marks_has_its_process_found(root: Path) -> None:
    one = job(Command("true"))
    async with world(root) as w:
        w.attempt(one)
        marks.take_up(w.folder(one), Identity(BOOT, 1 << 22, 1))
        process = subprocess.Popen(
            ["sleep", "1000"], env={"HOMED_JOB_ID": one.id, "HOMED_JOB_ATTEMPT": "1"}, start_new_session=True
        )
        resumed = asyncio.create_task(w.resume(one))
        await asyncio.sleep(0.3)
        assert not resumed.done()
        await w.runner.kill(one)
        result = await resumed
    assert result is not None
    assert result.code == "JOB_LOST"
    assert process.wait(10) == -signal.SIGTERM


async def test_a_spawner_ends_when_its_homed_is_gone_and_its_last_job_has_ended(root: Path) -> None:
    one = job(Command("setsid sleep 1000 & sleep 0.5"))
    async with world(root) as w:
        task = asyncio.create_task(w.runner.run(w.attempt(one)))
        while one.id not in w.handles:
            await asyncio.sleep(0.01)
        spawner = w.spawner_of(one)
        task.cancel()
        await asyncio.wait([task])
    assert processes_of(one) != []
    until("the spawner to end", lambda: not Path(f"/proc/{spawner}").exists())
    assert marks.end(w.folder(one)) == marks.exited(0)
    assert processes_of(one) == []


async def test_the_end_is_marked_on_a_disk_that_was_full(root: Path) -> None:
    small = root / "small"
    image = filesystems.make("ext4", root / "image", 8)
    with filesystems.mounted(image, small):
        one = job(Command("sleep 1; exit 6"))
        async with world(small) as w:
            task = asyncio.create_task(w.runner.run(w.attempt(one)))
            while one.id not in w.handles:
                await asyncio.sleep(0.01)
            with filesystems.full(small, 0):
                assert (await task).exit_code == 6
                assert marks.end(w.folder(one)) == marks.exited(6)
            spawner = w.spawner_of(one)
        until("the spawner to end", lambda: not Path(f"/proc/{spawner}").exists())
