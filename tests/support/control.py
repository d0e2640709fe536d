"""What answers on the command line's socket, in homed's place: what the test says, and what it was asked is kept."""

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from types import TracebackType
from typing import Any, NamedTuple, Self

Answer = tuple[int, object]


class Asked(NamedTuple):
    method: str
    path: str
    body: Any


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    answers: "Answers"


class Answers:
    """Listens in `state`. `on` gives the answers to one kind of request: the last one goes on being given."""

    def __init__(self, state: Path) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self.asked: list[Asked] = []
        self._answers: dict[tuple[str, str], list[Answer]] = {}
        self._path = state / "control.sock"
        self._server: _Server | None = None

    def on(self, method: str, path: str, *answers: Answer) -> None:
        """`path` is after /api/v1/, with the query."""
        self._answers[method, path] = list(answers)

    def bodies(self, path: str) -> list[Any]:
        return [asked.body for asked in self.asked if asked.path == path]

    def take(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        left = self._answers.get((asked.method, asked.path))
        if not left:
            return refused(404, "NOT_FOUND", f"there is nothing at {asked.path}")
        return left.pop(0) if len(left) > 1 else left[0]

    def __enter__(self) -> Self:
        self._server = _Server(str(self._path), _Handler)
        self._server.answers = self
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        status, answer = self.server.answers.take(Asked(self.command, self.path.removeprefix("/api/v1/"), body))
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _serve

    def log_message(self, format: str, *args: Any) -> None:
        pass


def refused(status: int, code: str, message: str, **details: object) -> Answer:
    return status, {"error": {"code": code, "message": message, "details": details}}


def operation(state: str = "succeeded", **more: Any) -> Answer:
    """As `GET /operations/{id}` answers; `progress` is about what is told while it runs."""
    progress: Mapping[str, object] = {"phase": "done", **more.pop("progress", {})}
    failure = more.pop("failure", None)
    told = None if failure is None else {"code": failure[0], "message": failure[1], "details": {}}
    fields = {"id": "7", "kind": "create", "backup": "board-20261121-020000.tar.gz", "warnings": [], "result": {}}
    return 200, {**fields, "state": state, "progress": progress, "failure": told, **more}
