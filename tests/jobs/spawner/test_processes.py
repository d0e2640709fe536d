"""Which processes are a job's."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from homed.jobs.spawner import processes
from homed.jobs.spawner.processes import Process, Tracked

_JOB = Tracked("j", 1, 100, 50)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        ["sleep", "1000"], env={"HOMED_JOB_ID": "a-job", "HOMED_JOB_ATTEMPT": "2"}, start_new_session=True
    )
    yield process
    process.kill()
    process.wait()


def _found(*all_: Process) -> set[int]:
    return {process.pid for process in processes.members(_JOB, {process.pid: process for process in all_})}


def test_a_session_and_all_descendants_are_a_jobs() -> None:
    leader = Process(100, "S", 1, 100, 50)
    assert _found(
        leader,
        Process(101, "S", 100, 100, 51),
        Process(102, "S", 101, 102, 52),
        Process(103, "Z", 102, 102, 53),
        Process(104, "S", 103, 104, 54),
        Process(105, "S", 1, 100, 55),
        Process(200, "S", 1, 200, 60),
    ) == {100, 101, 102, 104, 105}


def test_a_session_whose_number_was_given_again_is_another() -> None:
    assert _found(Process(100, "S", 1, 100, 70), Process(101, "S", 100, 100, 71)) == set()


def test_a_session_goes_on_without_its_leader() -> None:
    assert _found(Process(101, "S", 1, 100, 51)) == {101}


def test_what_bears_the_jobs_mark_is_the_jobs(sleeper: "subprocess.Popen[bytes]") -> None:
    found = {p.pid for p in processes.members(Tracked("a-job", 2, 0, 0), processes.all_processes())}
    assert found == {sleeper.pid}
    assert processes.members(Tracked("a-job", 1, 0, 0), processes.all_processes()) == []


def test_a_process_is_told_by_its_start(sleeper: "subprocess.Popen[bytes]") -> None:
    looked = processes.look(sleeper.pid)
    assert looked is not None
    assert (looked.parent, looked.session) == (os.getpid(), sleeper.pid)
    assert processes.is_alive(sleeper.pid, looked.started)
    assert not processes.is_alive(sleeper.pid, looked.started + 1)
    processes.send(looked._replace(started=looked.started + 1), signal.SIGKILL)
    assert sleeper.poll() is None
    processes.send(looked, signal.SIGKILL)
    assert sleeper.wait() == -signal.SIGKILL
    assert processes.look(sleeper.pid) is None


def test_a_name_with_brackets_and_spaces_is_no_riddle() -> None:
    code = "import sys; open('/proc/self/comm', 'w').write('a) R (b'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        looked = processes.look(process.pid)
        process.kill()
    assert looked is not None
    assert looked.parent == os.getpid()
