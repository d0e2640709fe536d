"""Commands at hosts: over a kept connection beside `ssh` with ControlMaster, and at fifty hosts beside Ansible.

One sshd, for all of them; homed's runner writes what it gets into files, as always.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Final

import pytest

from homed.jobs.hosts import Host
from tests.bench.bed import Bed
from tests.bench.figures import Figure, at_least, at_most, in_turn, medians, ratios
from tests.support.ssh_world import SshWorld, ssh_world
from tests.support.sshd import Sshd, sshd
from tests.support.tools import program

_ROUNDS: Final = 5
_COMMANDS: Final = 30
_HOSTS: Final = 50
_ANSIBLE: Final = "usr/lib/python3/dist-packages"
_PACKAGES: Final = (
    "ansible-core", "python3-jinja2", "python3-markupsafe", "python3-packaging", "python3-resolvelib", "python3-yaml",
)  # fmt: skip

_Measure = Callable[[], Coroutine[None, None, float]]


def why_not() -> str | None:
    if shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None or shutil.which("ssh") is None:
        return "OpenSSH is not installed"
    try:
        _ansible()
    except pytest.skip.Exception as skipped:
        return str(skipped)
    return None


def run(bed: Bed) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(dir=bed.folder) as name:
        folder = Path(name)
        with sshd(folder) as server:
            yield _kept(folder, server)
            yield _many(folder, server)


def _kept(folder: Path, server: Sshd) -> Figure:
    key = folder / "client"
    ssh = ["ssh", "-F", "none", "-S", str(folder / "control"), "-p", str(server.port), "-i", str(key)]
    options = ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={folder}/known", "-o", "LogLevel=ERROR"]
    command = [*ssh, *options, f"{server.user}@127.0.0.1"]
    subprocess.run([*command, "-o", "ControlMaster=auto", "-o", "ControlPersist=yes", "true"], check=True)

    async def kept(world: SshWorld) -> _Measure:
        host = await world.by_key(server)
        await _true(world, host)

        async def ours() -> float:
            started = time.perf_counter()
            for _ in range(_COMMANDS):
                await _true(world, host)
            return (time.perf_counter() - started) / _COMMANDS * 1000

        return ours

    def theirs() -> float:
        started = time.perf_counter()
        for _ in range(_COMMANDS):
            subprocess.run([*command, "true"], check=True)
        return (time.perf_counter() - started) / _COMMANDS * 1000

    try:
        pairs = _in_turn(folder, kept, theirs)
    finally:
        subprocess.run([*command, "-O", "exit"], check=True, capture_output=True)
    name = "SSH: `true` over a kept connection, of `ssh` with ControlMaster"
    return at_most(name, 1.2, ratios(pairs), note=medians(pairs, "ms"))


def _many(folder: Path, server: Sshd) -> Figure:
    async def many(world: SshWorld) -> _Measure:
        hosts = [await world.by_key(server) for _ in range(_HOSTS)]

        async def ours() -> float:
            started = time.perf_counter()
            await asyncio.gather(*(_true(world, host) for host in hosts))
            took = time.perf_counter() - started
            for host in hosts:
                world.connections.drop(host.id)
            return took

        return ours

    def theirs() -> float:
        # As for homed, no connection is there yet.
        with tempfile.TemporaryDirectory(prefix="cp") as control:
            inventory = Path(control, "inventory")
            inventory.write_text("".join(f"host{n} ansible_control_path={control}/{n}\n" for n in range(_HOSTS)))
            command, environment = _ansible()
            known = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
            environment |= {
                "ANSIBLE_SSH_ARGS": f"-F none -o ControlMaster=auto -o ControlPersist=2s {known}",
                "HOME": str(folder),
            }
            command += ["all", "-i", str(inventory), "-f", str(_HOSTS), "-m", "command", "-a", "true"]
            command += ["--private-key", str(folder / "client"), "-u", server.user]
            command += ["-e", f"ansible_host=127.0.0.1 ansible_port={server.port}"]
            started = time.perf_counter()
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            took = time.perf_counter() - started
        if done.returncode or done.stdout.count("rc=0") != _HOSTS:
            raise RuntimeError(f"Ansible failed: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        return took

    pairs = _in_turn(folder, many, theirs, rounds=3)
    faster = [their / our for our, their in pairs]
    return at_least(f"SSH: `true` at {_HOSTS} hosts at once, faster than Ansible", 10, faster, note=medians(pairs, "s"))


def _in_turn(
    folder: Path,
    prepare: Callable[[SshWorld], Coroutine[None, None, _Measure]],
    theirs: Callable[[], float],
    rounds: int = _ROUNDS,
) -> list[tuple[float, float]]:
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        runner = stack.enter_context(asyncio.Runner())
        world = ssh_world(place)
        ours = runner.run(prepare(runner.run(world.__aenter__())))
        try:
            return in_turn(rounds, lambda: runner.run(ours()), theirs)
        finally:
            runner.run(world.__aexit__(None, None, None))


async def _true(world: SshWorld, host: Host) -> None:
    result, _ = await world.run(host, "true")
    if not result.good:
        raise RuntimeError(f"`true` failed: {result}")


def _ansible() -> tuple[list[str], dict[str, str]]:
    """The command out of Debian's packages, for Debian's Python, and the environment that has it find its parts."""
    parts = [program(package, _ANSIBLE) for package in _PACKAGES]
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": ":".join(map(str, parts))}
    return ["/usr/bin/python3", str(program("ansible-core", "usr/bin/ansible"))], environment
