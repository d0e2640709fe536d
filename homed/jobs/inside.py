"""What homed itself runs inside of jobs: `python -m homed.jobs.inside`. Imports are few: each job waits for them."""

import codecs
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from homed.jobs import direct

if TYPE_CHECKING:
    from homed.jobs.unpack.unpack import Limits

_FOLDER = "archive"
_AS = "--as"
# The interpreter, its options and this module: what stands before the arguments in a call.
_PROGRAM = 4
_WRONG_CALL, _FAILED = 2, 125
_REFUSED = re.compile(r"homed: (UNSAFE_ARCHIVE|BAD_ARCHIVE): ([^\n]*)\n")


class User(Protocol):
    """As whom a job runs, by numbers."""

    @property
    def user(self) -> int: ...

    @property
    def group(self) -> int: ...

    @property
    def groups(self) -> Sequence[int]: ...


def as_user(argv: Sequence[str], ids: User) -> tuple[str, ...]:
    """The call of this program that becomes that user before it looks at anything that it was given."""
    program, what = argv[:_PROGRAM], argv[_PROGRAM:]
    return (*program, _AS, ":".join([str(ids.user), str(ids.group), *map(str, ids.groups)]), *what)


def main(arguments: Sequence[str]) -> int:
    ids: tuple[int, ...] = ()
    if arguments[:1] == [_AS]:
        ids, arguments = tuple(int(one) for one in arguments[1].split(":")), arguments[2:]
    match arguments:
        case ["archive", size, members, commands]:
            return archive(int(size), int(members), commands, ids)
        case ["evaluate"]:
            return evaluate(ids)
        case _:
            print("usage: python -m homed.jobs.inside (homed itself starts it)", file=sys.stderr)
            return _WRONG_CALL


def become(ids: Sequence[int]) -> None:
    """Be another user for good, from root: (user, group, groups). OSError. What is imported later may not be read."""
    if not ids:
        return
    user, group, *groups = ids
    os.setgroups(groups)
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    if os.getresuid() != (user, user, user) or os.getresgid() != (group, group, group):
        raise PermissionError(0, "it is still another user")


def archive(size: int, members: int, commands: str, ids: Sequence[int] = ()) -> int:
    """Unpack standard input into a fresh folder below this one, and become the shell that runs the commands there.

    One after the other, whether those before it failed or not (`direct`). 125 if it cannot be unpacked.
    """
    from homed.errors import JobError
    from homed.jobs.unpack.unpack import Limits

    try:
        codecs.lookup("cp437")  # of names in zip archives: Python would look for it later
        become(ids)
        _unpack(Path(_FOLDER), Limits(size, members))
        _become_shell(commands)
    except JobError as error:
        print(f"homed: {error.code}: {error.message}", file=sys.stderr)
    except OSError as error:
        print(f"homed: the archive cannot be unpacked: {error.strerror}", file=sys.stderr)
    return _FAILED


def refusal(exit_code: int | None, stderr: str) -> tuple[str, str] | None:
    """The code and the words with which an archive was not taken, from how its job ended; None where it was taken."""
    found = _REFUSED.match(stderr) if exit_code == _FAILED else None
    return (found[1], found[2]) if found else None


def _unpack(folder: Path, limits: "Limits") -> None:
    from homed.jobs.unpack.unpack import unpack

    folder.mkdir()
    with open(0, "rb", closefd=False) as file:
        unpack(file, folder, limits)
    os.chdir(folder)


def _become_shell(commands: str) -> None:
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    argv = direct.program(direct.split(commands, direct.understands))
    os.execve(direct.SHELL, argv, os.environ)  # noqa: S606  the job itself


def evaluate(ids: Sequence[int] = ()) -> int:
    """Evaluate the expression on standard input."""
    from homed.jobs.tasks.evaluation import main as evaluation

    become(ids)
    return evaluation.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
