"""Direct mode of the executor: each command of a text runs in its own shell. Few imports keep a job's start fast.

As clients of the original expect it: `cd` in one command does not move the next, a command that fails does not stop the
next ones, and above the output of each stand the command and a rule.
"""

import os
import re
from collections.abc import Callable, Sequence

SHELL = "/bin/sh"
_RULE = "-" * 80
_MAX_JOINED = 100  # maximum lines of one command
_HEREDOC = re.compile(r"(?<!<)<<-?[ \t]*(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\1")
# Standard error joins standard output: in files of their own, the order of the two would be a guess. The exit code is
# that of the first command that failed.
_LOOP = """\
code=0
while [ "$#" -gt 0 ]; do
  printf '%s\\n' "$1"
  /bin/sh -c "$2"
  now=$?
  [ "$code" -ne 0 ] || code=$now
  shift 2
done 2>&1
exit "$code"
"""


def split(text: str, is_complete: Callable[[str], bool]) -> list[str]:
    """Split a text into commands: a command is one line, or the lines that a shell needs to parse it as complete.

    A line that no following line completes is a command by itself: the shell will report the error.
    """
    lines = text.split("\n")
    found: list[str] = []
    at = 0
    while at < len(lines):
        end = _end(lines, at, is_complete)
        command = "\n".join(lines[at:end])
        if command.strip():
            found.append(command)
        at = end
    return found


def _end(lines: Sequence[str], start: int, is_complete: Callable[[str], bool]) -> int:
    if not lines[start].strip():
        return start + 1
    for end in range(start + 1, min(len(lines), start + _MAX_JOINED) + 1):
        command = "\n".join(lines[start:end])
        if not _goes_on(command) and is_complete(command):
            return end
    return start + 1


def _goes_on(command: str) -> bool:
    """Return whether the last line continues or a here-document is open: a shell accepts both at the end of input."""
    last = command.rpartition("\n")[2]
    if (len(last) - len(last.rstrip("\\"))) % 2:
        return True
    if "<<" not in command:
        return False
    lines = command.split("\n")
    wanted = [(number, found[2]) for number, line in enumerate(lines) for found in _HEREDOC.finditer(line)]
    return any(not any(line.strip("\t") == word for line in lines[number + 1 :]) for number, word in wanted)


def understands(command: str) -> bool:
    """Return whether the shell parses it as complete, without running it."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, nothing, number) for number in (0, 1, 2)]
        argv = [SHELL, "-n", "-c", command]
        child = os.posix_spawn(SHELL, argv, os.environ, file_actions=actions)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    except OSError:
        return True  # it is too long, or no process can be started: the run will report that
    finally:
        os.close(nothing)


def program(commands: Sequence[str]) -> list[str]:
    """Return the shell command that runs them one after the other."""
    pairs = [part for command in commands for part in (header(command), command)]
    return [SHELL, "-c", _LOOP, SHELL, *pairs]


def header(command: str) -> str:
    shown = "\n".join(f"> {line}" for line in command.split("\n"))
    return f"{shown}\n{_RULE}"
