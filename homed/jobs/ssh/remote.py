"""The texts that are sent to a host to be run, made here and judged nowhere else.

A host's login shell may be any program: sh, fish, tcsh, nologin. It gets one short command (`_BOOTSTRAP`) that all
shells read alike: it has no backslash, no exclamation mark, no quote within its quotes and no end of a line. That
starts /bin/sh, which reads the rest over standard input: first a text of known length for itself, then the job's own
bytes. (`exec /bin/sh` alone would be shorter, but dash and busybox read ahead of the line that they execute, so what
follows in standard input would be lost in their buffers.)

Each text first says `homed KEY begun` on both streams. Everything before that is said by the login shell and its
start-up files, and is no output; without it nothing was run, whatever the exit status says.

Each job's processes carry a mark in their environment, by which they are found again, whatever session they are in.
"""

import hashlib
import secrets
import shlex
from typing import Final, NamedTuple

from homed.jobs.records import Command, Job, Script
from homed.jobs.scripts import normal_lines, normal_script

# Linux takes 128 KiB for one argument.
_MAX_LINE_BYTES: Final = 100_000
_MARK: Final = "HOMED_JOB_MARK"
BEGUN: Final = b"begun"
_BOOTSTRAP: Final = (
    "exec /bin/sh -c '"
    'text=$(dd bs=1 count=LENGTH 2>/dev/null); case $text in "# homed KEY"*"# KEY end") eval "$text";; esac'
    "'"
)


class Order(NamedTuple):
    """A command for the host's login shell, and the bytes of its standard input.

    It answers with lines of `homed KEY word`: `begun`, or why the job never began: `shell` (there is none of this
    name), `space` (its text cannot be put down), `cut` (its text did not come whole).
    """

    command: str
    text: bytes
    key: str


def order(job: Job, work: Command | Script) -> Order:
    """`/bin/sh -c LINE`, or the script as a file for its interpreter. Standard input is empty for either."""
    key = mark(job)
    environment = f"export HOMED_JOB_ID={shlex.quote(job.id)} HOMED_JOB_ATTEMPT={job.attempt} {_MARK}={key}\n"
    if isinstance(work, Command):
        text, shell = normal_lines(work.line).encode(), "/bin/sh"
        if len(text) <= _MAX_LINE_BYTES and b"\0" not in text:
            end = f"# {key} line"
            return _order(environment + _as_line(key, end), key, text + end.encode())
    else:
        text, shell = normal_script(work.script, work.shell).encode(), work.shell
    return _order(environment + _as_file(len(text), shell, key), key, text)


def plain(line: str) -> Order:
    """A short text for /bin/sh that is part of homed itself."""
    key = secrets.token_hex(16)
    return _order(f"{_begin(key)}\n{line}", key)


def sweep(job: Job) -> Order:
    """Ends what carries the attempt's mark: TERM, then after a second KILL, until nothing does. Prints how many
    processes there were, and how many are left.
    """
    return plain(_SWEEP.replace("MARK", f"{_MARK}={mark(job)}"))


def mark(job: Job) -> str:
    """Of this attempt alone. All are of one length, so that none is the beginning of another."""
    return hashlib.sha256(f"{job.id}\0{job.attempt}\0{job.token}".encode()).hexdigest()[:32]


class Swept(NamedTuple):
    found: int
    left: int


def swept(output: str) -> Swept | None:
    """What a sweep printed; None if it could not be done there."""
    words = output.split()
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return None
    return Swept(int(words[0]), int(words[1]))


def _order(script: str, key: str, rest: bytes = b"") -> Order:
    text = f"# homed {key}\n{script}\n# {key} end".encode()
    command = _BOOTSTRAP.replace("LENGTH", str(len(text))).replace("KEY", key)
    return Order(command, text + rest, key)


def _begin(key: str) -> str:
    return f'echo "homed {key} begun"; echo "homed {key} begun" >&2'


def _as_line(key: str, end: str) -> str:
    """The line comes with an end of its own: of one that a lost connection cut short, nothing is run."""
    return f"""\
line=$(cat)
case $line in *"{end}") line=${{line%"{end}"}};; *) echo "homed {key} cut" >&2; exit 126;; esac
{_begin(key)}
exec /bin/sh -c "$line" </dev/null"""


def _as_file(length: int, shell: str, key: str) -> str:
    """The file is gone before the interpreter begins, which reads it by its descriptor: nothing is left of it, whatever
    ends the job. Its length is compared: of one that a lost connection cut short, nothing is run.
    """
    name = shlex.quote(shell)
    return f"""\
command -v {name} >/dev/null 2>&1 || {{ echo "homed {key} shell" >&2; exit 127; }}
file=$(mktemp "${{TMPDIR:-/tmp}}/homed-job.XXXXXX") || {{ echo "homed {key} space" >&2; exit 126; }}
trap 'rm -f "$file"' EXIT
cat >"$file" && exec 9<"$file" && rm -f "$file" && test "$(wc -c </dev/fd/9)" -eq {length} ||
{{ echo "homed {key} space" >&2; exit 126; }}
trap - EXIT
{_begin(key)}
exec {name} /dev/fd/9 </dev/null"""


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
