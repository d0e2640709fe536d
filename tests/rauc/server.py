"""An HTTP server for bundles that can stop in the middle, die and come back at the same address."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_CHUNK = 16_384


class BundleServer:
    """Serves the files of a folder, with Range. `stop_at`: no answer goes past this byte of a file while it is set.

    `missing`: there is nothing any more.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.stop_at: int | None = None
        self.missing = False
        self.drops = 0
        # What was asked for: (the file, the first byte wanted).
        self.asked: list[tuple[str, int]] = []
        self._port = 0
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def url(self, path: Path) -> str:
        return f"http://127.0.0.1:{self._port}/{path.name}"

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def drop(self) -> None:
        """Break off what is being answered, and answer what comes next."""
        self.drops += 1

    def die(self) -> None:
        """Break off what is being answered, and answer nothing more."""
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        server.dying.set()
        server.shutdown()
        server.server_close()  # waits for the handlers
        self._thread.join(20)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.die()


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True

    def __init__(self, address: tuple[str, int], owner: BundleServer):
        self.owner = owner
        self.dying = threading.Event()
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        owner = self.server.owner
        file = owner.folder / self.path.rpartition("/")[2]
        if owner.missing or not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        asked = self.headers.get("Range", "")
        first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        owner.asked.append((file.name, first))
        if first >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data) - first))
        self.send_header("ETag", f'"{len(data)}-{file.stat().st_mtime_ns}"')
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        self._send(data, first)

    def _send(self, data: bytes, first: int) -> None:
        drops = self.server.owner.drops
        while first < len(data) and not self.server.dying.is_set() and self.server.owner.drops == drops:
            stop = self.server.owner.stop_at
            end = min(first + _CHUNK, len(data) if stop is None else stop)
            if end <= first:
                self.server.dying.wait(0.02)
                continue
            try:
                self.wfile.write(data[first:end])
            except OSError:
                return
            first = end

    def log_message(self, format: str, *args: Any) -> None:
        pass
