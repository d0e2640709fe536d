"""The command line's way to the homed that runs: its API, over the socket in the state directory."""

import http.client
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from homed.errors import HomedError

SOCKET = "control.sock"
_PATIENCE = 120.0


class NotRunningError(HomedError):
    """No homed answers."""


class RefusedError(HomedError):
    """homed answered with an error: its code, its words and its details."""


class Control:
    """`state` is the state directory of the homed that is spoken to."""

    def __init__(self, state: Path, patience: float = _PATIENCE):
        self._path = state / SOCKET
        self._patience = patience

    def get(self, *path: str) -> Any:
        return self._call("GET", path, None)

    def post(self, *path: str, body: Mapping[str, object] | None = None, query: str = "") -> Any:
        return self._call("POST", path, body or {}, query)

    def delete(self, *path: str) -> Any:
        return self._call("DELETE", path, None)

    def _call(self, method: str, path: tuple[str, ...], body: Mapping[str, object] | None, query: str = "") -> Any:
        """The answer's body. `path` are its parts, which may hold anything. NotRunningError, RefusedError."""
        target = "/api/v1/" + "/".join(quote(part, safe="") for part in path) + (f"?{query}" if query else "")
        headers = {"Host": "localhost"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        connection = _Connection(self._path, self._patience)
        try:
            connection.request(method, target, data, headers)
            response = connection.getresponse()
            return _checked(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            raise NotRunningError(_why(self._path, error)) from error
        finally:
            connection.close()


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
        said = body.get("error", {})
        details = said.get("details") or {}
        raise RefusedError(said.get("message", str(status)), code=said.get("code"), details=details)
    return body


def _why(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{path} is for root alone"
    if isinstance(error, TimeoutError):
        return "homed does not answer"
    if isinstance(error, http.client.HTTPException):
        return "homed ended before it answered"
    return f"homed does not run here: nobody listens at {path} (systemctl start homed)"
