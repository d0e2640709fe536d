"""The same bytes run under any login shell, or the job says that they did not; with Debian's sshd and real shells."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from homed.jobs.hosts import AuthType, Host, NewHost
from homed.jobs.output.order import Stream
from homed.jobs.records import Command, Script
from homed.jobs.ssh import remote
from homed.jobs.ssh.check import Checks, Status
from homed.jobs.ssh.listener import Listener
from tests.jobs.ssh.test_runner import marked
from tests.support.ssh_world import SshWorld, ssh_world
from tests.support.sshd import Account, Sshd, sshd

_SHELLS = ("fish", "tcsh", "zsh", "bash", "dash", "ash")
# What a shell may read otherwise than /bin/sh: quotes, backslashes, history, ends of lines, comments, globs.
_COMMAND = r"""
printf '%s|' 'it'\''s' "a\\b" 'back\slash' '!!' "$HOME!" '#no' %self {a,b} '*' ~ `echo tick` # and
touch "$1"/ran
echo end"""
_OUTPUT = r"it's|a\b|back\slash|!!|HOME!|#no|%self|{a,b}|*|HOME|tick|end" + "\n"
_STUBBORN = "trap '' TERM HUP\n(trap '' TERM HUP; while :; do sleep 0.2; done) &\necho on\nwhile :; do sleep 0.2; done"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A directory that other users can reach."""
    if os.geteuid() != 0:
        pytest.skip("accounts of their own need root")
    path = Path(tempfile.mkdtemp(prefix="homed-shells-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def shells(home: Path) -> Iterator[Sshd]:
    """`homed-fish` and so on have these login shells; `homed-noisy` prints much, `homed-nologin` takes nobody."""
    accounts = []
    busybox = shutil.which("busybox")
    assert busybox is not None
    (home / "ash").symlink_to(busybox)
    for number, name in enumerate((*_SHELLS, "noisy", "greedy", "nologin", "silent")):
        own = home / f"home-{name}"
        own.mkdir()
        match name:
            case "ash":
                shell = str(home / "ash")
            case "noisy" | "greedy":
                shell = "/bin/bash"
            case "nologin":
                shell = "/usr/sbin/nologin"
            case "silent":
                shell = "/bin/true"
            case _:
                found = shutil.which(name)
                if found is None:
                    pytest.skip(f"{name} is not installed")
                shell = found
        os.chown(own, 64200 + number, 65534)
        accounts.append(Account(f"homed-{name}", 64200 + number, shell, str(own)))
    # bash reads it when sshd starts it, also for a command.
    (home / "home-noisy" / ".bashrc").write_text(
        "printf 'Welcome to \\377 the board\\n\\n'; echo 'mail: none' >&2; printf 'no newline'; head -c 3000 /dev/zero"
    )
    (home / "home-greedy" / ".bashrc").write_text("read -r line; echo I read $line\n")
    (home / "sshd").mkdir()
    with sshd(home / "sshd", accounts=accounts) as running:
        yield running


async def _host(world: SshWorld, server: Sshd, name: str) -> Host:
    return await world.hosts.create(
        NewHost(
            name=name, hostname="127.0.0.1", port=server.port, user=f"homed-{name}", auth_type=AuthType.KEY,
            private_key=server.key,
        )
    )  # fmt: skip


async def _works(world: SshWorld, server: Sshd, name: str, home: Path) -> None:
    host, own = await _host(world, server, name), home / f"home-{name}"
    expected = _OUTPUT.replace("HOME", str(own))
    works: list[Command | Script] = [Command(f"set -- {own}{_COMMAND}"), Script(f"set -- {own}{_COMMAND}", "sh")]
    for number, work in enumerate(works):
        result, run = await world.run(host, work)
        assert (name, result.code, run.stdout, run.stderr) == (name, "", expected, "")
        assert (own / "ran").exists(), (name, number)
        (own / "ran").unlink()
    result, run = await world.run(host, r"grep -c 'it\'s' /etc/passwd; touch /tmp/never")
    assert (name, result.good) == (name, False)
    # The interpreter's own ends of lines do not matter, nor does what the login shell calls its syntax.
    result, run = await world.run(host, Script("print('a',\r\n  'b')\r\nimport sys; sys.exit(3)\r\n", "python3"))
    assert (result.exit_code, run.stdout) == (3, "a b\n")
    checked = await Checks(world.hosts, world.connections).check(host.id)
    assert (checked.status, checked.output) == (Status.CONNECTED, "test")


@pytest.mark.parametrize("name", _SHELLS)
async def test_the_same_bytes_run_under_any_login_shell(shells: Sshd, home: Path, tmp_path: Path, name: str) -> None:
    async with ssh_world(tmp_path) as world:
        await _works(world, shells, name, home)


async def test_a_cancel_ends_a_tree_that_ignores_it_under_any_login_shell(shells: Sshd, tmp_path: Path) -> None:
    async def cancel(world: SshWorld, name: str) -> None:
        run = world.start(await _host(world, shells, name), _STUBBORN)
        await run.printed("on")
        result = await run.kill()
        assert (name, result.signal) == (name, "SIGKILL")
        assert marked(run.job) == []

    async with ssh_world(tmp_path) as world:
        await asyncio.gather(*(cancel(world, name) for name in _SHELLS))


async def test_what_start_up_files_print_is_no_output(shells: Sshd, home: Path, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        await _works(world, shells, "noisy", home)


@pytest.mark.parametrize(
    ("name", "said"),
    [("nologin", "This account is currently not available"), ("silent", "said nothing"), ("greedy", "I read")],
)
async def test_a_login_shell_that_runs_nothing_fails_the_job_and_the_check(
    shells: Sshd, tmp_path: Path, name: str, said: str
) -> None:
    async with ssh_world(tmp_path) as world:
        host = await _host(world, shells, name)
        for work in (Command("echo hi"), Script("echo hi", "bash")):
            result, run = await world.run(host, work)
            assert (result.code, run.stdout) == ("JOB_NOT_STARTED", "")
            assert said in result.error
        checked = await Checks(world.hosts, world.connections).check(host.id)
        assert (checked.status, checked.code) == (Status.DISCONNECTED, "HOST_REFUSED")


async def test_a_cancel_that_cannot_reach_the_processes_says_so(
    shells: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a host without /proc."""
    async with ssh_world(tmp_path) as world:
        run = world.start(await _host(world, shells, "dash"), _STUBBORN)
        await run.printed("on")
        monkeypatch.setattr(remote, "_SWEEP", "test -r /nonexistent || exit 1")
        result = await run.kill()
        assert result.code == "JOB_NOT_ENDED"
        assert "cannot be seen" in result.error
        for process in marked(run.job):
            psutil.Process(process.pid).kill()


def test_output_begins_after_the_first_line_of_homeds() -> None:
    for cut in range(1, 40):
        listener, heard = Listener("k" * 16), b""
        text = b"hello homed \xff\nhomed " + b"k" * 16 + b" begun\nout\nhomed " + b"k" * 16 + b" shell\n"
        for at in range(0, len(text), cut):
            heard += listener.hear(Stream.STDOUT, text[at : at + cut])
        assert (heard, listener.begun) == (b"out\nhomed " + b"k" * 16 + b" shell\n", True)
        assert listener.noise.startswith("hello homed")


def test_a_start_up_file_that_prints_on_and_on_fills_no_memory() -> None:
    listener = Listener("k" * 16)
    for _ in range(1000):
        assert listener.hear(Stream.STDERR, b"x" * 10_000) == b""
    assert len(listener.noise) == 512
    assert not listener.begun
