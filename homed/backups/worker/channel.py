"""The worker's end of the socket: what homed says is read on a thread of its own, so that a cancel is heard at once."""

import contextlib
import os
import queue
import signal
import socket
import threading
from pathlib import Path
from typing import Self

import msgspec

from homed.backups.records import Progress
from homed.backups.worker.context import Context, Stopped
from homed.backups.worker.messages import (
    Ask,
    Cancel,
    Done,
    Failed,
    FromHomed,
    FromWorker,
    Kill,
    Reply,
    Request,
    Told,
    Warned,
)
from homed.errors import BackupError

_decode = msgspec.json.Decoder(FromHomed)
_LONGEST = 64 << 20


class Gone(Stopped):
    """homed went away while it was asked something: nobody knows whether it has done it."""


class Channel:
    """Connected to the socket in the operation's folder. OSError where homed is not there."""

    def __init__(self, work: Path):
        self._socket = connect(work / "socket")
        self._sending = threading.Lock()
        self._replies: queue.Queue[Reply | Cancel | None] = queue.Queue()
        self._requests: queue.Queue[Request | None] = queue.Queue()
        self.context = Context(self._tell, self._warn)
        threading.Thread(target=self._read, name="channel", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def request(self) -> Request:
        """What is to be done. Stopped where homed went away before it said so."""
        request = self._requests.get()
        if request is None:
            raise Stopped
        return request

    def ask(self, what: str, **data: object) -> Reply:
        """Wait until homed has done it. BackupError where it could not; Gone where it went away."""
        self.context.check()
        self.send(Ask(what, data))
        while isinstance(reply := self._replies.get(), Cancel):
            self.context.check()  # where it is shielded, the answer is still waited for
        if reply is None:
            raise Gone
        if reply.error is not None:
            raise BackupError(reply.error, code=reply.code, details=dict(reply.details))
        return reply

    def send(self, message: FromWorker) -> None:
        data = _encoded(message) + b"\n"
        with self._sending, contextlib.suppress(OSError):  # that homed is gone is seen by the reader
            self._socket.sendall(data)

    def finish(self, message: Done | Failed) -> None:
        self.send(message)

    def _tell(self, progress: Progress) -> None:
        self.send(Told(progress))

    def _warn(self, message: str) -> None:
        self.send(Warned(message))

    def _read(self) -> None:
        with contextlib.suppress(OSError, msgspec.MsgspecError), self._socket.makefile("rb") as lines:
            while line := lines.readline(_LONGEST):
                self._take(_decode.decode(line))
        # homed is gone: whatever is not yet decided is given up.
        self.context.stop()
        self._replies.put(None)
        self._requests.put(None)

    def _take(self, message: FromHomed) -> None:
        if isinstance(message, Reply):
            self._replies.put(message)
        elif isinstance(message, Cancel):
            self.context.stop()
            self._replies.put(message)
        elif isinstance(message, Kill):
            kill(message)
        else:
            self._requests.put(message)


def _encoded(message: FromWorker) -> bytes:
    try:
        return msgspec.json.encode(message)
    except UnicodeEncodeError:  # a file's name that is no text
        return msgspec.json.encode(_as_text(msgspec.to_builtins(message)))


def _as_text(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {_as_text(name): _as_text(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_text(inner) for inner in value]
    return value


def kill(wanted: Kill, root: Path = Path("/proc")) -> None:
    """End a process of a container: only where it is still one of that container's."""
    try:
        groups = (root / str(wanted.pid) / "cgroup").read_text()
    except OSError:
        return
    if len(wanted.container) >= 12 and wanted.container in groups:
        with contextlib.suppress(ProcessLookupError):
            os.kill(wanted.pid, signal.SIGKILL)


def connect(path: Path) -> socket.socket:
    """A path may be longer than a socket's address can be: it is named through its folder."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            one.connect(f"/proc/self/fd/{folder}/{path.name}")
        except OSError:
            one.close()
            raise
    finally:
        os.close(folder)
    return one
