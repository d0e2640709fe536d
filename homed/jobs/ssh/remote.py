"""The texts that are sent to a host to be run, made here and judged nowhere else.

A host's login shell may be any program: sh, fish, tcsh, nologin. It gets one short command (`_BY_LINE`) that all shells
read alike: it has no backslash, no exclamation mark, no quote within its quotes and no end of a line. That starts
/bin/sh, which reads the rest over standard input, byte by byte: first a text for itself, of one line or of a known
length, then the job's own bytes. (`exec /bin/sh` alone would be shorter, but dash and busybox read ahead of the line
that they execute, so what follows in standard input would be lost in their buffers.)

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
_MAX_READ_BYTES: Final = 8192
_MARK: Final = "HOMED_JOB_MARK"
BEGUN: Final = b"begun"
# `read` is a part of the shell: a short command costs no more processes than before.
_BY_LINE: Final = """exec /bin/sh -c 'read -r text; case $text in ": homed KEY;"*"; : KEY") eval "$text";; esac'"""
_BY_LENGTH: Final = (
    "exec /bin/sh -c '"
    'text=$(dd ibs=1 obs=8192 count=LENGTH 2>/dev/null); case $text in "# homed KEY"*"# KEY end") eval "$text";; esac'
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
    environment = f"export HOMED_JOB_ID={shlex.quote(job.id)} HOMED_JOB_ATTEMPT={job.attempt} {_MARK}={key}; "
    if isinstance(work, Command):
        text, shell = normal_lines(work.line).encode(), "/bin/sh"
        if len(text) <= _MAX_LINE_BYTES and b"\0" not in text:
            quoted = shlex.quote(text.decode())
            if "\n" not in quoted and len(quoted) <= _MAX_READ_BYTES:
                return _order(f"{environment}{_begin(key)}; exec /bin/sh -c {quoted} </dev/null", key)
            end = f"# {key} line"
            return _order(environment + _as_line(key, end), key, text + end.encode())
    else:
        text, shell = normal_script(work.script, work.shell).encode(), work.shell
    return _order(environment + _as_file(len(text), shell, key), key, text)


def plain(line: str) -> Order:
    """A short text for /bin/sh that is part of homed itself."""
    key = secrets.token_hex(16)
    return _order(f"{_begin(key)}; {line}", key)


def sweep(job: Job) -> Order:
    """Ends what carries the attempt's mark: TERM, then after a second KILL, until nothing does. Prints how many
    processes there were, and how many are left.
    """
    return plain(_SWEEP.replace("MARK", f"{_MARK}={mark(job)}"))


def mark(job: Job) -> str:
    """Return the mark of this attempt. All have one length, so that none is a prefix of another."""
    return hashlib.sha256(f"{job.id}\0{job.attempt}\0{job.token}".encode()).hexdigest()[:32]


class Swept(NamedTuple):
    found: int
    left: int


def swept(output: str) -> Swept | None:
    """Parse the output of a sweep; None if the host could not run it."""
    words = output.split()
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return None
    return Swept(int(words[0]), int(words[1]))


def _order(script: str, key: str, rest: bytes = b"") -> Order:
    if "\n" not in script:
        text, command = f": homed {key}; {script}; : {key}\n".encode(), _BY_LINE
    else:
        text = f"# homed {key}\n{script}\n# {key} end".encode()
        command = _BY_LENGTH.replace("LENGTH", str(len(text)))
    return Order(command.replace("KEY", key), text + rest, key)


def _begin(key: str) -> str:
    return f'echo "homed {key} begun"; echo "homed {key} begun" >&2'


def _as_line(key: str, end: str) -> str:
    """The line comes with an end of its own: of one that a lost connection cut short, nothing is run."""
    cut = f'echo "homed {key} cut" >&2; exit 126'
    return (
        f'line=$(cat); case $line in *"{end}") line=${{line%"{end}"}};; *) {cut};; esac; '
        f'{_begin(key)}; exec /bin/sh -c "$line" </dev/null'
    )


def _as_file(length: int, shell: str, key: str) -> str:
    """The file is gone before the interpreter begins, which reads it by its descriptor: nothing is left of it, whatever
    ends the job. Its length is compared: of one that a lost connection cut short, nothing is run.
    """
    name = shlex.quote(shell)
    space = f'{{ echo "homed {key} space" >&2; exit 126; }}'
    return (
        f'command -v {name} >/dev/null 2>&1 || {{ echo "homed {key} shell" >&2; exit 127; }}; '
        f'file=$(mktemp "${{TMPDIR:-/tmp}}/homed-job.XXXXXX") || {space}; '
        "trap 'rm -f \"$file\"' EXIT; "
        'cat >"$file" && exec 9<"$file" && rm -f "$file" && '
        f'test "$(wc -c </dev/fd/9)" -eq {length} || {space}; '
        f"trap - EXIT; {_begin(key)}; exec {name} /dev/fd/9 </dev/null"
    )


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
