"""A small client of homed's API for tests: blocking, one connection a request, over TCP, TLS or a Unix socket."""

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.support.wait import until


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The stable code of an error, in whichever family's shape; empty where it is none, or has none."""
        found = self.json if self.body else {}
        if not isinstance(found, dict):
            return ""
        inner = found["error"] if isinstance(found.get("error"), dict) else found
        return str(inner.get("code", inner.get("error_code", "")))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Api:
    """`host` and `port`, or `unix`, a socket's path; `tls` checks the certificate as it says; `headers` go with all."""

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        unix: str | None = None,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 90,
    ):
        self.host, self.port, self.unix, self.tls = host, port, unix, tls
        self.headers = dict(headers or {})
        self.timeout = timeout

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    def with_key(self, key: str) -> "Api":
        headers = {**self.headers, "X-API-Key": key}
        return Api(
            self.port, host=self.host, unix=self.unix, tls=self.tls, headers=headers, timeout=self.timeout
        )  # fmt: skip

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """One request: `body` is sent as JSON, `data` as it is. OSError where there is no answer."""
        sent = {**self.headers, **(headers or {})}
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = self._connection(self.timeout if timeout is None else timeout)
        try:
            connection.request(method, path, body=data, headers=sent)
            response = connection.getresponse()
            found = response.read()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, found)
        except http.client.HTTPException as error:
            raise ConnectionError(f"no answer to {method} {path}: {error!r}") from error
        finally:
            connection.close()

    def get(self, path: str, **more: Any) -> Answer:
        return self.call("GET", path, **more)

    def post(self, path: str, body: object = None, **more: Any) -> Answer:
        return self.call("POST", path, body, **more)

    def put(self, path: str, body: object = None, **more: Any) -> Answer:
        return self.call("PUT", path, body, **more)

    def delete(self, path: str, **more: Any) -> Answer:
        return self.call("DELETE", path, **more)

    # Services, by what tests say all the time.

    def create(self, name: str, **spec: Any) -> Answer:
        answer = self.post("/api/v1/services", {"name": name, **spec})
        assert answer.status == 201, answer
        return answer

    def change(self, name: str, **spec: Any) -> Answer:
        answer = self.put(f"/api/v1/services/{name}", spec)
        assert answer.status == 200, answer
        return answer

    def act(self, name: str, verb: str) -> Answer:
        return self.post(f"/api/v1/services/{name}/{verb}")

    def service(self, name: str) -> Any:
        answer = self.get(f"/api/v1/services/{name}")
        assert answer.status == 200, answer
        return answer.json

    def conditions(self, name: str) -> Any:
        return self.service(name)["conditions"]

    def await_status(self, name: str, status: str, deadline: float = 30) -> Any:
        """Wait until a service has a status, and return it."""

        def look() -> Any:
            seen.append(self.service(name))
            return seen[-1]["status"] == status

        seen: list[Any] = []
        try:
            until(f"{name} to be {status}", look, deadline)
        except AssertionError as error:
            raise AssertionError(f"{error}; it was {seen[-1] if seen else 'never seen'}") from None
        return seen[-1]

    def await_reason(self, name: str, reason: str | None, deadline: float = 30) -> Any:
        """Wait until a service says that it waits for this, and return its conditions."""

        def look() -> Any:
            seen.append(self.conditions(name))
            return seen[-1]["reason"] == reason

        seen: list[Any] = []
        try:
            until(f"{name} to say {reason}", look, deadline)
        except AssertionError as error:
            raise AssertionError(f"{error}; its conditions were {seen[-1] if seen else 'never seen'}") from None
        return seen[-1]

    def is_live(self) -> bool:
        try:
            return self.get("/health/live", timeout=5).status == 200
        except OSError:
            return False

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self.unix is not None:
            return _UnixConnection(self.unix, timeout)
        if self.tls is not None:
            return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self.tls)
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)
