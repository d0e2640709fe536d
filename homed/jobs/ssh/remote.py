"""What is sent to a host to be run: texts for a POSIX shell, made here and judged nowhere else.

Each job's processes carry a mark in their environment, by which they are found again, whatever session they are in.
"""

import hashlib
import shlex
from typing import Final, NamedTuple

from homed.jobs.records import Command, Job, Script

# Linux takes 128 KiB for one argument, and the login shell gets all of it as one.
_LONGEST: Final = 100_000
_MARK: Final = "HOMED_JOB_MARK"


class Order(NamedTuple):
    """A command for the host's login shell, and what it reads. A line of standard error that is `refusal` and a word
    says why the job never began: `shell` (there is none of this name), `space` (its text cannot be put down).
    """

    command: str
    text: bytes
    refusal: bytes


def order(job: Job, work: Command | Script) -> Order:
    """`/bin/sh -c LINE`, or the script as a file for its interpreter. Standard input is empty for either."""
    begin = (
        f"exec env HOMED_JOB_ID={shlex.quote(job.id)} HOMED_JOB_ATTEMPT={job.attempt} {_MARK}={mark(job)} /bin/sh -c "
    )
    refusal = f"homed {mark(job)} "
    if isinstance(work, Command):
        command = begin + shlex.quote(work.line)
        if len(command.encode()) <= _LONGEST and "\0" not in command:
            return Order(command, b"", refusal.encode())
        text, shell = work.line.encode(), "/bin/sh"
    else:
        text, shell = work.script.encode(), work.shell
    return Order(begin + shlex.quote(_as_file(text, shell, refusal)), text, refusal.encode())


def mark(job: Job) -> str:
    """Of this attempt alone. All are of one length, so that none is the beginning of another."""
    return hashlib.sha256(f"{job.id}\0{job.attempt}\0{job.token}".encode()).hexdigest()[:32]


def _as_file(text: bytes, shell: str, refusal: str) -> str:
    """The file is gone before the interpreter begins, which reads it by its descriptor: nothing is left of it, whatever
    ends the job. Its length is compared: of one that a lost connection cut short, nothing is run.
    """
    name = shlex.quote(shell)
    return f"""\
command -v {name} >/dev/null 2>&1 || {{ echo "{refusal}shell" >&2; exit 127; }}
umask 077
file=$(mktemp "${{TMPDIR:-/tmp}}/homed-job.XXXXXX") || {{ echo "{refusal}space" >&2; exit 126; }}
trap 'rm -f "$file"' EXIT
cat >"$file" && exec 9<"$file" && rm -f "$file" && test "$(wc -c </dev/fd/9)" -eq {len(text)} ||
{{ echo "{refusal}space" >&2; exit 126; }}
trap - EXIT
exec {name} /dev/fd/9 </dev/null"""


def sweep(job: Job) -> str:
    """Ends what carries the attempt's mark: TERM, then after a second KILL, until nothing does. Prints how many
    processes there were, and how many are left.
    """
    return "exec /bin/sh -c " + shlex.quote(_SWEEP.replace("MARK", f"{_MARK}={mark(job)}"))


class Swept(NamedTuple):
    found: int
    left: int


def swept(output: str) -> Swept | None:
    """What a sweep printed; None where it could not be done there."""
    words = output.split()
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return None
    return Swept(int(words[0]), int(words[1]))


# `sleep` takes parts of a second on every Linux but the smallest.
_SWEEP: Final = """\
test -r /proc/self/environ && command -v grep >/dev/null || exit 1
find_them() { grep -lF MARK /proc/[0-9]*/environ 2>/dev/null | sed 's,^/proc/,,;s,/.*,,'; }
them=$(find_them)
found=$(echo $them | wc -w)
if test -n "$them"; then
kill -TERM $them 2>/dev/null
kill -CONT $them 2>/dev/null
round=0
while them=$(find_them) && test -n "$them" && test $round -lt 18; do
round=$((round + 1))
test $round -gt 9 && kill -KILL $them 2>/dev/null
sleep 0.1 2>/dev/null || { sleep 1; round=$((round + 9)); }
done
fi
echo $found $(echo $them | wc -w)"""
