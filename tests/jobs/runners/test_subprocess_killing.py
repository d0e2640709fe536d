"""Ending a job: all of its processes, wherever they have gone, and whatever they think of it."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from homed.jobs.records import Command, Job, Result, Script
from tests.support.subprocess_world import World, gone, job, kill, processes_of, world

_DAEMON = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("ready", flush=True)
        time.sleep(1000)
    os._exit(0)
time.sleep(1000)
"""


async def _begun(w: World, one: Job, said: str = "ready") -> "asyncio.Task[Result]":
    task = asyncio.create_task(w.runner.run(w.attempt(one)))
    while said not in ((w.folder(one) / "stdout").read_text() if (w.folder(one) / "stdout").exists() else ""):
        assert not task.done(), task
        await asyncio.sleep(0.01)
    return task


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("echo ready; exec sleep 1000", "SIGTERM"),
        ("trap '' TERM; echo ready; while :; do sleep 1000; done", "SIGKILL"),
        ("echo ready; kill -STOP $$", "SIGTERM"),
        ("trap '' TERM; echo ready; kill -STOP $$; sleep 1000", "SIGKILL"),
        ("(trap '' TERM; setsid sleep 1000) & (sleep 1000 &) ; echo ready; exec sleep 1000", "SIGTERM"),
    ],
    ids=["plain", "ignores TERM", "stopped", "stopped and ignores TERM", "with others"],
)
async def test_a_job_is_ended_with_all_of_its_processes(root: Path, line: str, name: str) -> None:
    one = job(Command(line))
    async with world(root) as w:
        task = await _begun(w, one)
        await w.runner.kill(one)
        result = await task
        assert processes_of(one) == []
    assert result.signal == name


async def test_one_that_left_its_session_twice_is_ended(root: Path) -> None:
    one = job(Script(_DAEMON, "python3"))
    async with world(root) as w:
        task = await _begun(w, one)
        await w.runner.kill(one)
        assert (await task).signal == "SIGKILL"
        assert processes_of(one) == []


async def test_a_job_that_handles_term_says_how_it_ended(root: Path) -> None:
    one = job(Command("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done"))
    async with world(root) as w:
        task = await _begun(w, one)
        await w.runner.kill(one)
        assert (await task).exit_code == 3
    assert w.text(one) == "ready\nbye\n"


async def test_a_job_that_makes_processes_without_end_is_ended(root: Path) -> None:
    one = job(Command("trap '' TERM; echo ready; while :; do (setsid sleep 1000 &) ; sleep 0.01; done"))
    async with world(root) as w:
        task = await _begun(w, one)
        await asyncio.sleep(0.3)
        await w.runner.kill(one)
        await task
        gone(one)


async def test_others_go_on(root: Path) -> None:
    one, other = job(Command("echo ready; sleep 1000")), job(Command("echo ready; sleep 3; echo whole"))
    async with world(root) as w:
        task, goes_on = await _begun(w, one), await _begun(w, other)
        await w.runner.kill(one)
        await task
        assert (await goes_on).good
    assert w.text(other) == "ready\nwhole\n"


async def test_to_kill_what_has_ended_or_never_was_is_nothing(root: Path) -> None:
    one = job(Command("true"))
    async with world(root) as w:
        await w.runner.kill(one)
        await w.run(one)
        await w.runner.kill(one)


async def test_a_job_that_is_killed_as_it_begins_is_gone(root: Path) -> None:
    one = job(Command("sleep 1000"))
    async with world(root) as w:
        task = asyncio.create_task(w.runner.run(w.attempt(one)))
        await asyncio.sleep(0)
        await w.runner.kill(one)
        assert (await task).signal == "SIGTERM"
        gone(one)


async def test_where_the_spawner_was_killed_the_job_goes_on_and_nobody_says_how_it_ended(root: Path) -> None:
    one = job(Command("echo ready; sleep 1; echo whole"))
    async with world(root) as w:
        task = await _begun(w, one)
        kill(w.spawner_of(one))
        result = await task
        assert result.code == "JOB_LOST"
        assert w.text(one) == "ready\nwhole\n"
        # The next has a spawner of its own.
        assert (await w.run(job(Command("true")))).good


async def test_a_job_without_its_spawner_is_ended_all_the_same(root: Path) -> None:
    one = job(Command("trap '' TERM; (setsid sleep 1000 &); echo ready; while :; do sleep 1000; done"))
    async with world(root) as w:
        task = await _begun(w, one)
        kill(w.spawner_of(one))
        await w.runner.kill(one)
        assert (await task).code == "JOB_LOST"
        assert processes_of(one) == []


async def test_a_spawner_is_not_ended_by_a_polite_signal(root: Path) -> None:
    one = job(Command("echo ready; sleep 1; exit 5"))
    async with world(root) as w:
        task = await _begun(w, one)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(w.spawner_of(one), number)
        assert (await task).exit_code == 5
