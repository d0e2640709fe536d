"""restic as a process: secrets in its environment only, its JSON read as it comes, its errors told in its own words."""

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from homed.backups.worker.context import Watch
from homed.backups.worker.messages import Repository
from homed.errors import ArchiveError, BackupConflictError, BackupError, BackupSpaceError, RemoteError

_CACHE = "restic-cache"
_SFTP = "SFTP_COMMAND"
_MOST_WORDS = 50
_MOST_NAMES = 100
_PATIENCE = 120.0
_LOCK_WAITS = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0)
_FOREIGN_LOCK_WAITS = _LOCK_WAITS[:2]
_NO_REPOSITORY, _LOCKED, _WRONG_KEY = 10, 11, 12  # from restic 0.17 on; before it all were 1
_UNREAD = 3
# What restic says, in any version; the first that fits.
_LOCKED_WORDS = ("repository is already locked", "unable to create lock in backend")
_KEY_WORDS = ("wrong password or no key found",)
_DAMAGE_WORDS = (
    "repository contains errors",
    "ciphertext verification failed",
    "does not match",
    "invalid data returned",
)
_FULL_WORDS = ("no space left on device", "disk quota exceeded")
# All of the old versions' errors of this kind begin alike, also where the repository only cannot be reached.
_CONFIG_WORDS = "unable to open config file"
_ABSENT_WORDS = ("no such file or directory", "does not exist", "NoSuchKey", "NoSuchBucket")
_LOCK_OWNER = re.compile(r"already locked (?:exclusively )?by PID ([0-9]+) on (\S+)")
_UNKNOWN_WORDS = ("no matching ID found", "no such snapshot", "failed to find snapshot")


class AbsentError(RemoteError):
    """There is no repository: nothing at its place says that there ever was."""


class UnknownError(RemoteError):
    """The repository has no such snapshot."""


class LockedError(BackupConflictError):
    """Another restic uses the repository, or died and left its lock. `foreign`: on another host."""

    code = "BACKUP_LOCKED"

    def __init__(self, said: str):
        owner = _LOCK_OWNER.search(said)
        who = f"a restic (PID {owner[1]}) on '{owner[2]}'" if owner is not None else "another restic"
        self.foreign = owner is not None and owner[2] != socket.gethostname()
        super().__init__(
            f"the repository is locked by {who}: try again when that has ended; if it has, and its lock stayed, "
            "`homed backup unlock` removes it",
            details={"pid": int(owner[1]), "host": owner[2]} if owner is not None else {},
        )


class Said(NamedTuple):
    """How a run ended: `unread` are files that could not be read (at most 100 names), `unread_count` how many."""

    output: bytes
    unread: tuple[str, ...]
    unread_count: int


Line = Callable[[Mapping[str, Any]], None]


class Restic:
    """restic on one repository. `work` is the operation's folder; the cache lies beside it, for all operations."""

    def __init__(self, repository: Repository, work: Path, watch: Watch):
        self._repository = repository
        self._work = work
        self._watch = watch
        self._program = shutil.which("restic")

    def run(self, *arguments: str, line: Line | None = None, locks: bool = True) -> Said:
        """Run restic to completion; `line` gets each JSON object that it prints, without it all output is returned.

        If the repository is locked, stale locks of this host are removed, and the command is retried: for a minute if a
        restic of this host runs, for some seconds if the lock is another host's. Raises: LockedError, RemoteError and
        its subclasses, ArchiveError (BACKUP_KEY_WRONG, BACKUP_DAMAGED), BackupSpaceError, Stopped.
        """
        for tried in range(len(_LOCK_WAITS) + 1):
            try:
                return self._once(arguments, line)
            except LockedError as error:
                if not locks or tried >= len(_FOREIGN_LOCK_WAITS if error.foreign else _LOCK_WAITS):
                    raise
                if not tried:
                    self._once(("unlock",), None)  # removes stale locks
                self._pause(_LOCK_WAITS[tried])
        raise AssertionError("the last try returns or raises")

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._watch.check()
            time.sleep(min(0.2, left))

    def _once(self, arguments: Sequence[str], line: Line | None) -> Said:
        if self._program is None:
            raise BackupError("incremental backups need restic, which is not installed")
        self._watch.check()
        process = subprocess.Popen(
            [self._program, *self._options(), *arguments],
            env=self._environment(),
            cwd=self._work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with self._watch.run(process):
            assert process.stdout is not None
            assert process.stderr is not None
            words = _Words(process, process.stderr, _PATIENCE)
            output = _read(process.stdout, line, words)
            code = process.wait()
            words.join()
        self._watch.check()
        if code not in (0, _UNREAD):
            raise _meaning(code, words, self._secrets())
        return Said(output, tuple(words.unread), words.unread_count)

    def _options(self) -> list[str]:
        options = ["--cache-dir", str(self._work.parent / _CACHE), "--cleanup-cache"]
        if _SFTP in self._repository.environment:
            options += ["-o", f"sftp.command={self._repository.environment[_SFTP]}"]
        return options

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "HOME": os.environ.get("HOME", "/root"),
            "TMPDIR": str(self._work),  # packs are made there; /tmp may be memory
            "LC_ALL": "C.UTF-8",
            "RESTIC_PROGRESS_FPS": "2",
            **{name: value for name, value in self._repository.environment.items() if name != _SFTP},
            "RESTIC_REPOSITORY": self._repository.url,  # which may hold a password too
            "RESTIC_PASSWORD": self._repository.password,
        }

    def _secrets(self) -> list[str]:
        environment = self._repository.environment
        named = [
            value for name, value in environment.items() if any(word in name for word in ("KEY", "SECRET", "PASS"))
        ]
        inside = self._repository.url.rpartition("@")[0].rpartition(":")[2]
        return [secret for secret in (self._repository.password, inside, *named) if len(secret) > 3]


class _Words:
    """What restic says on stderr, read on a thread of its own: errors, files that it could not read, and retries.

    A restic that only tries the same again, and gets nowhere, is ended.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", stream: IO[bytes], patience: float):
        self.unread: list[str] = []
        self.unread_count = 0
        self.lines: deque[str] = deque(maxlen=_MOST_WORDS)
        self.moved = time.monotonic()
        self.gave_up = False
        self._process = process
        self._stream = stream
        self._patience = patience
        self._thread = threading.Thread(target=self._follow, name="restic", daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _follow(self) -> None:
        for raw in self._stream:
            text = raw.decode(errors="replace").strip()
            told = _object(text)
            if told.get("message_type") == "error":
                self._note(told)
            elif text:
                self.lines.append(str(told.get("message", text)) if told else text)
            if "retrying after" in text and time.monotonic() - self.moved > self._patience:
                self.gave_up = True
                self._process.kill()

    def _note(self, told: Mapping[str, Any]) -> None:
        item = str(told.get("item", ""))
        error = told.get("error")
        message = error.get("message") if isinstance(error, Mapping) else error
        if item.startswith("/"):
            self.unread_count += 1
            if len(self.unread) < _MOST_NAMES:
                self.unread.append(item)
        self.lines.append(f"{item}: {message}" if item else str(message))


def _read(stream: IO[bytes], line: Line | None, words: _Words) -> bytes:
    if line is None:
        return stream.read()
    for raw in stream:
        told = _object(raw.decode(errors="replace"))
        if told:
            words.moved = time.monotonic()
            line(told)
    return b""


def _object(text: str) -> Mapping[str, Any]:
    """Empty where it is words for people."""
    if not text.startswith("{"):
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (ValueError, RecursionError):
        return {}


def _meaning(code: int, words: _Words, secrets: Sequence[str]) -> BackupError:
    said = "\n".join(words.lines)
    for secret in secrets:
        said = said.replace(secret, "…")
    short = _short(said) or f"it ended with {code}"

    if words.gave_up:
        return RemoteError(f"the repository cannot be reached: {short}")
    if code == _WRONG_KEY or _any(_KEY_WORDS, said):
        return ArchiveError("the repository's password is another one", code="BACKUP_KEY_WRONG")
    if code == _LOCKED or _any(_LOCKED_WORDS, said):
        return LockedError(said)
    if _any(_FULL_WORDS, said):
        return BackupSpaceError(f"the repository's disk is full: {short}")
    if code == _NO_REPOSITORY or any(_CONFIG_WORDS in line and _any(_ABSENT_WORDS, line) for line in words.lines):
        return AbsentError(f"there is no repository: {short}")
    if _any(_UNKNOWN_WORDS, said):
        return UnknownError(f"the repository has no such snapshot: {short}")
    if _any(_DAMAGE_WORDS, said):
        return ArchiveError(f"the repository is damaged: {short}")
    return RemoteError(f"restic failed: {short}")


def _any(known: Sequence[str], said: str) -> bool:
    return any(word in said for word in known)


def _short(said: str) -> str:
    """Its last fatal word, else its last."""
    lines = [line for line in said.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith("Fatal: ")]
    return (fatal or lines or [""])[-1].removeprefix("Fatal: ")[:500]
