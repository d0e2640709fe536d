"""A process that forks homeds and workers which have all their modules already: killing hundreds of them is quick.

Run as `python -m tests.support.nursery SOCKET`; it ends when its input does. Asked `["homed", …]` or `["worker", WORK]`
on the socket it answers with the child's id, and with its exit code once it has ended.
"""

import asyncio
import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

from homed.backups.worker import main as worker
from homed.backups.worker import restore as _imported  # noqa: F401  what a worker imports only when it is asked
from tests.boards.rig.cache import REPOSITORY
from tests.support import killed_board
from tests.support.wait import until


class Child:
    """One that was asked for; `code` is None while it runs."""

    def __init__(self, connection: socket.socket):
        self._lines = connection.makefile("r")
        self._connection = connection
        self.pid = int(self._lines.readline())

    def kill(self) -> None:
        send(self.pid, signal.SIGKILL)

    def ask_to_end(self) -> None:
        send(self.pid, signal.SIGTERM)

    def wait(self, timeout: float = 60) -> int:
        """Its exit code, negative for a signal."""
        self._connection.settimeout(timeout)
        code = int(self._lines.readline())
        self._lines.close()
        self._connection.close()
        return code


def send(pid: int, number: signal.Signals) -> None:
    """To a child of a nursery; nothing where it is gone, whatever has its id by now."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with contextlib.suppress(OSError):
        if b"tests.support.nursery" in Path(f"/proc/{pid}/cmdline").read_bytes():
            signal.pidfd_send_signal(descriptor, number)
    os.close(descriptor)


class Nursery:
    """Give it to `with`. `log` gets what the children say."""

    def __init__(self, folder: Path):
        self.socket = folder / "nursery"
        self._log = folder / "nursery.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.nursery", str(self.socket)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
            )
        until("the nursery", self.socket.exists)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def homed(self, root: Path, act: str, *arguments: str) -> Child:
        return self._child("homed", str(root), str(self.socket), act, *arguments)

    def _child(self, *words: str) -> Child:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(self.socket))
        connection.sendall(json.dumps(words).encode() + b"\n")
        return Child(connection)


def main(path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    beside = path.with_suffix(".new")
    listening.bind(str(beside))
    listening.listen(64)
    beside.rename(path)
    with listening, selectors.DefaultSelector() as watched:
        watched.register(listening, selectors.EVENT_READ)
        watched.register(sys.stdin, selectors.EVENT_READ)
        children: dict[int, tuple[int, socket.socket]] = {}
        while True:
            for key, _ in watched.select():
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is listening:
                    connection, _ = listening.accept()
                    with connection.makefile() as lines:
                        asked = lines.readline()
                    if not asked:
                        connection.close()
                        continue  # who asked was killed
                    pid = _fork(json.loads(asked))
                    with contextlib.suppress(OSError):
                        connection.sendall(b"%d\n" % pid)
                    descriptor = os.pidfd_open(pid)
                    children[descriptor] = pid, connection
                    watched.register(descriptor, selectors.EVENT_READ)
                else:
                    watched.unregister(key.fd)
                    _tell(*children.pop(key.fd))
                    os.close(key.fd)


def _tell(pid: int, connection: socket.socket) -> None:
    _, status = os.waitpid(pid, 0)
    with connection:
        try:
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        except OSError:
            return  # who asked was killed


def _fork(words: list[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        os.closerange(3, 256)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        code = _run(*words)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run(kind: str, first: str, *rest: str) -> int:
    if kind == "worker":
        os.environ["TMPDIR"] = first
        return worker.main(Path(first))
    socket_path, act, *arguments = rest
    asyncio.run(killed_board.main(Path(first), NursedStart(Path(socket_path), Path(first)), act, *arguments))
    return 0


class Nursed:
    """A worker, as homed's launcher wants it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._writer = writer
        self._code = asyncio.ensure_future(reader.readline())

    async def ended(self) -> str:
        return f"the backup worker ended with {(await asyncio.shield(self._code)).decode().strip()}"

    async def end(self) -> None:
        await asyncio.shield(self._code)
        self._writer.close()


class NursedStart:
    """Has the worker's id written into `worker` in the board's folder."""

    def __init__(self, path: Path, root: Path):
        self._path = path
        self._root = root

    async def __call__(self, work: Path) -> Nursed:
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        writer.write(json.dumps(["worker", str(work)]).encode() + b"\n")
        pid = int(await reader.readline())
        killed_board.write(self._root / "worker", pid)
        return Nursed(reader, writer)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
