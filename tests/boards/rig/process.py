"""Programs that the rig starts on the machine itself."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Final

# The kernel sends the parent-death signal when the *thread* that forked ends, not its process. So one thread,
# which lives as long as this process, forks all that must die with it, whichever thread asks.
_forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="board-forker")

DIES_WITH_US: Final = ("setpriv", "--pdeathsig", "KILL")

# Of what runs in these, no process and no mount is left once it ends or `unshare` is killed.
NAMESPACES: Final = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--")


class RigError(Exception):
    """The rig could not do what it was told: the message says what, and what the program printed."""


def command(*argv: str | Path, timeout: float = 60, env: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return its output; RigError with its stderr if it fails."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=env,
        )
    except FileNotFoundError as error:
        raise RigError(f"{argv[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise RigError(f"{_line(argv)} did not end in {timeout:g} s") from error
    if done.returncode:
        raise RigError(f"{_line(argv)} failed ({done.returncode}):\n{(done.stderr or done.stdout).strip()[-4000:]}")
    return done.stdout


def spawn(argv: Sequence[str | Path], env: Mapping[str, str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a program that is killed when this process ends, however it ends."""

    def fork() -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C at the terminal is for the tests, which then close their boards.
        return subprocess.Popen(
            [*DIES_WITH_US, *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )

    return _forker.submit(fork).result()


def contained(*argv: str | Path, timeout: float) -> str:
    """Run a program, such as one that mounts, of which nothing is left however it or this process ends."""
    return _forker.submit(command, *DIES_WITH_US, *NAMESPACES, *argv, timeout=timeout).result()


def until(what: str, done: Callable[[], bool], timeout: float, every: float = 0.05) -> None:
    """Wait until something is so; RigError if it still is not after timeout seconds."""
    deadline = monotonic() + timeout
    while not done():
        if monotonic() > deadline:
            raise RigError(f"waited {timeout:g} s in vain for {what}")
        sleep(every)


def _line(argv: Sequence[str | Path]) -> str:
    return " ".join(map(str, argv))
