"""Jobs as processes of their own: what they get, what they print, and how they end."""

import os
import pwd
import tempfile
from pathlib import Path
from typing import Any

import pytest

from homed.config.jobs import Jobs as Config
from homed.errors import JobError
from homed.jobs.records import Command, Script, Task, Work
from tests.support import filesystems
from tests.support.subprocess_world import environment, gone, job, processes_of, world


async def test_what_a_command_prints_is_kept_byte_for_byte(tmp_path: Path) -> None:
    one = job(Command(r"printf '\000\377a\n'; printf 'b\r' >&2"))
    async with world(tmp_path) as w:
        assert (await w.run(one)).good
    assert (w.folder(one) / "stdout").read_bytes() == b"\0\xffa\n"
    assert (w.folder(one) / "stderr").read_bytes() == b"b\r"


@pytest.mark.parametrize("code", [1, 2, 127, 255])
async def test_an_exit_code_is_told(tmp_path: Path, code: int) -> None:
    async with world(tmp_path) as w:
        result = await w.run(job(Command(f"exit {code}")))
    assert (result.exit_code, result.code, result.good) == (code, "EXIT", False)


@pytest.mark.parametrize("name", ["KILL", "SEGV", "TERM"])
async def test_the_signal_that_ended_it_is_told(tmp_path: Path, name: str) -> None:
    async with world(tmp_path) as w:
        result = await w.run(job(Command(f"kill -{name} $$")))
    assert (result.exit_code, result.signal, result.code) == (None, f"SIG{name}", "SIGNAL")


async def test_a_real_time_signal_is_told_by_its_number(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        result = await w.run(job(Command("kill -40 $$")))
    assert result.signal == "SIG40"


async def test_a_job_gets_nothing_of_homeds_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMED_SECRET", "x")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    one = job(Command("exec env"), attempt=3)
    async with world(tmp_path) as w:
        assert (await w.run(one)).good
    found = environment(w.text(one))
    assert found.keys() - {"PWD", "OLDPWD", "SHLVL", "_"} == {
        "HOMED_JOB_ID",
        "HOMED_JOB_ATTEMPT",
        "PATH",
        "HOME",
        "LANG",
    }
    assert (found["HOMED_JOB_ID"], found["HOMED_JOB_ATTEMPT"]) == (one.id, "3")


async def test_a_job_leads_a_session_and_inherits_no_descriptor_or_ignored_signal(tmp_path: Path) -> None:
    one = job(
        Command("ls /proc/self/fd; grep -E 'SigBlk|SigIgn' /proc/self/status; cut -d' ' -f6 /proc/$$/stat; echo $$")
    )
    async with world(tmp_path) as w:
        assert (await w.run(one)).good
    lines = w.text(one).splitlines()
    assert lines[:4] == ["0", "1", "2", "3"]  # the last is the folder that ls reads
    own = 0b11 << 31  # of the C library, which lets nobody else use them
    assert [int(line.split()[1], 16) & ~own for line in lines[4:6]] == [0, 0]
    assert lines[6] == lines[7]


async def test_a_job_begins_in_a_fresh_folder_which_is_gone_after_it(tmp_path: Path) -> None:
    one = job(Command("pwd; ls -A; mkdir -p a/b; touch a/b/c"))
    async with world(tmp_path) as w:
        assert (await w.run(one)).good
    assert w.text(one).splitlines() == [f"{w.places}/{one.id}-1/home"]
    assert list(w.places.iterdir()) == []


async def test_its_standard_input_is_empty(tmp_path: Path) -> None:
    one = job(Command("cat; echo done"))
    async with world(tmp_path) as w:
        assert (await w.run(one)).good
    assert w.text(one) == "done\n"


@pytest.mark.parametrize("shell", ["/bin/sh", "sh", "python3"])
async def test_a_script_is_run_by_the_interpreter_that_it_names(tmp_path: Path, shell: str) -> None:
    text = "print(6 * 7)" if shell == "python3" else "echo $((6 * 7))"
    one = job(Script(text, shell))
    async with world(tmp_path) as w:
        assert (await w.run(one)).good
    assert w.text(one) == "42\n"


@pytest.mark.parametrize("shell", ["/bin/nosuchshell", "nosuchshell", "bin/sh", "/bin/sh -e", "/etc"])
async def test_a_script_whose_interpreter_is_not_there_never_begins(tmp_path: Path, shell: str) -> None:
    one = job(Script("echo", shell))
    async with world(tmp_path) as w:
        with pytest.raises(JobError) as raised:
            await w.run(one)
    assert raised.value.code == "SHELL_NOT_FOUND"
    assert w.handles == {}


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"command": "echo $X", "env": {"X": "1"}}, "1\n"),
        ({"command": "echo", "args": ["$X", "a b"]}, "$X a b\n"),
        ({"command": "pwd", "cwd": "/usr"}, "/usr\n"),
    ],
)
async def test_a_command_task_gets_its_arguments_environment_and_folder(
    tmp_path: Path, payload: dict[str, Any], said: str
) -> None:
    one = job(Task("command", payload))
    async with world(tmp_path) as w:
        assert (await w.run(one)).good
    assert w.text(one) == said


@pytest.mark.parametrize(
    "work",
    [
        Task("command", {"command": "true", "cwd": "/nowhere"}),
        Task("command", {"command": "nosuchprogram", "args": []}),
        Command("x" * 200_000),
        Command("a\0b"),
    ],
    ids=["no folder", "no program", "too long", "a zero byte"],
)
async def test_what_cannot_be_started_says_why(tmp_path: Path, work: Work) -> None:
    async with world(tmp_path) as w:
        with pytest.raises(JobError) as raised:
            await w.run(job(work))
        assert raised.value.code == "JOB_NOT_STARTED"
        assert len(raised.value.message) > 10
        assert (await w.run(job(Command("true")))).good


async def test_a_job_that_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    one = job(Command("echo a; exec >&- 2>&-; sleep 0.3; exit 7"))
    async with world(tmp_path) as w:
        assert (await w.run(one)).exit_code == 7
    assert w.text(one) == "a\n"


async def test_what_a_job_leaves_running_ends_with_it(tmp_path: Path) -> None:
    one = job(Command("(trap '' TERM; sleep 1000) & echo a"))
    async with world(tmp_path) as w:
        assert (await w.run(one)).good
    assert processes_of(one) == []


async def test_a_daemon_that_left_the_session_ends_with_its_job(tmp_path: Path) -> None:
    other = job(Command("sleep 2"))
    one = job(Command("setsid sh -c 'setsid sleep 1000 & echo $!'"))
    bare = job(Command("env -i setsid sh -c 'sleep 1000 & echo $!'"))
    async with world(tmp_path) as w:
        assert (await w.run(one)).good
        assert processes_of(one) == []
        assert (await w.run(bare)).good
        assert (await w.run(other)).good  # one that has nothing to do with it
        left = int(w.text(bare))
        gone(bare)
        assert not Path(f"/proc/{left}").exists()


async def test_an_attempt_is_started_once(tmp_path: Path) -> None:
    one = job(Command("echo a"))
    async with world(tmp_path) as w:
        await w.run(one)
        with pytest.raises(JobError) as raised:
            await w.run(one)
    assert raised.value.code == "JOB_NOT_STARTED"
    assert w.text(one) == "a\n"


async def test_a_job_runs_as_its_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("changes the user, which only root can")
    nobody = pwd.getpwnam("nobody")
    config = Config(user="nobody", users=("nobody",))
    one = job(
        Script(
            "id -u; id -g; id -G; touch x; stat -c %u x .; cat /proc/self/environ >/dev/null && grep CapEff /proc/self/status"
        )
    )
    user, group = str(nobody.pw_uid), str(nobody.pw_gid)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        async with world(Path(folder), config) as w:
            assert (await w.run(one)).good, w.text(one, "stderr")
        assert w.text(one).split() == [user, group, group, user, user, "CapEff:", "0" * 16]
        assert list(w.places.iterdir()) == []


@pytest.mark.parametrize("name", ["nosuchuser", "root"])
async def test_a_user_that_is_not_there_never_begins(tmp_path: Path, name: str) -> None:
    async with world(tmp_path, Config(users=("nosuchuser",))) as w:
        if name == "nosuchuser":
            with pytest.raises(JobError) as raised:
                await w.run(job(Command("true"), user=name))
            assert raised.value.code == "JOB_NOT_STARTED"
        elif os.geteuid() == 0:
            assert (await w.run(job(Command("true"), user=name))).good


async def test_on_a_full_disk_it_says_so_and_the_end_is_known(tmp_path: Path) -> None:
    with filesystems.in_memory(tmp_path / "small", 4):
        one = job(Command("head -c 10000000 /dev/zero || exit 9"))
        async with world(tmp_path / "small") as w:
            result = await w.run(one)
            assert result.exit_code == 9
            assert "space" in w.text(one, "stderr") or w.text(one, "stderr") == ""
            script = job(Script("#" * 5000))
            with pytest.raises(JobError) as raised:
                await w.run(script)
            assert raised.value.code == "JOB_NOT_STARTED"
            assert "No space" in raised.value.message


async def test_where_its_folder_cannot_be_written_it_does_not_begin(tmp_path: Path) -> None:
    one = job(Command("touch /nowhere/x"))
    with filesystems.in_memory(tmp_path / "small", 4):
        async with world(tmp_path / "small") as w:
            attempt = w.attempt(one)
            filesystems._run("mount", "-o", "remount,ro", str(tmp_path / "small"))
            with pytest.raises(JobError) as raised:
                await w.runner.run(attempt)
            filesystems._run("mount", "-o", "remount,rw", str(tmp_path / "small"))
    assert raised.value.code == "JOB_NOT_STARTED"


async def test_another_users_folder_is_not_taken_for_the_jobs(tmp_path: Path) -> None:
    (tmp_path / "places").mkdir()
    (tmp_path / "places").chmod(0o777)
    async with world(tmp_path) as w:
        with pytest.raises(JobError, match="not homed's own"):
            await w.run(job(Command("true")))


async def test_a_job_may_take_no_more_memory_than_configured(tmp_path: Path) -> None:
    config = Config(limits=Config().limits.__class__(memory=64 << 20))
    one = job(Script("x = bytearray(256 << 20)", "python3"))
    async with world(tmp_path, config) as w:
        assert (await w.run(one)).exit_code == 1
    assert "MemoryError" in w.text(one, "stderr")
