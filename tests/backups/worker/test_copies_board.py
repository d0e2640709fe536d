"""Copies to another board: put there over its API, whole, once, and to the board that was meant alone."""

import contextlib
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from homed.backups.worker.context import Stopped
from homed.errors import RemoteError
from tests.backups.worker.copying import CONTENT, MIB, NAME, Copying
from tests.support.faulty_proxy import FaultyProxy, faulty_proxy
from tests.support.wait import until

KEY = "homed_0123456789abcdef"


@dataclass
class Board:
    """What the other board has, and how it behaves. `early`: it answers before it has read what is sent; `meanwhile`:
    somebody else brings it while it is sent.
    """

    port: int = 0
    has: dict[str, bytes] = field(default_factory=dict)
    answers: list[tuple[int, str]] = field(default_factory=list)
    early: bool = False
    silent: threading.Event | None = None
    meanwhile: bytes | None = None
    puts: int = 0
    asked: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    board: Board

    def log_message(self, format: str, *args: object) -> None:
        self.board.asked.append(self.requestline)

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if self.headers.get("X-API-Key") != KEY:
            self._error(401, "UNAUTHORIZED")
        elif name not in self.board.has:
            self._error(404, "BACKUP_NOT_FOUND")
        else:
            self._say(200, {"name": name, "size": len(self.board.has[name]), "services": []})

    def do_PUT(self) -> None:
        board = self.board
        board.puts += 1
        name, length = self.path.rpartition("/")[2], int(self.headers["Content-Length"])
        if board.early and board.answers:
            self._error(*board.answers.pop(0))
            self.close_connection = True
            return
        data = self.rfile.read(length)
        if len(data) < length:
            self.close_connection = True
            return
        if board.silent is not None:
            board.silent.wait()
        if board.meanwhile is not None:
            board.has[name] = board.meanwhile
        if board.answers:
            self._error(*board.answers.pop(0))
        elif name in board.has:
            self._error(409, "BACKUP_EXISTS")
        else:
            board.has[name] = data
            self._say(201, {"name": name, "size": length})

    def _error(self, status: int, code: str) -> None:
        self._say(status, {"error": {"code": code, "message": f"told with the key {KEY}"}})

    def _say(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what is tested."""


@contextlib.contextmanager
def serving(board: Board, tls: ssl.SSLContext | None = None) -> Iterator[Board]:
    handler = type("Handler", (_Handler,), {"board": board})
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    board.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield board
    finally:
        if board.silent is not None:
            board.silent.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def board() -> Iterator[Board]:
    with serving(Board()) as running:
        yield running


@pytest.fixture
def proxy(board: Board) -> Iterator[FaultyProxy]:
    with faulty_proxy(board.port) as running:
        yield running


@pytest.fixture
def copying(tmp_path: Path) -> Copying:
    return Copying(tmp_path)


def settings(port: int, *, scheme: str = "http", tries: int = 3) -> dict[str, str]:
    url = f"{scheme}://127.0.0.1:{port}"
    return {"name": "other-board", "kind": "board", "tries": str(tries), "url": url, "key": KEY}


def test_the_other_board_gets_the_archive(copying: Copying, board: Board) -> None:
    copying.run(settings(board.port))

    assert board.has == {NAME: CONTENT}
    assert copying.warned == []
    assert copying.told[-1].bytes_total == len(CONTENT)


def test_what_it_has_is_not_sent_again(copying: Copying, board: Board) -> None:
    board.has[NAME] = CONTENT

    copying.run(settings(board.port))

    assert board.puts == 0


def test_another_backup_of_that_name_is_an_error(copying: Copying, board: Board) -> None:
    board.has[NAME] = CONTENT[:-1]

    with pytest.raises(RemoteError, match="another backup"):
        copying.run(settings(board.port))

    assert board.puts == 0


def test_a_status_alone_is_no_proof_that_it_is_there(copying: Copying, board: Board) -> None:
    board.answers = [(200, "")]  # a proxy's page

    with pytest.raises(RemoteError, match="answered 200, but not"):
        copying.run(settings(board.port))


def test_one_that_came_there_meanwhile_counts_as_done_where_it_is_the_same(copying: Copying, board: Board) -> None:
    board.meanwhile = CONTENT

    copying.run(settings(board.port))

    assert board.puts == 1
    assert copying.warned == []

    board.has.clear()
    board.meanwhile = CONTENT[:-1]
    with pytest.raises(RemoteError, match="another backup"):
        copying.run(settings(board.port))


@pytest.mark.parametrize("status", [(403, "FORBIDDEN"), (413, "TOO_LARGE"), (422, "BACKUP_DAMAGED"), (507, "FULL")])
@pytest.mark.parametrize("early", [True, False])
def test_what_the_board_will_not_take_is_not_sent_twice(
    copying: Copying, board: Board, status: tuple[int, str], early: bool
) -> None:
    board.answers, board.early = [status], early

    with pytest.raises(RemoteError) as caught:
        copying.run(settings(board.port))

    assert board.puts == 1
    assert caught.value.code == "BACKUP_REMOTE"
    assert KEY not in str(caught.value)
    if not early:  # else the answer may be lost with the connection that is cut
        assert status[1] in str(caught.value)


@pytest.mark.parametrize("status", [(503, "STOPPING"), (409, "BACKUP_BUSY"), (429, "RATE_LIMITED"), (500, "INTERNAL")])
def test_a_board_that_is_busy_is_asked_again(copying: Copying, board: Board, status: tuple[int, str]) -> None:
    board.answers = [status]

    copying.run(settings(board.port))

    assert board.has == {NAME: CONTENT}
    assert len(copying.warned) == 1
    assert status[1] in copying.warned[0]
    assert KEY not in copying.warned[0]


def test_a_wrong_key_is_told_before_anything_is_sent(copying: Copying, board: Board) -> None:
    with pytest.raises(RemoteError, match="401 UNAUTHORIZED"):
        copying.run(settings(board.port) | {"key": "another"})

    assert board.puts == 0


def test_a_connection_that_is_cut_is_tried_again(copying: Copying, board: Board, proxy: FaultyProxy) -> None:
    proxy.passes, proxy.cuts = 2 * MIB, 2

    copying.run(settings(proxy.port))

    assert board.has == {NAME: CONTENT}
    assert len(copying.warned) == 2


def test_a_board_that_hangs_is_given_up(copying: Copying, board: Board, proxy: FaultyProxy) -> None:
    proxy.passes, proxy.holds = 0, 1

    copying.run(settings(proxy.port), stall=1.0)

    assert board.has == {NAME: CONTENT}
    assert len(copying.warned) == 1


def test_where_nothing_listens_it_says_so(copying: Copying) -> None:
    with pytest.raises(RemoteError, match=r"refused.*tried 2 times"):
        copying.run(settings(1, tries=2))


@pytest.mark.parametrize("how", ["on its way", "while the board verifies", "while nothing moves"])
def test_it_can_be_cancelled(copying: Copying, how: str) -> None:
    silent = threading.Event() if how == "while the board verifies" else None
    with serving(Board(silent=silent)) as board, faulty_proxy(board.port) as proxy:
        proxy.rate = MIB if how == "on its way" else 0
        proxy.passes, proxy.holds = MIB, int(how == "while nothing moves")
        ended: list[BaseException] = []

        def attempt() -> None:
            try:
                copying.run(settings(proxy.port), stall=60.0)
            except (Stopped, RemoteError) as error:
                ended.append(error)

        thread = threading.Thread(target=attempt)
        thread.start()
        until("it to be there", lambda: board.puts and proxy.passed > MIB // 2)

        copying.watch.stop()
        thread.join(30)

        assert [type(each) for each in ended] == [Stopped]
        assert board.has == {}
        assert copying.warned == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=board", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return key, cert


def test_over_tls_it_goes_to_the_board_that_the_ca_vouches_for_alone(
    copying: Copying, certificate: tuple[Path, Path]
) -> None:
    key, cert = certificate
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    with serving(Board(), tls) as board:
        with pytest.raises(RemoteError, match="not the one that was meant"):
            copying.run(settings(board.port, scheme="https"))
        assert board.asked == []

        copying.run(settings(board.port, scheme="https") | {"ca": cert.read_text()})
        assert board.has == {NAME: CONTENT}


def test_a_ca_file_that_holds_no_certificate_is_told(copying: Copying) -> None:
    with pytest.raises(RemoteError, match="ca_file"):
        copying.run(settings(1, scheme="https") | {"ca": "nothing"})
