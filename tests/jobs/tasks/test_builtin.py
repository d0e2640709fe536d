"""homed's own tasks: run, ended, taken up again after a restart; and requests to a real server."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from homed.clock import now
from homed.config.jobs import JobHttp
from homed.errors import BusUnavailableError, JobError, ValidationError
from homed.jobs.output.outputs import Outputs
from homed.jobs.ports import Attempt
from homed.jobs.records import Command, Handle, Job, Origin, Result, State, Task, Work
from homed.jobs.tasks.builtin import Builtin

_OPEN = JobHttp(allow_private=True, response_limit=4096)


class Bench:
    """A runner, and what its attempts have told."""

    def __init__(self, folder: Path, config: JobHttp = _OPEN):
        self.outputs = Outputs(folder, lambda: 1 << 20)
        self.config = config
        self.own: list[tuple[str, int]] = []
        self.info: Mapping[str, Any] = {"name": "board", "load": [0.5, float("nan")], "temperature": float("inf")}
        self.runner = Builtin(self._tell, lambda: self.config, lambda address, port: (address, port) in self.own)
        self.handles: list[Handle] = []
        self.progress: list[float] = []

    async def _tell(self) -> Mapping[str, Any]:
        return self.info

    def attempt(self, work: Work, state: State = State.ASSIGNED) -> Attempt:
        at = now()
        job = Job(id="j1", origin=Origin.RETIRE, work=work, state=state, attempt=1, created_at=at, updated_at=at)
        return Attempt(job, self.outputs.create("j1", 1), self._started, self.progress.append)

    async def _started(self, handle: Handle) -> None:
        self.handles.append(handle)

    async def run(self, kind: str, payload: Mapping[str, Any]) -> Result:
        return await self.runner.run(self.attempt(Task(kind, payload)))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.runner.close()
    await asyncio.to_thread(made.outputs.close)


class Server:
    """Answers as a handler says; `asked` are the requests that came."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Mapping[str, str], bytes]] = []
        self.handlers: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {}
        self.address = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        handler = self.handlers.get(request.path)
        return web.Response(text="hello") if handler is None else await handler(request)

    def answer(self, path: str, status: int = 200, **given: Any) -> None:
        async def handle(request: web.Request) -> web.StreamResponse:
            return web.Response(status=status, **given)

        self.handlers[path] = handle


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.address = "http://{}:{}".format(*runner.addresses[0][:2])
    yield made
    await runner.cleanup()


async def test_echo_answers_its_payload(bench: Bench) -> None:
    payload = {"message": "Hello World", "list": [1, None, {"é": 2.5}]}
    result = await bench.run("echo", payload)
    assert result.good and result.data == {"echo": payload}
    assert bench.handles == [Handle(runner="builtin")]


async def test_sleep_tells_how_far_it_is(bench: Bench) -> None:
    result = await bench.run("sleep", {"duration": 0.05})
    assert result.good and result.data == {"slept": 0.05}
    assert bench.progress and all(0 <= one < 1 for one in bench.progress)
    assert (await bench.run("sleep", {"duration": 0})).good


async def test_system_info_answers_what_the_board_says_and_no_number_that_is_none(bench: Bench) -> None:
    result = await bench.run("system_info", {})
    assert result.data == {"name": "board", "load": [0.5, None], "temperature": None}


async def test_a_board_that_cannot_say_is_a_failure_with_its_code(bench: Bench) -> None:
    async def fail() -> Mapping[str, Any]:
        raise BusUnavailableError("no bus")

    bench.runner = Builtin(fail, lambda: _OPEN, lambda address, port: False)
    result = await bench.run("system_info", {})
    assert (result.code, result.good) == ("BUS_UNAVAILABLE", False)


@pytest.mark.parametrize("work", [Command("true"), Task("command", {"command": "true"}), Task("sleep", {})])
async def test_what_is_not_homeds_own_is_not_begun(bench: Bench, work: Work) -> None:
    with pytest.raises((JobError, ValidationError)):
        await bench.runner.run(bench.attempt(work))


async def test_a_task_that_is_ended_ends_at_once(bench: Bench) -> None:
    attempt = bench.attempt(Task("sleep", {"duration": 3600}))
    running = asyncio.create_task(bench.runner.run(attempt))
    while not bench.progress:
        await asyncio.sleep(0.001)
    await bench.runner.kill(attempt.job)
    assert (await running).code == "CANCELLED"
    await bench.runner.kill(attempt.job)
    await bench.runner.release(attempt.job)


async def test_where_homed_stops_a_task_stops_with_it(bench: Bench) -> None:
    running = asyncio.create_task(bench.run("sleep", {"duration": 3600}))
    while not bench.progress:
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.runner._running == {}


async def test_after_a_restart_what_changes_nothing_is_done_again_and_a_request_is_lost(bench: Bench) -> None:
    for kind, payload in (("echo", {}), ("sleep", {"duration": 1}), ("system_info", {})):
        assert await bench.runner.resume(bench.attempt(Task(kind, payload), State.RUNNING)) is None
    asked = Task("http_request", {"url": "http://a"})
    lost = await bench.runner.resume(bench.attempt(asked, State.RUNNING))
    assert lost is not None and lost.code == "JOB_LOST"
    assert await bench.runner.resume(bench.attempt(asked, State.ASSIGNED)) is None


async def test_a_request_is_made_as_it_was_asked_for(bench: Bench, server: Server) -> None:
    server.answer("/made", 201, text="é!", headers={"X-Two": "a"}, reason="Made")
    payload = {"url": f"{server.address}/made?x=1", "method": "put", "headers": {"X-Own": "1"}, "json": {"a": [1]}}
    result = await bench.run("http_request", {**payload, "method": "PUT"})
    assert result.good
    elapsed = result.data.pop("elapsed")
    headers = result.data.pop("headers")
    assert 0 < elapsed < 60 and headers["X-Two"] == "a"
    assert result.data == {
        "status": 201, "reason": "Made", "url": payload["url"], "body": "é!", "encoding": "text", "truncated": False,
    }  # fmt: skip
    ((method, path, sent, body),) = server.asked
    assert (method, path, json.loads(body)) == ("PUT", "/made?x=1", {"a": [1]})
    assert (sent["X-Own"], sent["Content-Type"], sent["User-Agent"]) == ("1", "application/json", "homed")


async def test_an_answer_is_good_whatever_its_status(bench: Bench, server: Server) -> None:
    server.answer("/gone", 410, text="")
    result = await bench.run("http_request", {"url": f"{server.address}/gone"})
    assert result.good and result.data["status"] == 410


async def test_what_is_no_text_is_answered_in_base64(bench: Bench, server: Server) -> None:
    server.answer("/binary", body=b"\xff\x00\x01", content_type="application/octet-stream")
    result = await bench.run("http_request", {"url": f"{server.address}/binary"})
    assert (result.data["body"], result.data["encoding"]) == ("/wAB", "base64")


async def test_a_long_answer_is_cut_and_says_so(bench: Bench, server: Server) -> None:
    server.answer("/long", text="x" * 100_000)
    result = await bench.run("http_request", {"url": f"{server.address}/long"})
    assert len(result.data["body"]) == 4096 and result.data["truncated"]
    server.answer("/fits", text="x" * 4096)
    result = await bench.run("http_request", {"url": f"{server.address}/fits"})
    assert len(result.data["body"]) == 4096 and not result.data["truncated"]


async def test_a_packed_answer_is_bounded_unpacked(bench: Bench, server: Server) -> None:
    async def packed(request: web.Request) -> web.StreamResponse:
        answer = web.Response(body=b"\0" * (50 << 20))
        answer.enable_compression(web.ContentCoding.gzip)
        return answer

    server.handlers["/bomb"] = packed
    result = await bench.run("http_request", {"url": f"{server.address}/bomb"})
    assert result.data["truncated"] and result.data["encoding"] == "base64"


async def test_an_answer_that_does_not_come_is_a_failure(bench: Bench, server: Server) -> None:
    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    server.handlers["/never"] = never
    result = await bench.run("http_request", {"url": f"{server.address}/never", "timeout": 0.2})
    assert result.code == "HTTP_FAILED" and "0.2 s" in result.error


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://[::1]:1/"])
async def test_a_server_that_is_not_there_is_a_failure(bench: Bench, url: str) -> None:
    result = await bench.run("http_request", {"url": url, "timeout": 20})
    assert result.code == "HTTP_FAILED" and result.error


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0.0.0.0", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::ffff:127.0.0.1]"],
)
async def test_an_inner_address_is_not_connected_to_however_it_is_written(
    bench: Bench, server: Server, host: str
) -> None:
    bench.config = JobHttp()
    port = server.address.rpartition(":")[2]
    result = await bench.run("http_request", {"url": f"http://{host}:{port}/"})
    # A form that only old resolvers know is no address at all to the client.
    assert result.code == "ADDRESS_NOT_ALLOWED" or "not a canonical IPv4 address" in result.error
    assert server.asked == []


async def test_a_redirect_is_judged_as_the_first_address_is(
    bench: Bench, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 127.0.0.1 it may go here, and nowhere else: so a redirect to another inner address is one that it refuses."""
    server.answer("/away", 302, headers={"Location": server.address.replace("127.0.0.1", "127.0.0.2") + "/secret"})
    server.answer("/there", 302, headers={"Location": "/end"})
    monkeypatch.setattr("homed.jobs.tasks.http.is_allowed", lambda address, allow_private: address == "127.0.0.1")
    result = await bench.run("http_request", {"url": f"{server.address}/away"})
    assert result.code == "ADDRESS_NOT_ALLOWED" and "127.0.0.2" in result.error
    result = await bench.run("http_request", {"url": f"{server.address}/there"})
    assert result.data["url"] == f"{server.address}/end"


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/", "//"])
async def test_a_redirect_elsewhere_than_http_is_a_failure(bench: Bench, server: Server, where: str) -> None:
    server.answer("/away", 302, headers={"Location": where})
    result = await bench.run("http_request", {"url": f"{server.address}/away", "timeout": 5})
    assert result.code == "HTTP_FAILED"


async def test_redirects_without_end_are_a_failure(bench: Bench, server: Server) -> None:
    server.answer("/round", 302, headers={"Location": "/round"})
    result = await bench.run("http_request", {"url": f"{server.address}/round"})
    assert result.code == "HTTP_FAILED" and len(server.asked) <= 11


async def test_the_environments_proxy_is_not_asked(
    bench: Bench, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await bench.run("http_request", {"url": server.address})).good


async def test_cookies_do_not_go_from_one_request_to_the_next(bench: Bench, server: Server) -> None:
    server.answer("/set", headers={"Set-Cookie": "a=b"})
    await bench.run("http_request", {"url": f"{server.address}/set"})
    await bench.run("http_request", {"url": f"{server.address}/set"})
    assert all("Cookie" not in headers for _, _, headers, _ in server.asked)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 \xff\xfe\r\nX-Name: \xff\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Type: a/b; charset=raw_unicode_escape\r\nContent-Length: 7\r\n\r\n\\ud800\xff",
        b"HTTP/1.1 200 OK\r\nContent-Type: a/b; charset=hex\r\nContent-Length: 2\r\n\r\n\xff\xfe",
        b"HTTP/1.1 200 OK\r\nContent-Type: a/b; charset=idna\r\nContent-Length: 2\r\n\r\n\xff\xfe",
    ],
)
async def test_whatever_a_server_says_can_be_written_down(bench: Bench, answer: bytes) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1")
    async with server:
        port = server.sockets[0].getsockname()[1]
        result = await bench.run("http_request", {"url": f"http://127.0.0.1:{port}/"})
    assert result.data["status"] == 200
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result


async def test_homed_itself_is_never_asked_whatever_is_allowed(bench: Bench, server: Server) -> None:
    host, _, port = server.address.removeprefix("http://").partition(":")
    bench.own = [(host, int(port))]
    result = await bench.run("http_request", {"url": f"{server.address}/"})
    assert (result.code, "homed itself" in result.error) == ("ADDRESS_NOT_ALLOWED", True)
    assert server.asked == []


async def test_a_redirect_to_homed_itself_is_not_followed(bench: Bench, server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as own:
        port = own.getsockname()[1]
        bench.own = [("127.0.0.1", port)]
        server.answer("/", 302, headers={"Location": f"http://localhost:{port}/api/v1/keys"})
        result = await bench.run("http_request", {"url": f"{server.address}/"})
        assert result.code == "ADDRESS_NOT_ALLOWED"
        own.setblocking(False)
        with pytest.raises(BlockingIOError):
            own.accept()
