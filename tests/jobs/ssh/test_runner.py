"""Jobs at a host, with Debian's sshd: what they print, how they end, and that nothing of them is left."""

import asyncio
import os
import resource
from pathlib import Path

import psutil
import pytest

from homed.clock import now
from homed.jobs.output.order import Stream
from homed.jobs.ports import Attempt
from homed.jobs.records import Command, Handle, Job, Origin, Script
from homed.jobs.ssh import remote
from homed.jobs.ssh.runner import SshRunner
from tests.support.ssh_world import LIMIT, ssh_world
from tests.support.sshd import ACCOUNT, Sshd, sshd

_ELSEWHERE = "setsid sh -c 'trap \"\" TERM HUP; echo elsewhere; exec sleep 300' &"


def marked(job: Job) -> list[psutil.Process]:
    """What runs of a job, wherever it is."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOMED_JOB_ID") == job.id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


async def test_what_a_command_prints_and_how_it_ended(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        host = await world.by_key(server)
        result, run = await world.run(host, "echo out; echo err >&2; exit 3")
        assert (result.exit_code, result.code, result.good) == (3, "EXIT", False)
        assert (run.stdout, run.stderr) == ("out\n", "err\n")
        result, run = await world.run(host, Command("printf", "'%s\\n' grüße 'a b' \"$HOME\""))
        assert (result.exit_code, result.code, result.good) == (0, "", True)
        assert run.stdout == f"grüße\na b\n{os.path.expanduser('~')}\n"
        assert run.handle == Handle(runner="ssh")


async def test_bytes_come_as_they_are(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        _, run = await world.run(await world.by_key(server), r"printf '\377\000\303\244\r\n\033'")
        assert run.output.read(Stream.STDOUT) == b"\xff\x00\xc3\xa4\r\n\x1b"


async def test_a_job_knows_its_id_and_reads_nothing(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        host = await world.by_key(server)
        line = 'echo "$HOMED_JOB_ID $HOMED_JOB_ATTEMPT"; wc -c'
        for id, work in (("it's; $(an) id", Command(line)), ("it's another", Script(line))):
            run = world.start(host, work, id=id)
            assert (await run.work).good
            assert run.stdout == f"{id} 1\n0\n"


async def test_a_command_that_is_killed_names_the_signal(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        result, _ = await world.run(await world.by_key(server), "kill -KILL $$")
        assert (result.exit_code, result.signal, result.code) == (None, "SIGKILL", "SIGNAL")


@pytest.mark.parametrize(
    ("shell", "script", "said"),
    [
        ("/bin/bash", "a=(1 2 3)\necho \"${#a[@]}\" 'x'", "3 x\n"),
        ("sh", "read line || echo nothing to read\necho $0 $#", "nothing to read\n/dev/fd/9 0\n"),
        ("python3", "import sys\nprint('grüße', sys.stdin.read() == '')", "grüße True\n"),
        ("/bin/cat", "no program\nat all", "no program\nat all"),
    ],
)
async def test_a_script_of_any_interpreter(server: Sshd, tmp_path: Path, shell: str, script: str, said: str) -> None:
    async with ssh_world(tmp_path) as world:
        result, run = await world.run(await world.by_key(server), Script(script, shell))
        assert (result.code, run.stdout, run.stderr) == ("", said, "")


async def test_a_long_script_and_a_long_command_are_run_whole_and_leave_no_file(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        host = await world.by_password(server)
        text = "".join(f"# {number}\n" for number in range(300_000)) + "echo the end; exit 4"
        for work in (Script(text), Command(text)):
            result, run = await world.run(host, work)
            assert (result.exit_code, run.stdout) == (4, "the end\n")
        _, run = await world.run(host, "ls /tmp | grep homed-job")
        assert run.stdout == ""


async def test_an_interpreter_that_is_not_there_is_told_apart_from_a_script_that_fails(
    server: Sshd, tmp_path: Path
) -> None:
    async with ssh_world(tmp_path) as world:
        host = await world.by_key(server)
        result, run = await world.run(host, Script("true", "/bin/no such shell"))
        assert (result.code, result.exit_code, run.stderr) == ("SHELL_NOT_FOUND", None, "")
        result, _ = await world.run(host, Script("no-such-program"))
        assert (result.code, result.exit_code) == ("EXIT", 127)


async def test_a_host_with_no_room_for_a_script_says_so(server: Sshd, tmp_path: Path) -> None:
    job_order = remote.order(_job(), Script("echo half"))
    wide = b"${TMPDIR:-/tmp}"
    text = job_order.text.replace(wide, b"/nonexistent".ljust(len(wide), b"/"))
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        job_order.command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(text)
    assert out == b""
    assert f"homed {job_order.key} space\n".encode() in err


async def test_half_a_script_is_never_run(tmp_path: Path) -> None:
    order = remote.order(_job(), Script("echo one\necho two\n"))
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", order.command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    out, err = await process.communicate(order.text[:-9])
    assert (out, err) == (b"", f"homed {order.key} space\n".encode())
    assert list(tmp_path.iterdir()) == []


async def test_an_end_that_is_asked_for_takes_the_whole_tree_with_it(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        host = await world.by_key(server)
        run = world.start(host, f"{_ELSEWHERE} sleep 300 | sleep 300 & sleep 300")
        await run.printed("elsewhere")
        assert len(marked(run.job)) >= 4
        result = await run.kill()
        assert result.signal == "SIGTERM"
        assert marked(run.job) == []


async def test_a_job_is_asked_before_it_is_made_to_end(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        host = await world.by_key(server)
        script = "trap 'echo cleared; exit 5' TERM\necho ready\nwhile :; do sleep 0.1; done"
        run = world.start(host, Script(script))
        await run.printed("ready")
        assert (await run.kill()).exit_code == 5
        assert run.stdout == "ready\ncleared\n"
        run = world.start(host, Script("trap '' TERM\necho ready\nwhile :; do sleep 0.1; done"))
        await run.printed("ready")
        assert (await run.kill()).signal == "SIGKILL"
        assert marked(run.job) == []


async def test_another_attempt_and_another_job_are_let_be(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        host = await world.by_key(server)
        one, other = world.start(host, "echo on; exec sleep 300"), world.start(host, "echo on; exec sleep 300")
        world.runner, first = SshRunner(world.connections), world.runner
        later = world.start(host, "echo on; exec sleep 300", id=one.job.id, attempt=2)
        for run in (one, other, later):
            await run.printed("on")
        await first.kill(one.job)
        assert (await one.work).signal == "SIGTERM"
        assert len(marked(other.job)) == 1
        assert len(marked(later.job)) == 1
        await first.kill(other.job)
        await later.kill()
        await other.work


async def test_a_child_that_holds_the_output_does_not_hold_the_job(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        result, run = await world.run(await world.by_key(server), f"{_ELSEWHERE} sleep 0.2; exit 6")
        assert (result.exit_code, run.stdout) == (6, "elsewhere\n")
        assert marked(run.job) == []


async def test_a_child_that_prints_on_is_heard_to_its_end(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        line = "(for i in 1 2 3 4 5 6; do sleep 0.5; echo $i; done) & exit 0"
        result, run = await world.run(await world.by_key(server), line)
        assert (result.good, run.stdout) == (True, "1\n2\n3\n4\n5\n6\n")


async def test_one_that_waits_for_its_turn_ends_without_having_begun(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path, per_host=1) as world:
        host = await world.by_key(server)
        first = world.start(host, "echo on; sleep 300")
        await first.printed("on")
        second = world.start(host, "echo never")
        await asyncio.sleep(0.1)
        assert (await second.kill()).code == "JOB_NOT_STARTED"
        assert (second.handle, second.stdout) == (None, "")
        await first.kill()


async def test_a_gigabyte_fills_no_memory(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        host = await world.by_key(server)
        await world.run(host, "head -c 20000000 /dev/zero")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result, run = await world.run(host, "head -c 1000000000 /dev/zero; echo end >&2")
        assert (result.good, run.stderr) == (True, "end\n")
        assert run.output.dropped(Stream.STDOUT) == 1_000_000_000 - LIMIT
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


async def test_an_sshd_that_dies_is_told_apart_from_a_command_that_fails(tmp_path: Path) -> None:
    with sshd(tmp_path) as server:
        async with ssh_world(tmp_path) as world:
            host = await world.by_key(server)
            run = world.start(host, "echo on; exec >/dev/null 2>&1; sleep 300")
            await run.printed("on")
            server.kill_sessions()
            result = await run.work
            assert (result.code, result.exit_code, result.signal) == ("SSH_LOST", None, "")
            assert "its processes that ran on there were ended" in result.error
            assert marked(run.job) == []
            # The next one finds its way.
            result, _ = await world.run(host, "true")
            assert result.good


async def test_a_host_that_is_gone_for_good_is_said_to_run_on(tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        with sshd(tmp_path) as server:
            host = await world.by_key(server)
            run = world.start(host, "echo on; exec >/dev/null 2>&1; sleep 300")
            await run.printed("on")
            left = marked(run.job)
            server.kill_sessions(listener=True)
            result = await run.work
        assert result.code == "SSH_LOST"
        assert "may run on there" in result.error
        for process in left:
            process.kill()


async def test_what_an_earlier_homed_left_is_found_and_ended(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        host = await world.by_key(server)
        run = world.start(host, "echo on; exec >/dev/null 2>&1; trap '' HUP; sleep 300; :", handle=Handle(runner="ssh"))
        await run.printed("on")
        await world.connections.close()
        run.work.cancel()
        await asyncio.wait({run.work})
        assert marked(run.job)
        attempt = Attempt(run.job, run.output, _never, lambda part: None)
        result = await world.runner.resume(attempt)
        assert result is not None
        assert result.code == "JOB_LOST"
        assert "its processes that ran on there were ended" in result.error
        assert marked(run.job) == []
        again = await world.runner.resume(attempt)
        assert again is not None
        assert "none of its processes is there any more" in again.error


async def test_what_was_never_sent_may_be_run_again(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        job = world.job(await world.by_key(server), "true")
        output = world.outputs.create(job.id, 1)
        assert await world.runner.resume(Attempt(job, output, _never, lambda part: None)) is None
        await output.finish()


async def test_another_account_runs_it_as_itself(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        host = await world.by_password(server)
        _, run = await world.run(host, "id -un")
        assert run.stdout == f"{ACCOUNT}\n"
        run = world.start(host, f"{_ELSEWHERE} sleep 300")
        await run.printed("elsewhere")
        await run.kill()
        assert marked(run.job) == []


async def _never(handle: Handle) -> None:
    raise AssertionError("it was started again")


def _job() -> Job:
    return Job(id="j", origin=Origin.NEWREMORA, work=Command("true"), created_at=now(), updated_at=now())
