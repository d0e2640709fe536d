"""What homed itself runs inside of jobs: `python -m homed.jobs.inside`. Imports are few: each job waits for them."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_SHELL = "/bin/sh"
_FOLDER = "archive"
_WRONG_CALL, _FAILED = 2, 125


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case ["archive", size, members, commands]:
            return archive(int(size), int(members), commands)
        case ["evaluate"]:
            return evaluate()
        case _:
            print("usage: python -m homed.jobs.inside (homed itself starts it)", file=sys.stderr)
            return _WRONG_CALL


def archive(size: int, members: int, commands: str) -> int:
    """Unpack standard input into a fresh folder below this one, and become the shell that runs the commands there.

    They run line by line, and stop at the first that fails: what follows counts on it. 125 where it cannot be unpacked.
    """
    from homed.errors import JobError

    try:
        _unpack(Path(_FOLDER), size, members)
        _become_shell(commands)
    except JobError as error:
        print(f"homed: {error.code}: {error.message}", file=sys.stderr)
    except OSError as error:
        print(f"homed: the archive cannot be unpacked: {error.strerror}", file=sys.stderr)
    return _FAILED


def _unpack(folder: Path, size: int, members: int) -> None:
    from homed.jobs.unpack.unpack import Limits, unpack

    folder.mkdir()
    with open(0, "rb", closefd=False) as file:
        unpack(file, folder, Limits(size, members))
    os.chdir(folder)


def _become_shell(commands: str) -> None:
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    os.execve(_SHELL, [_SHELL, "-e", "-c", commands], os.environ)  # noqa: S606  the job itself


def evaluate() -> int:
    """Evaluate the expression on standard input."""
    from homed.jobs.tasks.evaluation import main as evaluation

    return evaluation.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
