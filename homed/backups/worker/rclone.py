"""Targets of SFTP and S3, by rclone: set up by its environment alone, its progress and errors read from its log."""

import contextlib
import hashlib
import json
import os
import re
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from homed.backups.records import Backup
from homed.backups.worker.context import Watch
from homed.backups.worker.delivery import TryAgainError
from homed.errors import RemoteError

_ENVIRONMENT = ("PATH", "TMPDIR", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_OPTIONS = (
    *("--config=", "--use-json-log", "--log-level=NOTICE", "--stats=1s", "--stats-log-level=NOTICE"),
    *("--retries=1", "--low-level-retries=3", "--transfers=1", "--checkers=1", "--buffer-size=1M"),
    # It is compared afterwards, here.
    "--ignore-checksum",
)
_HOPELESS = (
    *("knownhosts:", "known_hosts_file", "unable to authenticate", "failed to parse private key", "permission denied"),
    *("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket", "PermanentRedirect"),
    *("AuthorizationHeaderMalformed", "didn't find section in config", "certificate signed by unknown authority"),
)
_NOT_FOUND = (3, 4)
_SAME, _MISSING = "is the same", "is not there"
_TIME = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ")
_ALIVE = 64 << 10
_BLOCK = 256 << 10


class Rclone:
    """`settings` as homed.backups.targets makes them; `work` a folder of the operation's own; `stall` the seconds that
    nothing may move for.
    """

    def __init__(self, settings: Mapping[str, str], work: Path, *, stall: float = 120.0, program: str = "rclone"):
        self._renames = settings["kind"] == "sftp"
        self._folder = "homed:" + "/".join(part for part in (settings.get("bucket"), settings["path"]) if part)
        self._work = work
        self._stall = stall
        self._program = program
        self._environment = environment(settings, work, os.environ)
        self._options = (*_OPTIONS, f"--contimeout={min(60, int(stall) + 1)}s", f"--timeout={int(stall) + 1}s")

    def put(self, path: Path, record: Backup, watch: Watch) -> None:
        size = path.stat().st_size
        # Where writing is not all or nothing, the archive has its name once it is whole.
        name = f".{record.name}.partial" if self._renames else record.name
        there = self._compare(record.name, path, watch)
        if there not in (_MISSING, _SAME):
            raise RemoteError(f"'{record.name}' {there}: it is left as it is")
        if there is _SAME:
            watch.advance(bytes=size)
            return
        note = self._work / f"{record.name}.json"
        note.write_bytes(msgspec.json.encode(record))
        self._call(["copyto", str(note), self._at(f"{record.name}.json")], watch)
        if not self._renames or self._compare(name, path, watch) is not _SAME:
            self._send(name, path, watch)
        if self._renames:
            self._call(["moveto", self._at(name), self._at(record.name)], watch)

    def _send(self, name: str, path: Path, watch: Watch) -> None:
        try:
            self._call(["copyto", "--ignore-times", str(path), self._at(name)], watch, tells=True)
            there = self._compare(name, path, watch)
            if there is not _SAME:
                raise TryAgainError(f"after it was sent, '{name}' {there}")
        except TryAgainError:
            # Of what was sent in vain nothing is to take the target's room, if it can be helped.
            with contextlib.suppress(TryAgainError, RemoteError):
                self._call(["deletefile", self._at(name)], watch)
            raise

    def _at(self, name: str) -> str:
        return f"{self._folder}{'' if self._folder.endswith(('/', ':')) else '/'}{name}"

    def _compare(self, name: str, path: Path, watch: Watch) -> str:
        """_SAME, _MISSING, or how what is there differs."""
        said = bytearray()
        if not self._call(["lsjson", "--stat", "--hash", "--hash-type=md5", self._at(name)], watch, take=said.extend):
            return _MISSING
        try:
            there = msgspec.json.decode(said, type=_There)
        except msgspec.MsgspecError as error:
            raise TryAgainError(f"rclone said something else than what is there: {error}") from error
        size = path.stat().st_size
        if there.is_dir:
            return _MISSING
        if there.size != size:
            return f"has {there.size} bytes there, not {size}"
        digest = there.hashes.get("md5")
        same = digest == _md5(path, watch) if digest else self._reads_the_same(name, path, watch)
        return _SAME if same else "has the same size there, but another content"

    def _reads_the_same(self, name: str, path: Path, watch: Watch) -> bool:
        """Where the target tells no digest, it is read back."""
        same = True
        with path.open("rb") as file:

            def compare(data: bytes) -> None:
                nonlocal same
                same = same and file.read(len(data)) == data

            found = self._call(["cat", self._at(name)], watch, take=compare)
            return found and same and not file.read(1)

    def _call(
        self,
        arguments: Sequence[str],
        watch: Watch,
        *,
        take: Callable[[bytes], None] = lambda data: None,
        tells: bool = False,
    ) -> bool:
        """Run rclone; `take` gets what it writes, the watch what it sends where it `tells`. False: it is not there.

        TryAgainError; RemoteError where trying again is of no use; Stopped.
        """
        command = [self._program, *self._options, *arguments]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environment
            )
        except FileNotFoundError as error:
            raise RemoteError("rclone is not installed on this board") from error
        log = _Log((lambda count: watch.advance(bytes=count)) if tells else lambda count: None)
        with watch.run(process):
            self._follow(process, take, log, watch)
            status = process.wait()
        watch.check()  # it may be what ended it
        if status in _NOT_FOUND:
            return False
        if status:
            raise _failure(log.last or f"rclone ended with status {status}")
        return True

    def _follow(
        self, process: "subprocess.Popen[bytes]", take: Callable[[bytes], None], log: "_Log", watch: Watch
    ) -> None:
        """Read what it says until it has closed both; TryAgainError where nothing moves for too long."""
        out, err = (cast(BinaryIO, pipe).fileno() for pipe in (process.stdout, process.stderr))
        moved, mark = time.monotonic(), (0, 0)
        with selectors.DefaultSelector() as selector:
            for pipe in (out, err):
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                watch.check()
                for key, _ in selector.select(0.25):
                    data = os.read(key.fd, _BLOCK)
                    if not data:
                        selector.unregister(key.fd)
                    elif key.fd == out:
                        moved = time.monotonic()
                        take(data)
                    else:
                        log.feed(data)
                now = (log.sent, _read_by(process.pid) // _ALIVE)
                if now != mark:
                    mark, moved = now, time.monotonic()
                if time.monotonic() - moved > self._stall:
                    raise TryAgainError(f"nothing moved for {self._stall:g} seconds")


class _There(msgspec.Struct, rename="pascal"):
    size: int
    is_dir: bool
    hashes: dict[str, str] = {}


class _Log:
    """rclone's log on stderr: JSON lines, and a plain one where it gives up."""

    def __init__(self, tell: Callable[[int], None]):
        self._tell = tell
        self._rest = b""
        self._words: deque[str] = deque(maxlen=3)
        self.sent = 0

    @property
    def last(self) -> str:
        return "; ".join(dict.fromkeys(self._words))

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)
        self._rest = self._rest[:_BLOCK]

    def _line(self, line: bytes) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            said = {"level": "error", "msg": _TIME.sub("", line.decode("utf-8", "replace"))}
        if not isinstance(said, dict):
            return
        stats = said.get("stats")
        if isinstance(stats, dict) and isinstance(stats.get("bytes"), int):
            self._tell(max(0, stats["bytes"] - self.sent))
            self.sent = max(self.sent, stats["bytes"])
        elif said.get("level") in ("error", "critical", "fatal") and str(said.get("msg", "")).strip():
            self._words.append(str(said["msg"]).strip())


def environment(settings: Mapping[str, str], work: Path, given: Mapping[str, str]) -> dict[str, str]:
    """All that rclone is told of the target. What it can only take from a file is written into `work`."""
    found = {name: given[name] for name in _ENVIRONMENT if name in given}
    found |= {"HOME": str(work), "LC_ALL": "C.UTF-8"}
    if settings.get("ca"):
        found["RCLONE_CA_CERT"] = str(_file(work / "target-ca.pem", settings["ca"]))
    if settings["kind"] == "sftp":
        if not settings.get("known_hosts", "").strip():
            raise RemoteError("The keys that the server may have are not known: known_hosts_file is empty")
        about = {
            "type": "sftp",
            "host": settings["host"],
            "port": settings["port"],
            "user": settings["user"],
            "key_pem": settings["key"].replace("\n", "\\n"),
            "known_hosts_file": str(_file(work / "target-known-hosts", settings["known_hosts"])),
            "shell_type": "unix",
            "set_modtime": "false",
        }
    else:
        about = {
            "type": "s3",
            "provider": "Other" if settings["endpoint"] else "AWS",
            "endpoint": settings["endpoint"],
            "region": settings["region"],
            "access_key_id": settings["access_key_id"],
            "secret_access_key": settings["secret_access_key"],
            "no_check_bucket": "true",
            # A part that fails is sent again, not the whole; two at a time, as each is held in memory.
            "upload_cutoff": "16M",
            "chunk_size": "5M",
            "upload_concurrency": "2",
        }
    return found | {f"RCLONE_CONFIG_HOMED_{name.upper()}": value for name, value in about.items() if value}


def _failure(said: str) -> TryAgainError | RemoteError:
    hopeless = any(word.lower() in said.lower() for word in _HOPELESS)
    return RemoteError(said) if hopeless else TryAgainError(said)


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def _md5(path: Path, watch: Watch) -> str:
    """What S3 and most SFTP servers can tell too; it is to find accidents."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(_BLOCK):
            watch.check()
            digest.update(data)
    return digest.hexdigest()


def _read_by(pid: int) -> int:
    """The bytes that a process has read so far, of files and sockets: it may be reading before it sends."""
    try:
        return int(Path(f"/proc/{pid}/io").read_text().partition("rchar: ")[2].split()[0])
    except (OSError, ValueError, IndexError):
        return 0
