"""Another homed board as a target: the archive is put there over its API, and it verifies what it got."""

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

from homed.backups.records import Backup
from homed.backups.worker.context import Stopped, Watch
from homed.backups.worker.delivery import TryAgainError
from homed.errors import RemoteError

_BLOCK = 256 << 10
_LONGEST_ANSWER = 1 << 20
# While it verifies, a board says nothing: it is given the time that a slow card takes.
_SLOWEST_VERIFY = 2 << 20
_LATER = (408, 425, 429)
_FULL = 507


class Board:
    """`settings` as homed.backups.targets makes them; `stall` the seconds that nothing may move for."""

    def __init__(self, settings: Mapping[str, str], *, stall: float = 120.0):
        self._url = urlsplit(settings["url"])
        self._key = settings["key"]
        self._stall = stall
        self._tls: ssl.SSLContext | None = None
        if self._url.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cadata=settings.get("ca") or None)
            except ssl.SSLError as error:
                raise RemoteError(f"The target's ca_file holds no certificates: {error}") from error

    def put(self, path: Path, record: Backup, watch: Watch) -> None:
        size = path.stat().st_size
        if self._has(record.name, size, watch):
            watch.advance(bytes=size)
            return
        answer = self._send(path, record.name, size, watch)
        if answer.status == 409 and answer.code == "BACKUP_EXISTS" and self._has(record.name, size, watch):
            return
        if not 200 <= answer.status < 300:
            raise answer.failure()
        if answer.size != size:
            # The status alone proves nothing: a proxy may have answered instead of the board.
            raise RemoteError(f"the board answered {answer.status}, but not that it has the {size} bytes sent")

    def _has(self, name: str, size: int, watch: Watch) -> bool:
        """Whether the board has it already. RemoteError where it has another of that name."""
        with self._connected(watch) as connection:
            connection.request("GET", _path(name), headers=self._headers())
            answer = _answer(connection)
        if answer.status == 404:
            return False
        if answer.status != 200:
            raise answer.failure()
        if answer.size != size:
            raise RemoteError(f"the board has another backup '{name}', of {answer.size} bytes")
        return True

    def _send(self, path: Path, name: str, size: int, watch: Watch) -> "_Answer":
        with path.open("rb") as file, self._connected(watch) as connection:
            connection.putrequest("PUT", _path(name))
            for field, value in self._headers().items():
                connection.putheader(field, value)
            connection.putheader("Content-Type", "application/octet-stream")
            connection.putheader("Content-Length", str(size))
            connection.endheaders()
            sent = 0
            try:
                while sent < size:
                    watch.check()
                    block = file.read(min(_BLOCK, size - sent))
                    if not block:
                        raise RemoteError("the archive became shorter while it was sent")
                    connection.send(block)
                    sent += len(block)
                    watch.advance(bytes=len(block))
            except OSError as error:
                # A board that does not want it says why, and hangs up.
                with contextlib.suppress(OSError, http.client.HTTPException):
                    return _answer(connection)
                raise error from None
            if connection.sock is not None:
                connection.sock.settimeout(self._stall + size / _SLOWEST_VERIFY)
            return _answer(connection)

    def _headers(self) -> dict[str, str]:
        return {"X-API-Key": self._key, "Accept": "application/json", "Connection": "close"}

    @contextlib.contextmanager
    def _connected(self, watch: Watch) -> Iterator[http.client.HTTPConnection]:
        """A connection that is cut where the operation is cancelled; its errors as those of a target."""
        host, port = self._url.hostname or "", self._url.port
        connection: http.client.HTTPConnection
        if self._tls is not None:
            connection = http.client.HTTPSConnection(host, port, timeout=self._stall, context=self._tls)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self._stall)
        try:
            connection.connect()
            with _cut_when_stopped(connection.sock, watch):
                yield connection
        except ssl.SSLCertVerificationError as error:
            raise RemoteError(f"the board is not the one that was meant: {error.verify_message}") from error
        except (OSError, http.client.HTTPException) as error:
            watch.check()
            raise TryAgainError(f"the connection failed: {error or type(error).__name__}") from error
        finally:
            connection.close()


class _Answer(NamedTuple):
    status: int
    code: str
    message: str
    size: int | None

    def failure(self) -> TryAgainError | RemoteError:
        said = f"the board answered {self.status} {self.code}: {self.message}".strip(": ")
        later = self.status in _LATER or (self.status >= 500 and self.status != _FULL) or self.code == "BACKUP_BUSY"
        return TryAgainError(said) if later else RemoteError(said)


class _Body(msgspec.Struct):
    size: int | None = None
    code: str = ""
    message: str = ""
    error: object = None


def _answer(connection: http.client.HTTPConnection) -> _Answer:
    response = connection.getresponse()
    text = response.read(_LONGEST_ANSWER)
    try:
        body = msgspec.json.decode(text, type=_Body, strict=False)
    except msgspec.MsgspecError:
        return _Answer(response.status, "", text[:200].decode("utf-8", "replace"), None)
    inner = body.error if isinstance(body.error, dict) else {}
    code = str(inner.get("code") or body.code or (body.error if isinstance(body.error, str) else ""))
    return _Answer(response.status, code, str(inner.get("message") or body.message), body.size)


def _path(name: str) -> str:
    return f"/api/v1/backups/{quote(name, safe='')}"


@contextlib.contextmanager
def _cut_when_stopped(sock: socket.socket, watch: Watch) -> Iterator[None]:
    """A board that says nothing keeps nobody from stopping: the connection is cut under whoever waits."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.25):
            try:
                watch.check()
            except Stopped:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                return

    thread = threading.Thread(target=look, name="cut-when-stopped", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
