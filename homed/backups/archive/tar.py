"""How GNU tar is called, and what it means by what it says.

Extended attributes carry the ACLs and SELinux's labels too (system.posix_acl_*, security.selinux): --acls and --selinux
would read each a second time, which costs as much as all the rest of a small file.
"""

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import IO, Final, NamedTuple

from homed.errors import BackupError, BackupSpaceError

PROGRAM: Final = "tar"
PIPE: Final = 1 << 20
_ENVIRONMENT: Final[Mapping[str, str]] = {
    "LC_ALL": "C",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
_LONGEST_LINE: Final = 1 << 16
_ESCAPE: Final = re.compile(rb"\\(?:([0-7]{3})|(.))", re.DOTALL)
_LETTERS: Final = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
# `tar: NAME: what`, the colons in the name escaped.
_MESSAGE: Final = re.compile(rb"(?:\S*/)?tar: (?:((?:[^\\:]|\\.)*): )?(.*)", re.DOTALL)


class Meaning(Enum):
    """CHANGED: it was written while it was read. GONE: it was deleted meanwhile. SKIPPED: tar does not keep such.
    FULL: no space is left. REMARK: tar goes on, and nothing is wrong. ERROR: everything else.
    """

    CHANGED = auto()
    GONE = auto()
    SKIPPED = auto()
    FULL = auto()
    REMARK = auto()
    ERROR = auto()


_CLOSING: Final = re.compile(rb"(?:\S*/)?tar: (?:Exiting with failure status|Error is not recoverable)")
_MEANINGS: Final = (
    (re.compile(r"file changed as we read it", re.IGNORECASE), Meaning.CHANGED),
    (re.compile(r"file shrank by \d+ bytes?; padding with zeros", re.IGNORECASE), Meaning.CHANGED),
    (re.compile(r"file removed before we read it", re.IGNORECASE), Meaning.GONE),
    (re.compile(r"Cannot (?:stat|open|readlink|savedir|read|close|chdir): No such file or directory"), Meaning.GONE),
    (re.compile(r"Cannot .*: Stale file handle"), Meaning.GONE),
    (re.compile(r"socket ignored"), Meaning.SKIPPED),
    (re.compile(r"door ignored"), Meaning.SKIPPED),
    (re.compile(r".*(?:No space left on device|Disk quota exceeded|Wrote only \d+ of \d+ bytes)"), Meaning.FULL),
    (re.compile(r"time stamp .* s in the future"), Meaning.REMARK),
    (re.compile(r"implausibly old time stamp"), Meaning.REMARK),
    (
        re.compile(r"Cannot (?:set|get|list|l?getxattr|l?setxattr|f?setxattr|llistxattr).*: Operation not supported"),
        Meaning.REMARK,
    ),
    (re.compile(r"(?:file is on a different filesystem|contains a cache directory tag).*"), Meaning.REMARK),
)


class Message(NamedTuple):
    """`name` is empty where tar named nothing."""

    name: bytes
    text: str
    meaning: Meaning


def create(
    folder: Path, prefix: str, *, exclude: Sequence[bytes] = (), named: bool = False, only: bool = False
) -> list[str | bytes]:
    """The command that writes a folder's tree to its output, `.` becoming `prefix`.

    `exclude` are paths in it, `./a/b`. `named`: the names come by the standard input (NUL after each), and folders are
    taken without what is in them; `only`: there is one, which is called `prefix`.
    """
    pattern = "^.*$" if only else r"^\."
    command: list[str | bytes] = [PROGRAM, "-c", "-b", "512", "--format=posix"]
    command += ["--pax-option=delete=atime,delete=ctime", "--sparse", "--xattrs", "--xattrs-include=*"]
    command += ["--numeric-owner", "--quoting-style=escape", f"--transform=flags=rhS;s,{pattern},{prefix},"]
    command += ["--anchored", "--no-wildcards", *(b"--exclude=" + path for path in exclude)]
    command += ["-f", "-", "-C", str(folder)]
    if named:
        return [*command, "--no-recursion", "--no-unquote", "--null", "--verbatim-files-from", "-T", "-"]
    return [*command, "."]


def extract(folder: Path, prefix: str) -> list[str]:
    """The command that reads members below `prefix` and lays them out in a folder, which takes the prefix's place."""
    escaped = prefix.replace(".", r"\.")
    command = [PROGRAM, "-x", "-b", "512", "--format=posix", "--xattrs", "--xattrs-include=*", "--numeric-owner"]
    command += ["--same-owner", "--same-permissions", "--quoting-style=escape", "--warning=no-timestamp"]
    return [*command, f"--transform=flags=rhS;s,^{escaped},.,", "-f", "-", "-C", str(folder)]


def start(
    command: Sequence[str | bytes],
    log: IO[bytes],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
) -> "subprocess.Popen[bytes]":
    """Run it with its messages going to `log`. BackupError where there is no tar."""
    try:
        return subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=log, pipesize=PIPE, env=dict(_ENVIRONMENT), close_fds=True
        )
    except OSError as error:
        raise BackupError(f"tar cannot be run: {error.strerror}") from error


def check() -> None:
    """BackupError where tar is not GNU tar: no other understands how it is called here."""
    try:
        asked = subprocess.run(
            [PROGRAM, "--version"], env=dict(_ENVIRONMENT), capture_output=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackupError(f"tar cannot be run: {error}") from error
    if b"(GNU tar)" not in asked.stdout.partition(b"\n")[0]:
        raise BackupError("the board's tar is not GNU tar, which backups need")


def messages(log: IO[bytes]) -> Iterator[Message]:
    """What tar said, read from the beginning of its log."""
    log.seek(0)
    while text := log.readline(_LONGEST_LINE):
        found = understand(text.rstrip(b"\n"))
        if found is not None:
            yield found


def check_kept(log: IO[bytes]) -> None:
    """OSError where there is no room for what tar says: where it failed and said nothing, this is why."""
    log.seek(0, 2)
    log.write(bytes(_LONGEST_LINE))
    log.flush()


def understand(text: bytes) -> Message | None:
    """One line of tar's; None for what only repeats that something was wrong."""
    if _CLOSING.match(text):
        return None
    match = _MESSAGE.fullmatch(text)
    name, words = (match[1] or b"", match[2]) if match is not None else (b"", text)
    said = words.decode("utf-8", "backslashreplace")
    meaning = next((meaning for pattern, meaning in _MEANINGS if pattern.match(said)), Meaning.ERROR)
    return Message(unquote(name), said, meaning)


def unquote(name: bytes) -> bytes:
    """A name out of a message (quoting style `escape`)."""
    if b"\\" not in name:
        return name
    return _ESCAPE.sub(lambda one: bytes([int(one[1], 8) & 0xFF]) if one[1] else _LETTERS.get(one[2], one[2]), name)


def failure(said: Iterable[Message], what: str, status: int) -> BackupError:
    """The error for a tar that ended with this status: the first thing that it said was wrong."""
    wrong = [one for one in said if one.meaning in (Meaning.ERROR, Meaning.FULL)]
    if any(one.meaning is Meaning.FULL for one in wrong):
        return BackupSpaceError(f"{what}: no space is left")
    if wrong:
        name = wrong[0].name.decode("utf-8", "backslashreplace")
        return BackupError(f"{what}: {name + ': ' if name else ''}{wrong[0].text}")
    ended = f"signal {-status}" if status < 0 else f"status {status}"
    return BackupError(f"{what}: tar ended with {ended}")
