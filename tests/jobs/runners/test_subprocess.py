"""Jobs as processes of their own: what they get, what they print, and how they end."""

import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

import pytest

from homed.config.jobs import JobLimits
from homed.config.jobs import Jobs as Config
from homed.errors import JobError
from homed.jobs.records import Command, Script, Task, Work
from tests.support import filesystems
from tests.support.subprocess_world import environment, gone, job, processes_of, world


async def test_what_a_command_prints_is_kept_byte_for_byte(root: Path) -> None:
    one = job(Command(r"printf '\000\377a\n'; printf 'b\r' >&2"))
    async with world(root) as w:
        assert (await w.run(one)).good
    assert (w.folder(one) / "stdout").read_bytes() == b"\0\xffa\n"
    assert (w.folder(one) / "stderr").read_bytes() == b"b\r"


@pytest.mark.parametrize("code", [1, 2, 127, 255])
async def test_an_exit_code_is_told(root: Path, code: int) -> None:
    async with world(root) as w:
        result = await w.run(job(Command(f"exit {code}")))
    assert (result.exit_code, result.code, result.good) == (code, "EXIT", False)


@pytest.mark.parametrize("name", ["KILL", "SEGV", "TERM"])
async def test_the_signal_that_ended_it_is_told(root: Path, name: str) -> None:
    async with world(root) as w:
        result = await w.run(job(Command(f"kill -{name} $$")))
    assert (result.exit_code, result.signal, result.code) == (None, f"SIG{name}", "SIGNAL")


async def test_a_real_time_signal_is_told_by_its_number(root: Path) -> None:
    async with world(root) as w:
        result = await w.run(job(Command("kill -40 $$")))
    assert result.signal == "SIG40"


async def test_a_job_gets_nothing_of_homeds_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMED_SECRET", "x")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    one = job(Command("exec env"), attempt=3)
    async with world(root) as w:
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


async def test_a_job_leads_a_session_and_inherits_no_descriptor_or_ignored_signal(root: Path) -> None:
    one = job(
        Command("ls /proc/self/fd; grep -E 'SigBlk|SigIgn' /proc/self/status; cut -d' ' -f6 /proc/$$/stat; echo $$")
    )
    async with world(root) as w:
        assert (await w.run(one)).good
    lines = w.text(one).splitlines()
    assert lines[:4] == ["0", "1", "2", "3"]  # the last is the folder that ls reads
    own = 0b11 << 31  # of the C library, which lets nobody else use them
    assert [int(line.split()[1], 16) & ~own for line in lines[4:6]] == [0, 0]
    assert lines[6] == lines[7]


async def test_a_job_begins_in_a_fresh_folder_which_is_gone_after_it(root: Path) -> None:
    one = job(Command("pwd; ls -A; mkdir -p a/b; touch a/b/c"))
    async with world(root) as w:
        assert (await w.run(one)).good
    assert w.text(one).splitlines() == [f"{w.places}/{one.id}-1"]
    assert not w.places.exists()


async def test_a_scripts_own_file_does_not_lie_where_it_begins(root: Path) -> None:
    one = job(Script("pwd; ls -A; touch a; echo $0", "sh"))
    async with world(root) as w:
        assert (await w.run(one)).good
    assert w.text(one).splitlines() == [f"{w.places}/{one.id}-1/home", f"{w.places}/{one.id}-1/script"]
    assert not w.places.exists()


async def test_its_standard_input_is_empty(root: Path) -> None:
    one = job(Command("cat; echo done"))
    async with world(root) as w:
        assert (await w.run(one)).good
    assert w.text(one) == "done\n"


@pytest.mark.parametrize("shell", ["/bin/sh", "sh", "python3"])
async def test_a_script_is_run_by_the_interpreter_that_it_names(root: Path, shell: str) -> None:
    text = "print(6 * 7)" if shell == "python3" else "echo $((6 * 7))"
    one = job(Script(text, shell))
    async with world(root) as w:
        assert (await w.run(one)).good
    assert w.text(one) == "42\n"


@pytest.mark.parametrize("shell", ["/bin/nosuchshell", "nosuchshell", "bin/sh", "/bin/sh -e", "/etc"])
async def test_a_script_whose_interpreter_is_not_there_never_begins(root: Path, shell: str) -> None:
    one = job(Script("echo", shell))
    async with world(root) as w:
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
    root: Path, payload: dict[str, Any], said: str
) -> None:
    one = job(Task("command", payload))
    async with world(root) as w:
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
async def test_what_cannot_be_started_says_why(root: Path, work: Work) -> None:
    async with world(root) as w:
        with pytest.raises(JobError) as raised:
            await w.run(job(work))
        assert raised.value.code == "JOB_NOT_STARTED"
        assert len(raised.value.message) > 10
        assert (await w.run(job(Command("true")))).good


async def test_a_job_that_closes_its_output_is_waited_for(root: Path) -> None:
    one = job(Command("echo a; exec >&- 2>&-; sleep 0.3; exit 7"))
    async with world(root) as w:
        assert (await w.run(one)).exit_code == 7
    assert w.text(one) == "a\n"


async def test_what_a_job_leaves_running_ends_with_it(root: Path) -> None:
    one = job(Command("(trap '' TERM; sleep 1000) & echo a"))
    async with world(root) as w:
        assert (await w.run(one)).good
    assert processes_of(one) == []


async def test_a_daemon_that_left_the_session_ends_with_its_job(root: Path) -> None:
    other = job(Command("sleep 2"))
    one = job(Command("setsid sh -c 'setsid sleep 1000 & echo $!'"))
    bare = job(Command("env -i setsid sh -c 'sleep 1000 & echo $!'"))
    async with world(root) as w:
        assert (await w.run(one)).good
        assert processes_of(one) == []
        assert (await w.run(bare)).good
        assert (await w.run(other)).good  # one that has nothing to do with it
        left = int(w.text(bare))
        gone(bare)
        assert not Path(f"/proc/{left}").exists()


async def test_an_attempt_is_started_once(root: Path) -> None:
    one = job(Command("echo a"))
    async with world(root) as w:
        await w.run(one)
        with pytest.raises(JobError) as raised:
            await w.run(one)
    assert raised.value.code == "JOB_NOT_STARTED"
    assert w.text(one) == "a\n"


@pytest.mark.parametrize("user", ["", "daemon"])
async def test_a_job_of_roots_homed_has_nothing_of_root(root: Path, user: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("changes the user, which only root can")
    known = pwd.getpwnam(user or "nobody")
    one = job(Script("grep -E '^(Uid|Gid|Groups|CapPrm|CapEff):' /proc/self/status; touch x; stat -c '%u %g' x . $0"))
    async with world(root, Config(user=user, users=(user,) if user else ())) as w:
        assert (await w.run(one)).good, w.text(one, "stderr")
    ids, none = (known.pw_uid, known.pw_gid), "0" * 16
    lines = [line.split() for line in w.text(one).splitlines()]
    assert lines[:2] == [["Uid:", *[str(ids[0])] * 4], ["Gid:", *[str(ids[1])] * 4]]
    assert lines[2:5] == [["Groups:", str(ids[1])], ["CapPrm:", none], ["CapEff:", none]]
    assert lines[5:] == [[str(ids[0]), str(ids[1])]] * 3
    assert not w.places.exists()


async def test_a_job_may_not_begin_where_its_user_may_not_go(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("changes the user, which only root can")
    (root / "closed").mkdir(mode=0o700)
    async with world(root) as w:
        with pytest.raises(JobError, match="Permission denied"):
            await w.run(job(Task("command", {"command": "true", "cwd": str(root / "closed")})))
        # The spawner is root again.
        assert (await w.run(job(Command("true")))).good


@pytest.mark.parametrize("name", ["nosuchuser", "root"])
async def test_a_user_that_is_not_there_never_begins(root: Path, name: str) -> None:
    async with world(root, Config(users=("nosuchuser",))) as w:
        if name == "nosuchuser":
            with pytest.raises(JobError) as raised:
                await w.run(job(Command("true"), user=name))
            assert raised.value.code == "JOB_NOT_STARTED"
        elif os.geteuid() == 0:
            assert (await w.run(job(Command("true"), user=name))).good


async def test_on_a_full_disk_it_says_so_and_the_end_is_known(root: Path) -> None:
    with filesystems.in_memory(root / "small", 4):
        one = job(Command("head -c 10000000 /dev/zero || exit 9"))
        async with world(root / "small") as w:
            result = await w.run(one)
            assert result.exit_code == 9
            assert "space" in w.text(one, "stderr") or w.text(one, "stderr") == ""
            script = job(Script("#" * 5000))
            with pytest.raises(JobError) as raised:
                await w.run(script)
            assert raised.value.code == "JOB_NOT_STARTED"
            assert "No space" in raised.value.message


def _remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


async def test_where_its_folder_cannot_be_written_it_does_not_begin(root: Path) -> None:
    one = job(Command("touch /nowhere/x"))
    with filesystems.in_memory(root / "small", 4):
        async with world(root / "small") as w:
            attempt = w.attempt(one)
            _remount(root / "small", "ro")
            with pytest.raises(JobError) as raised:
                await w.runner.run(attempt)
            _remount(root / "small", "rw")
    assert raised.value.code == "JOB_NOT_STARTED"


async def test_another_users_folder_is_not_taken_for_the_jobs(root: Path) -> None:
    (root / "places").mkdir()
    (root / "places").chmod(0o777)
    async with world(root) as w:
        with pytest.raises(JobError, match="not homed's own"):
            await w.run(job(Command("true")))


async def test_a_job_may_take_no_more_memory_than_configured(root: Path) -> None:
    config = Config(limits=JobLimits(memory=64 << 20))
    one = job(Script("x = bytearray(256 << 20)", "python3"))
    async with world(root, config) as w:
        assert (await w.run(one)).exit_code == 1
    assert "MemoryError" in w.text(one, "stderr")


async def test_what_a_job_leaves_is_removed_however_deep_it_is(root: Path) -> None:
    dig = "import os\nfor _ in range(3000): os.mkdir('a'); os.chdir('a')"
    async with world(root) as board:
        one = job(Command(f'python3 -c "{dig}"'))
        assert (await board.run(one)).exit_code == 0
        assert os.listdir(board.places) == []
        left = job(Command(f'python3 -c "{dig}"'))
        await board.runner.run(board.attempt(left))  # and homed is killed here
        await board.runner.sweep(lambda: [])
        assert os.listdir(board.places) == []
