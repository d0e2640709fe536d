"""Jobs, and containers that have a job's directory, against the privileged process that starts jobs."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from homed.errors import HomedError
from homed.jobs.records import Command, Job, Script, Task
from homed.jobs.removal import remove
from tests.support.subprocess_world import World, job, world

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes the user, which only root can")

# It says of each try what became of it, and whose the spawner was meanwhile.
_SIGNALLER = """
import os, signal, sys
spawner, results, users = os.getppid(), set(), set()
print("on", flush=True)
while not os.path.exists(sys.argv[1] if len(sys.argv) > 1 else "/proc/self/cwd/stop"):
    try:
        os.kill(spawner, signal.SIGKILL)
        results.add("sent")
    except PermissionError:
        results.add("refused")
    with open(f"/proc/{spawner}/status") as status:
        users.update(line for line in status if line.startswith("Uid:"))
print(sorted(results), sorted(users))
"""


async def test_a_job_can_never_signal_its_spawner(root: Path) -> None:
    attacker = job(Script(_SIGNALLER, "python3"))
    async with world(root) as w:
        attack = asyncio.create_task(w.run(attacker))
        while not attacker_is_on(w, attacker):
            await asyncio.sleep(0.02)
        others = [job(Command(f"echo {number}")) for number in range(30)]
        assert all([(await w.run(one)).good for one in others])
        (w.places / f"{attacker.id}-1" / "home" / "stop").touch()
        assert (await attack).good
        assert w.text(attacker).split("\n", 1)[1] == "['refused'] ['Uid:\\t0\\t0\\t0\\t0\\n']\n"


def attacker_is_on(w: World, attacker: Job) -> bool:
    path = w.folder(attacker) / "stdout"
    return path.exists() and path.read_text().startswith("on")


class _Exchange(threading.Thread):
    """As a container that has the directory of jobs' directories: puts links to `victim` in their places."""

    def __init__(self, places: Path, victim: Path):
        super().__init__(daemon=True)
        self.places, self.victim = places, victim
        self.over = threading.Event()
        self.count = 0

    def run(self) -> None:
        while not self.over.is_set():
            try:
                for name in os.listdir(self.places):
                    if name.endswith("-1") and not os.path.islink(self.places / name):
                        os.rename(self.places / name, self.places / f"{name}.away{self.count}")
                        os.symlink(self.victim, self.places / name)
                        self.count += 1
            except OSError:
                continue


async def test_a_directory_that_is_exchanged_for_a_link_gains_nothing(root: Path) -> None:
    victim = root / "victim"
    (victim / "home").mkdir(parents=True)
    (victim / "script").write_text("precious")
    (victim / "script").chmod(0o600)
    before = [os.lstat(path) for path in (victim, victim / "home", victim / "script")]
    async with world(root) as w:
        await w.run(job(Command("true")))
        exchange = _Exchange(w.places, victim)
        w.places.mkdir(mode=0o711, exist_ok=True)
        exchange.start()
        try:
            for number in range(24):
                work = Script("true") if number % 2 else Task("python_eval", {"expression": "1"})
                try:
                    await w.run(job(work))
                except HomedError:
                    continue
        finally:
            exchange.over.set()
            exchange.join()
    after = [os.lstat(path) for path in (victim, victim / "home", victim / "script")]
    assert exchange.count > 0
    assert [(one.st_uid, one.st_gid, one.st_mode, one.st_ino) for one in after] == [
        (one.st_uid, one.st_gid, one.st_mode, one.st_ino) for one in before
    ]
    assert (victim / "script").read_text() == "precious"
    assert sorted(os.listdir(victim)) == ["home", "script"]


def test_a_removal_follows_no_link_that_is_put_in_its_way(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "link").symlink_to(victim)
    (tmp_path / "other").symlink_to(victim)
    assert remove(tmp_path / "job")
    assert not remove(tmp_path / "other")
    assert os.listdir(victim) == ["file"]
