"""The command line's way to the homed that runs: its API, over a Unix socket.

Root uses the socket in the state directory. Anybody else uses the one that the group `homed` may open.
"""

import http.client
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from homed.errors import HomedError

SOCKET = "control.sock"
GROUP_SOCKET = Path("/run/homed/api.sock")
_PATIENCE = 120.0


class NotRunningError(HomedError):
    """No homed answers."""


class RefusedError(HomedError):
    """homed answered with an error: its code, its words and its details. `body` is all of the answer."""

    body: Mapping[str, Any] = {}


class Event(NamedTuple):
    """One of a stream: `data` is decoded."""

    id: str
    kind: str
    data: Any


class Control:
    """The API of the homed whose state directory is `state`; `group_socket` serves callers who may not open that."""

    def __init__(self, state: Path, patience: float = _PATIENCE, group_socket: Path = GROUP_SOCKET):
        self._path = state / SOCKET
        self._patience = patience
        self._group_socket = group_socket

    def get(self, *path: str, query: str = "") -> Any:
        return self._call("GET", path, None, query)

    def post(self, *path: str, body: Mapping[str, object] | None = None, query: str = "") -> Any:
        return self._call("POST", path, body or {}, query)

    def delete(self, *path: str, query: str = "") -> Any:
        return self._call("DELETE", path, None, query)

    def follow(self, *path: str, last_event_id: str = "") -> Iterator[Event]:
        """A stream of server-sent events, until it ends. NotRunningError where it breaks off, RefusedError."""
        headers = {"Host": "localhost", "Accept": "text/event-stream"}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        connection = self._connection()
        try:
            connection.request("GET", _target(path), None, headers)
            response = connection.getresponse()
            if response.status != 200:
                _checked(response.status, response.read())
            yield from _events(response)
        except (OSError, http.client.HTTPException) as error:
            raise NotRunningError(_why(self._path, self._group_socket, error)) from error
        finally:
            connection.close()

    def _call(self, method: str, path: tuple[str, ...], body: Mapping[str, object] | None, query: str = "") -> Any:
        """The answer's body. `path` are its parts, which may hold anything. NotRunningError, RefusedError."""
        target = _target(path) + (f"?{query}" if query else "")
        headers = {"Host": "localhost"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        connection = self._connection()
        try:
            connection.request(method, target, data, headers)
            response = connection.getresponse()
            return _checked(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            raise NotRunningError(_why(self._path, self._group_socket, error)) from error
        finally:
            connection.close()

    def _connection(self) -> "_Connection":
        # A state directory that is closed to the caller hides whether its socket is there.
        closed = not os.access(self._path.parent, os.X_OK)
        path = self._group_socket if closed and os.access(self._group_socket, os.W_OK) else self._path
        return _Connection(path, self._patience)


def _target(path: tuple[str, ...]) -> str:
    return "/api/v1/" + "/".join(quote(part, safe="") for part in path)


def _events(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events of a stream, as the HTML standard has them; comments are passed over."""
    id, kind = "", "message"
    data: list[str] = []
    for raw in lines:
        line = raw.decode().rstrip("\r\n")
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line and data:
            yield Event(id, kind, json.loads("\n".join(data)))
            kind = "message"
            data.clear()
        elif field == "id":
            id = value
        elif field == "event":
            kind = value
        elif field == "data":
            data.append(value)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, patience: float):
        super().__init__("localhost", timeout=patience)
        self._path = path

    def connect(self) -> None:
        """Through its folder: a socket's address holds 107 bytes, a path may have more."""
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)


def _checked(status: int, data: bytes) -> Any:
    try:
        body = json.loads(data)
    except ValueError as error:
        raise RefusedError(f"homed answered {status}, and what is not JSON") from error
    if status >= 400:
        refused = _refused(status, body)
        refused.body = body
        raise refused
    return body


def _refused(status: int, body: Mapping[str, Any]) -> RefusedError:
    """Of any family's shape: an object under `error`, or a sentence with its code beside."""
    said = body.get("error")
    details = body.get("details") or {}
    if isinstance(details, str):  # a sentence that says more
        said, details = details, {}
    if isinstance(said, str):
        return RefusedError(said, code=body.get("code"), details=details)
    said = said or {}
    return RefusedError(said.get("message", str(status)), code=said.get("code"), details=said.get("details") or {})


def _why(path: Path, group_socket: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        missing = ""
        with suppress(PermissionError, NotADirectoryError):
            if not group_socket.exists():
                missing = f", which is not there: enable homed.socket, or add unix:{group_socket} to api.listen"
        return f"cannot reach homed: only root may open {path}, and members of the group homed {group_socket}{missing}"
    if isinstance(error, TimeoutError):
        return "homed does not answer"
    if isinstance(error, http.client.HTTPException):
        return "homed ended before it answered"
    return f"homed does not run here: nobody listens at {path} (systemctl start homed)"
