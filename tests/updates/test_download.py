"""Downloads from servers that die, lie and change their minds: what is at the target is whole, or nothing is."""

import asyncio
import errno
import hashlib
import json
import logging
import os
import random
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from homed.errors import BundleError, DownloadError, NoSpaceError, UpdateError
from homed.updates import download
from homed.updates.download import (
    Fetched,
    Known,
    Limits,
    TryAgainError,
    discard,
    fetch,
    shown,
    understand,
    wrong,
)
from homed.updates.rate import Bucket

REPOSITORY = Path(__file__).resolve().parent.parent.parent
KIB, MIB = 1024, 1024 * 1024
CONTENT = random.Random(3).randbytes(3 * MIB + 17)
OTHER = random.Random(4).randbytes(3 * MIB + 17)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Limits(64 * MIB, attempts=4, first_wait=0.01, longest_wait=0.02, stall=20.0, sync_every=2 * MIB, reserve=0)


class Request(NamedTuple):
    path: str
    headers: dict[str, str]

    @property
    def begin(self) -> int:
        """Where the range begins that is asked for; 0 where none is."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(match[1]) if match else 0


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """HTTP by hand, so that it can be as wrong as a test wants; `answer` may be exchanged at any time."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None):
        self.answer = answer
        self.requests: list[Request] = []
        self.failed: list[Exception] = []
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def url(self, path: str = "/b.raucb") -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}{path}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As if it were killed."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()
        await asyncio.gather(*self._tasks - {asyncio.current_task()}, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._writers.add(writer)
        self._tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:-2])
            request = Request(head[0].split()[1], {name.lower(): value for name, value in headers.items()})
            self.requests.append(request)
            await self.answer(request, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Exception as error:
            self.failed.append(error)
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()


async def say(writer: asyncio.StreamWriter, status: int, headers: Mapping[str, object], body: bytes = b"") -> None:
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items()), "Connection: close"]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
    for at in range(0, len(body), 64 * KIB):
        writer.write(body[at : at + 64 * KIB])
        await writer.drain()


class Good:
    """A right server of one file. A request's body ends after the next of `cuts` bytes, as long as there are some."""

    def __init__(self, content: bytes = CONTENT, tag: str = '"one"', cuts: Sequence[int] = (), hangs: bool = False):
        self.content = content
        self.tag = tag
        self.cuts = list(cuts)
        self.hangs = hangs

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        begin = request.begin if request.headers.get("if-range") == self.tag else 0
        size = len(self.content)
        if begin >= size:
            await say(writer, 416, {"Content-Range": f"bytes */{size}", "ETag": self.tag, "Content-Length": 0})
            return
        headers: dict[str, object] = {"ETag": self.tag, "Content-Length": size - begin}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{size - 1}/{size}"
        end = begin + self.cuts.pop(0) if self.cuts else size
        await say(writer, 206 if begin else 200, headers, self.content[begin:end])
        if self.hangs and end < size:
            await asyncio.sleep(600)


def always(status: int, headers: dict[str, object] | None = None, body: bytes = b"") -> Answer:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        await say(writer, status, {"Content-Length": len(body), **(headers or {})}, body)

    return answer


def first(one: Answer, then: Answer) -> Answer:
    """`one` answers the first request, `then` all others."""
    asked: list[Request] = []

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        asked.append(request)
        await (one if len(asked) == 1 else then)(request, writer)

    return answer


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    async with Server(answer, tls) as server:
        yield server
    assert server.failed == []


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "7.raucb"


def is_there(target: Path, content: bytes = CONTENT) -> bool:
    """Whether the folder holds the whole and nothing beside it."""
    return target.read_bytes() == content and os.listdir(target.parent) == [target.name]


def synced(target: Path) -> int:
    """How much of the part is sure, as it says itself."""
    return int(json.loads(Path(f"{target}.part.json").read_bytes())["synced"])


@asynccontextmanager
async def under_way(server: Server, target: Path, after: int) -> AsyncIterator[None]:
    """A download that hangs when so many bytes (a multiple of 256 KiB) are here, none synced; then it is cancelled."""
    part = Path(f"{target}.part")
    task = asyncio.create_task(fetch(server.url(), target, replace(QUICK, sync_every=64 * MIB)))
    async with asyncio.timeout(30):
        while not part.exists() or part.stat().st_size < after:
            await asyncio.sleep(0.005)
    yield
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def broken_off(server: Server, target: Path, after: int = MIB) -> None:
    """Cancel a download of `CONTENT` when so many bytes (a multiple of 256 KiB) are here."""
    before, server.answer = server.answer, Good(cuts=[after + 100], hangs=True)
    async with under_way(server, target, after):
        pass
    server.answer = before


# --- whole


async def test_what_is_served_comes_whole(target: Path) -> None:
    told: list[tuple[int, int | None]] = []
    async with serving(Good()) as server:
        done = await fetch(server.url(), target, QUICK, progress=lambda *of: told.append(of), sha256=SHA256.upper())
    assert done == Fetched(target, len(CONTENT), SHA256)
    assert is_there(target) and target.stat().st_mode & 0o777 == 0o600
    assert told[-1] == (len(CONTENT), len(CONTENT)) and told == sorted(told)
    (request,) = server.requests
    assert request.headers["accept-encoding"] == "identity" and "range" not in request.headers


async def test_a_body_without_a_length_comes_whole(target: Path) -> None:
    async def chunked(request: Request, writer: asyncio.StreamWriter) -> None:
        await say(writer, 200, {"Transfer-Encoding": "chunked"})
        for at in range(0, len(CONTENT), 50_000):
            piece = CONTENT[at : at + 50_000]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with serving(chunked) as server:
        assert (await fetch(server.url(), target, QUICK)).sha256 == SHA256
    assert is_there(target)


async def test_progress_is_told_ten_times_a_second_at_most(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(download, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    async with serving(Good()) as server:
        await fetch(server.url(), target, QUICK, progress=lambda received, size: told.append(received))
    assert len(told) == 2 and told[-1] == len(CONTENT), "the clock stood still: the beginning and the end"


async def test_an_older_file_at_the_target_is_replaced_at_the_end_only(target: Path) -> None:
    target.write_bytes(b"old")
    async with serving(Good()) as server:
        await broken_off(server, target)
        assert target.read_bytes() == b"old"
        await fetch(server.url(), target, QUICK)
    assert is_there(target)


async def test_a_wrong_checksum_leaves_nothing(target: Path) -> None:
    async with serving(Good(OTHER)) as server:
        with pytest.raises(BundleError, match=SHA256) as caught:
            await fetch(server.url(), target, QUICK, sha256=SHA256)
    assert (caught.value.code, caught.value.status) == ("UPDATE_CHECKSUM", 422)
    assert os.listdir(target.parent) == []


async def test_the_file_is_synced_before_it_takes_its_name_and_the_folder_after(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        order.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def note_replace(source: Path, place: Path) -> None:
        order.append(f"→ {place.name}")
        rename(source, place)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    async with serving(Good()) as server:
        await fetch(server.url(), target, QUICK)
    renamed = order.index("→ 7.raucb")
    assert "7.raucb.part" in order[:renamed] and target.parent.name in order[renamed:]
    assert order[renamed:].count("7.raucb.part") == 0


async def test_the_loop_goes_on_while_the_disk_is_slow(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, go_on, came = os.fsync, threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(descriptor: int) -> None:
        loop.call_soon_threadsafe(came.set)
        assert go_on.wait(30)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    async with serving(Good()) as server:
        task = asyncio.create_task(fetch(server.url(), target, QUICK))
        await came.wait()
        task.cancel()
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
        assert not task.done(), "it was left while it was at the file"
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task


# --- resumed


async def test_a_server_that_dies_and_comes_back_is_gone_on_with(
    target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Good(cuts=[MIB])) as server:
        limits = Limits(64 * MIB, attempts=10_000, first_wait=0.01, longest_wait=0.01, reserve=0)
        good = server.answer

        async def dies(request: Request, writer: asyncio.StreamWriter) -> None:
            await good(request, writer)
            await server.stop()

        server.answer = dies
        caplog.set_level(logging.WARNING)
        task = asyncio.create_task(fetch(server.url(), target, limits))
        async with asyncio.timeout(30):
            while "Connect call failed" not in caplog.text:
                await asyncio.sleep(0.01)
        assert not task.done()
        server.answer = Good()
        await server.start()
        await task
        assert server.requests[-1].begin > 0 and server.requests[-1].headers["if-range"] == '"one"'
    assert is_there(target)


async def test_a_connection_that_breaks_off_again_and_again_is_gone_on_with(target: Path) -> None:
    cuts = [700 * KIB] * 4
    async with serving(Good(cuts=cuts)) as server:
        limits = Limits(64 * MIB, attempts=2, first_wait=0.0, reserve=0)
        assert (await fetch(server.url(), target, limits)).sha256 == SHA256
        begins = [request.begin for request in server.requests]
    assert begins[0] == 0 and begins == sorted(set(begins)) and len(begins) >= 5
    assert is_there(target)


async def test_what_a_cancelled_download_left_is_gone_on_with(target: Path) -> None:
    async with serving(Good()) as server:
        await broken_off(server, target, 2 * MIB)
        left = synced(target)
        assert 0 < left == Path(f"{target}.part").stat().st_size
        await fetch(server.url(), target, QUICK, sha256=SHA256)
        assert [request.begin for request in server.requests] == [0, left]
    assert is_there(target)


_PROCESS = """
import asyncio, pathlib, sys
from homed.updates.download import Limits, fetch
limits = Limits(2**30, reserve=0, sync_every=65536)
asyncio.run(fetch(sys.argv[1], pathlib.Path(sys.argv[2]), limits, sha256=sys.argv[3]))
"""


async def test_what_a_killed_homed_left_is_gone_on_with(target: Path) -> None:
    good = Good(hangs=True)
    async with serving(good) as server:

        async def start() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-c", _PROCESS, server.url(), str(target), SHA256, cwd=REPOSITORY
            )

        sure = 0
        for cut in (300 * KIB, 600 * KIB, 900 * KIB, 500 * KIB + 7):
            good.cuts = [cut]
            process = await start()
            try:
                async with asyncio.timeout(60):
                    while not Path(f"{target}.part.json").exists() or synced(target) < sure + 128 * KIB:
                        await asyncio.sleep(0.01)
            finally:
                process.kill()
                await process.wait()
            sure = synced(target)
            # What it wrote and did not sync may be anything after a power cut.
            with Path(f"{target}.part").open("r+b") as part:
                part.seek(sure)
                part.write(bytes(4 * MIB))
        good.cuts = []
        assert await (await start()).wait() == 0
        begins = [request.begin for request in server.requests]
        assert begins[0] == 0 and begins == sorted(set(begins)) and begins[-1] == sure
    assert is_there(target)


@pytest.mark.parametrize("answer", [Good(OTHER, '"two"'), Good(OTHER[:MIB], '"two"')], ids=["as long", "shorter"])
async def test_what_is_another_file_by_now_is_begun_anew(target: Path, answer: Answer) -> None:
    async with serving(answer) as server:
        await broken_off(server, target, 2 * MIB)
        await fetch(server.url(), target, QUICK)
        assert server.requests[-1].headers["if-range"] == '"one"', "it was asked in one request"
        assert len(server.requests) == 2
    assert is_there(target, answer.content)  # type: ignore[attr-defined]


async def test_a_file_that_changes_in_mid_download_is_begun_anew(target: Path) -> None:
    async with serving(first(Good(cuts=[2 * MIB]), Good(OTHER, '"two"'))) as server:
        await fetch(server.url(), target, QUICK)
    assert is_there(target, OTHER)


async def test_a_server_that_ignores_range_is_read_from_the_beginning(target: Path) -> None:
    async with serving(first(Good(cuts=[2 * MIB]), always(200, {"ETag": '"one"'}, CONTENT))) as server:
        await fetch(server.url(), target, QUICK)
        assert server.requests[1].begin > 0
    assert is_there(target)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 0-9/10"},
        {"Content-Range": f"bytes 5-9/{len(CONTENT)}"},
        {"Content-Range": "bytes BEGIN-9999999999/10000000000"},
        {"Content-Range": "bytes BEGIN-3145744/*", "ETag": '"two"'},
        {"Content-Range": "bytes BEGIN-3145744/3145740"},
        {"Content-Range": "bytes BEGIN-0/3145745"},
        {"Content-Range": "octets BEGIN-3145744/3145745"},
        {"Content-Range": "bytes ٣-٤/٥"},
        {"Content-Range": f"bytes BEGIN-{'9' * 5000}/*"},
        {"Content-Range": ""},
        {},
        {"Content-Type": "multipart/byteranges; boundary=x"},
    ],
    ids=str,
)
async def test_a_part_that_does_not_continue_is_not_taken(target: Path, headers: dict[str, str]) -> None:
    async def odd(request: Request, writer: asyncio.StreamWriter) -> None:
        if not request.begin:
            await Good()(request, writer)
            return
        filled = {name: value.replace("BEGIN", str(request.begin)) for name, value in headers.items()}
        await say(writer, 206, {"ETag": '"one"', "Content-Length": 5, **filled}, b"wrong")

    async with serving(first(Good(cuts=[2 * MIB]), odd)) as server:
        await fetch(server.url(), target, QUICK)
        assert [request.begin > 0 for request in server.requests] == [False, True, False]
    assert is_there(target)


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ("bytes 10-99/100", True),
        ("Bytes 10-99/100", True),
        ("bytes 10-10/100", True),
        ("bytes 10-99/*", True),
        ("bytes 9-99/100", False),
        ("bytes 11-99/100", False),
        ("bytes 10-9/100", False),
        ("bytes 10-100/100", False),
        ("bytes 10-100/*", False),
        ("bytes 10-98/99", False),
        ("bytes */100", False),
        ("bytes -10-99/100", False),
        ("bytes 10-99/100, 1-2/3", False),
    ],
)
def test_a_range_has_to_begin_where_we_are_and_end_within_the_whole(said: str, fits: bool) -> None:
    known = Known("u", '"one"', 100, 10)
    if fits:
        answer = understand(206, {"Content-Range": said, "ETag": '"one"'}, 10, known)
        assert answer[:2] == (known, 10) and 10 < (answer[2] or 0) <= 100
    else:
        with pytest.raises(TryAgainError) as caught:
            understand(206, {"Content-Range": said}, 10, known)
        assert caught.value.anew


async def test_a_server_that_gives_less_than_was_asked_is_asked_for_the_rest(target: Path) -> None:
    async def piecemeal(request: Request, writer: asyncio.StreamWriter) -> None:
        begin, size = request.begin, len(CONTENT)
        if not begin:
            await Good(cuts=[MIB])(request, writer)
            return
        end = min(size, begin + 600_000)
        headers = {"ETag": '"one"', "Content-Length": end - begin, "Content-Range": f"bytes {begin}-{end - 1}/{size}"}
        await say(writer, 206, headers, CONTENT[begin:end])

    async with serving(piecemeal) as server:
        await fetch(server.url(), target, Limits(64 * MIB, attempts=2, first_wait=0.0, reserve=0))
    assert is_there(target)


async def test_what_the_server_cannot_go_on_with_is_begun_anew(target: Path) -> None:
    async with serving(first(always(416, {"Content-Range": "bytes */10"}), Good())) as server:
        await broken_off(server, target)
        await fetch(server.url(), target, QUICK)
        assert [request.begin > 0 for request in server.requests] == [False, True, False]
    assert is_there(target)


async def test_a_server_that_has_us_begin_anew_for_ever_is_given_up(target: Path) -> None:
    def answer() -> Answer:
        async def one(request: Request, writer: asyncio.StreamWriter) -> None:
            await (always(416) if request.begin else Good(cuts=[2 * MIB]))(request, writer)

        return one

    async with serving(answer()) as server:
        with pytest.raises(DownloadError):
            await fetch(server.url(), target, QUICK)
        assert len(server.requests) == 2 * QUICK.attempts


@pytest.mark.parametrize("tag", ['W/"weak"', "bare", '"\x01"', '"ü"', "", '"' + "x" * 4000 + '"'], ids=ascii)
async def test_without_a_validator_that_can_be_trusted_it_is_begun_anew(target: Path, tag: str) -> None:
    async with serving(first(Good(tag=tag, cuts=[2 * MIB]), Good(OTHER, tag))) as server:
        await fetch(server.url(), target, QUICK)
        assert all("range" not in request.headers for request in server.requests)
    assert is_there(target, OTHER)


async def test_a_date_serves_where_there_is_no_tag(target: Path) -> None:
    date = "Fri, 21 Nov 2025 10:00:00 GMT"

    async def dated(request: Request, writer: asyncio.StreamWriter) -> None:
        begin = request.begin if request.headers.get("if-range") == date else 0
        end = len(CONTENT) if begin else 2 * MIB
        headers = {"Last-Modified": date, "Content-Length": len(CONTENT) - begin}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{end}"
        await say(writer, 206 if begin else 200, headers, CONTENT[begin:end])

    async with serving(dated) as server:
        await fetch(server.url(), target, QUICK)
        assert server.requests[1].begin > 0
    assert is_there(target)


async def test_of_a_whole_part_only_the_last_byte_is_asked_for(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """homed was killed after the last byte and before the file had its name."""
    rename = os.replace

    def fails(source: Path, place: Path) -> None:
        if place == target:
            raise OSError(errno.EIO, "broken")
        rename(source, place)

    async with serving(Good()) as server:
        monkeypatch.setattr(os, "replace", fails)
        with pytest.raises(UpdateError, match="broken"):
            await fetch(server.url(), target, QUICK)
        monkeypatch.undo()
        await fetch(server.url(), target, QUICK)
        assert [request.begin for request in server.requests] == [0, len(CONTENT) - 1]
    assert is_there(target)


def _other_url(note: dict[str, Any]) -> dict[str, Any]:
    return {**note, "source": "http://elsewhere/"}


def _more_than_there_is(note: dict[str, Any]) -> dict[str, Any]:
    return {**note, "synced": 2 * MIB}


@pytest.mark.parametrize(
    "spoil",
    [None, lambda note: 5, _other_url, _more_than_there_is, lambda note: {"synced": 10}],
    ids=["gone", "nonsense", "another URL", "more than there is", "too little"],
)
async def test_a_part_that_nothing_sound_is_known_of_is_begun_anew(
    target: Path, spoil: Callable[[dict[str, Any]], object] | None
) -> None:
    async with serving(Good()) as server:
        await broken_off(server, target)
        note = Path(f"{target}.part.json")
        if spoil is None:
            note.unlink()
        else:
            note.write_text(json.dumps(spoil(json.loads(note.read_bytes()))))
        await fetch(server.url(), target, QUICK)
        assert server.requests[-1].begin == 0
    assert is_there(target)


async def test_a_note_that_is_cut_off_is_no_note(target: Path) -> None:
    async with serving(Good()) as server:
        await broken_off(server, target)
        note = Path(f"{target}.part.json")
        note.write_bytes(note.read_bytes()[:-3] + b"\xff")
        await fetch(server.url(), target, QUICK)
    assert is_there(target)


async def test_what_is_noted_is_of_the_file_that_the_part_is_of(target: Path) -> None:
    """A power cut, and a server that is back at the old file, must not make one of two."""
    async with serving(Good(OTHER, '"two"', [2 * MIB], hangs=True)) as server:
        await broken_off(server, target, MIB)
        async with under_way(server, target, 2 * MIB):
            note = Path(f"{target}.part.json").read_bytes()
            left = Path(f"{target}.part").read_bytes()
        Path(f"{target}.part.json").write_bytes(note)
        Path(f"{target}.part").write_bytes(left)
        server.answer = Good()
        await fetch(server.url(), target, QUICK)
    assert is_there(target)


async def test_a_discarded_download_leaves_nothing(target: Path) -> None:
    async with serving(Good()) as server:
        await broken_off(server, target)
        Path(f"{target.parent}/.{target.name}.part.json.new").touch()
        discard(target)
        assert os.listdir(target.parent) == []
        discard(target)


@settings(max_examples=12, deadline=None)
@given(
    size=st.integers(1, 900_000),
    cuts=st.lists(st.integers(1, 400_000), max_size=4),
    ends=st.lists(st.integers(0, 900_000), max_size=3),
)
def test_however_it_is_broken_off_the_file_is_right(size: int, cuts: list[int], ends: list[int]) -> None:
    """The server breaks off after `cuts` bytes of an answer, homed when `ends` bytes are here."""
    limits = Limits(MIB, attempts=20, first_wait=0.0, reserve=0, sync_every=50_000)

    async def ended_at(end: int, url: str, target: Path) -> None:
        def progress(received: int, size: int | None) -> None:
            if received >= end:
                task.cancel()

        task = asyncio.create_task(fetch(url, target, limits, progress=progress))
        with suppress(asyncio.CancelledError):
            await task

    async def story(target: Path) -> None:
        content = CONTENT[:size]
        async with serving(Good(content, cuts=cuts)) as server:
            for end in ends:
                await ended_at(end, server.url(), target)
            await fetch(server.url(), target, limits)
        assert is_there(target, content)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(story(Path(folder) / "b"))


# --- what servers say


@pytest.mark.parametrize("status", [204, 206, 300, 302, 304, 400, 401, 403, 404, 410, 416, 418, 451])
async def test_a_refusal_is_final_at_once(target: Path, status: int) -> None:
    async with serving(always(status)) as server:
        with pytest.raises(DownloadError, match=f"answered {status}") as caught:
            await fetch(server.url(), target, QUICK)
        assert len(server.requests) == 1
    assert (caught.value.code, caught.value.details) == ("UPDATE_DOWNLOAD", {"status": status})
    assert not target.exists()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 999])
async def test_what_may_pass_is_tried_again(target: Path, status: int) -> None:
    async with serving(first(always(status), Good())) as server:
        await fetch(server.url(), target, QUICK)
        assert len(server.requests) == 2
    assert is_there(target)


async def test_a_server_that_stays_broken_is_given_up_and_the_part_kept(target: Path) -> None:
    async with serving(always(500)) as server:
        await broken_off(server, target)
        left = synced(target)
        with pytest.raises(DownloadError, match="500"):
            await fetch(server.url(), target, QUICK)
        assert len(server.requests) == 1 + QUICK.attempts
        assert synced(target) == left
        server.answer = Good()
        await fetch(server.url(), target, QUICK)
        assert server.requests[-1].begin == left
    assert is_there(target)


async def test_the_wait_grows_with_each_failure_up_to_its_limit_and_begins_anew_after_progress(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr(download, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": noted}))
    answers: list[Answer] = [*[always(500)] * 4, Good(cuts=[2 * MIB]), always(500), always(429, {"Retry-After": "7"})]
    answers += [always(503, {"Retry-After": "86400"}), Good()]

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        await answers.pop(0)(request, writer)

    async with serving(answer) as server:
        await fetch(server.url(), target, Limits(64 * MIB, attempts=5, first_wait=1.0, longest_wait=10.0, reserve=0))
    assert waits == [1, 2, 4, 8, 1, 1, 7, 10]


def test_retry_after_is_seconds_or_a_date() -> None:
    def after(said: str) -> float:
        with pytest.raises(TryAgainError) as caught:
            understand(429, {"Retry-After": said}, 0, Known("u"))
        return caught.value.after

    assert after("5") == 5.0
    assert 50 < after(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) <= 60
    assert after("Fri, 21 Nov 2025 10:00:00 -0000") < 0
    for nonsense in ("", "-1", "soon", "1e9", "9" * 5000, "Fri, 99 Nov 2025 10:00:00 GMT", "٣", "Mon, 1 Jan 99999 0:0"):
        assert after(nonsense) <= 0


async def test_a_server_that_stands_still_is_left_and_gone_on_with(target: Path) -> None:
    async with serving(first(Good(cuts=[2 * MIB], hangs=True), Good())) as server:
        await fetch(server.url(), target, Limits(64 * MIB, first_wait=0.0, stall=0.3, reserve=0))
        assert server.requests[-1].begin > 0
    assert is_there(target)


async def test_a_server_that_does_not_answer_is_given_up(target: Path) -> None:
    async def silent(request: Request, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await asyncio.sleep(0.02)

    async with serving(silent) as server:
        with pytest.raises(DownloadError, match=r"nothing came for 0\.2 s"):
            await fetch(server.url(), target, Limits(MIB, attempts=2, first_wait=0.0, stall=0.2, reserve=0))


async def test_nobody_at_the_address_is_given_up(target: Path) -> None:
    async with serving(Good()) as server:
        pass
    with pytest.raises(DownloadError, match="Connect call failed"):
        await fetch(server.url(), target, QUICK)


async def test_a_name_that_is_not_known_is_given_up(target: Path) -> None:
    class Nobody(AbstractResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
            raise OSError(None, "no such name")

        async def close(self) -> None:
            pass

    connector = aiohttp.TCPConnector(resolver=Nobody())
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(DownloadError, match="no such name"):
            await fetch("http://nobody.example/b", target, QUICK, session=session)
        assert not session.closed


@pytest.mark.parametrize("body", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\nshort"])
async def test_a_body_shorter_than_was_said_is_never_taken_for_the_whole(target: Path, body: bytes) -> None:
    async def short(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(body)

    async with serving(short) as server:
        with pytest.raises(DownloadError):
            await fetch(server.url(), target, QUICK)
    assert not target.exists()


@pytest.mark.parametrize("sha256", [None, SHA256], ids=["no checksum", "checksum"])
async def test_of_a_body_longer_than_was_said_no_more_is_taken(target: Path, sha256: str | None) -> None:
    async def longer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + CONTENT[:1000])
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(CONTENT[1000:])

    async with serving(longer) as server:
        if sha256 is None:
            assert (await fetch(server.url(), target, QUICK)).size == 1000
            assert is_there(target, CONTENT[:1000])
        else:
            with pytest.raises(BundleError):
                await fetch(server.url(), target, QUICK, sha256=sha256)
            assert not target.exists()


async def test_a_body_longer_than_its_range_is_not_taken(target: Path) -> None:
    async def longer(request: Request, writer: asyncio.StreamWriter) -> None:
        if not request.begin:
            await Good()(request, writer)
            return
        end = len(CONTENT) - 1
        headers = {"ETag": '"one"', "Content-Range": f"bytes {request.begin}-{end}/{end + 1}"}
        await say(writer, 206, headers, CONTENT[request.begin :] + b"more")

    async with serving(first(Good(cuts=[2 * MIB]), longer)) as server:
        await fetch(server.url(), target, QUICK)
        assert [request.begin > 0 for request in server.requests] == [False, True, False]
    assert is_there(target)


async def test_what_is_said_to_be_too_large_is_not_begun(target: Path) -> None:
    async with serving(always(200, {"Content-Length": 64 * MIB + 1})) as server:
        with pytest.raises(BundleError) as caught:
            await fetch(server.url(), target, QUICK)
    assert caught.value.code == "UPDATE_TOO_LARGE"
    assert os.listdir(target.parent) == []


async def test_a_body_without_end_is_cut_off(target: Path) -> None:
    sent = 0

    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await say(writer, 200, {})
        while True:
            writer.write(bytes(64 * KIB))
            await writer.drain()
            sent += 64 * KIB

    async with serving(endless) as server:
        with pytest.raises(BundleError) as caught:
            await fetch(server.url(), target, Limits(4 * MIB, reserve=0))
    assert caught.value.code == "UPDATE_TOO_LARGE"
    assert os.listdir(target.parent) == []
    assert len(server.requests) == 1 and sent < 40 * MIB


@pytest.mark.parametrize("status", [200, 206])
async def test_a_packed_answer_is_refused(target: Path, status: int) -> None:
    packed = always(status, {"Content-Encoding": "gzip", "Content-Range": "bytes 1-2/3"}, b"\x1f\x8b")
    async with serving(packed) as server:
        if status == 206:
            await broken_off(server, target)
        with pytest.raises(DownloadError, match="packed"):
            await fetch(server.url(), target, QUICK)
    assert not target.exists()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFFF\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA\x00B: c\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 \xff\xfe\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00" * 100,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 503 \r\nSet-Cookie: \x01=\xff; Domain=" + b"." * 5000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 F\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 F\r\nLocation: http://127.0.0.1:999999/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 F\r\nLocation: http://" + b"a" * 300 + b".example/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 F\r\nLocation: //\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=lambda answer: ascii(answer[:60]),
)
async def test_what_is_not_http_is_an_error_of_the_download(target: Path, answer: bytes) -> None:
    async def raw(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    async with serving(raw) as server:
        with pytest.raises((DownloadError, BundleError)) as caught:
            await fetch(server.url(), target, QUICK)
    assert len(str(caught.value)) < 300 and str(caught.value).isprintable()
    assert not target.exists()


@pytest.mark.parametrize("said", ["bytes BEGIN-LAST/SIZE", "bytes 5-LAST/SIZE", "bytes BEGIN-LAST/*", "nonsense", ""])
@pytest.mark.parametrize("body", ["the rest", "the whole"])
async def test_a_part_that_is_called_the_whole_is_not_taken_for_it(target: Path, said: str, body: str) -> None:
    """Status 200 with a Content-Range: appended if it is the rest, begun anew otherwise."""

    async def lies(request: Request, writer: asyncio.StreamWriter) -> None:
        begin, last = request.begin, len(CONTENT) - 1
        whole = said.replace("BEGIN", str(begin)).replace("LAST", str(last)).replace("SIZE", str(len(CONTENT)))
        data = CONTENT if body == "the whole" else CONTENT[begin:]
        await say(writer, 200, {"ETag": '"one"', "Content-Range": whole, "Content-Length": len(data)}, data)

    async with serving(first(Good(cuts=[MIB]), first(lies, Good()))) as server:
        await fetch(server.url(), target, QUICK)
    assert is_there(target)


# --- redirects, users, TLS


async def test_urls_and_redirects_are_asked_as_they_are_written(target: Path) -> None:
    async with serving(first(always(302, {"Location": "/y?sig=%2F%7E&a=b%3D"}), Good())) as server:
        await fetch(server.url("/x?sig=a%2Fb%3D%2B&x=1%7E"), target, QUICK)
    assert [request.path for request in server.requests] == ["/x?sig=a%2Fb%3D%2B&x=1%7E", "/y?sig=%2F%7E&a=b%3D"]


async def test_up_to_five_redirects_are_followed(target: Path) -> None:
    def hops(most: int) -> Answer:
        async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
            number = int(request.path[1:])
            if number == most:
                await Good()(request, writer)
            else:
                await say(writer, (301, 302, 303, 307, 308)[number % 5], {"Location": f"/{number + 1}"})

        return answer

    async with serving(hops(5)) as server:
        await fetch(server.url("/0"), target, QUICK)
        assert is_there(target)
        server.answer = hops(6)
        with pytest.raises(DownloadError, match="TooManyRedirects"):
            await fetch(server.url("/0"), target, QUICK)
        server.requests.clear()
        server.answer = always(302, {"Location": "/0"})
        with pytest.raises(DownloadError, match="TooManyRedirects"):
            await fetch(server.url("/0"), target, QUICK)
        assert len(server.requests) == 6


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/b", "data:,x", "javascript:1", "unix:/x"])
async def test_a_redirect_away_from_http_is_not_followed(target: Path, location: str) -> None:
    async with serving(always(302, {"Location": location})) as server:
        with pytest.raises(DownloadError, match="leads nowhere"):
            await fetch(server.url(), target, QUICK)
        assert len(server.requests) == 1
    assert not target.exists()


async def test_the_user_is_told_to_the_server_of_the_url_and_to_no_other(
    target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(Good()) as other, serving(always(500)) as server:
        url = server.url().replace("//", "//us%40er:s3cr%2Fet@")
        server.answer = first(always(500), always(302, {"Location": server.url("/second")}))
        with pytest.raises(DownloadError) as caught:
            await fetch(url, target, QUICK)
        assert {request.headers["authorization"] for request in server.requests} == {"Basic dXNAZXI6czNjci9ldA=="}
        server.answer = always(302, {"Location": other.url()})
        await fetch(url, target, QUICK)
        assert "authorization" not in other.requests[0].headers
    for text in (str(caught.value), caplog.text):
        assert "127.0.0.1" in text and "s3cr" not in text and "us%40er" not in text
    assert is_there(target)


async def test_the_password_is_not_written_to_the_disk(target: Path) -> None:
    async with serving(always(404)) as server:
        with pytest.raises(DownloadError):
            await fetch(server.url("/b?X-Sig=s3cret").replace("//", "//user:s3cret@"), target, QUICK)
    for path in target.parent.iterdir():
        assert b"s3cret" not in path.read_bytes()


@pytest.fixture
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server on 127.0.0.1 shows, and what trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    both = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    both.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(both)
    return server, ssl.create_default_context(cafile=both)


async def test_over_tls_it_goes_on_and_is_not_led_out_of_it(
    target: Path, certificate: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    trusting = aiohttp.TCPConnector(ssl=certificate[1])
    async with serving(Good(cuts=[2 * MIB]), certificate[0]) as server, serving(Good()) as plain:
        async with aiohttp.ClientSession(connector=trusting) as session:
            await fetch(server.url(), target, QUICK, session=session)
            assert server.requests[-1].begin > 0 and is_there(target)
            target.unlink()
            server.answer = always(302, {"Location": plain.url()})
            with pytest.raises(DownloadError, match="from https to http"):
                await fetch(server.url(), target, QUICK, session=session)
            plain.answer = always(302, {"Location": server.url()})
            server.answer = Good()
            await fetch(plain.url(), target, QUICK, session=session)
            assert is_there(target)
        with pytest.raises(DownloadError, match="Certificate"):
            await fetch(server.url(), target, QUICK)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://host/b.raucb", "http://host/b.raucb"),
        ("https://user:pass@host:8443/b@2?x=1#f", "https://***@host:8443/b@2?x=1#f"),
        ("https://token@host/b", "https://***@host/b"),
        ("http://us@er:pa@ss@host/b", "http://***@host/b"),
        ("http://user:pa/ss@host/b", "http://***@host/b"),
        ("http://user:pa?ss@host/b", "http://***@host/b"),
        ("ftp://user:pass@host/b", "ftp://***@host/b"),
        ("//user:pass@[::1/b", "//***@[::1/b"),
        ("http://h/b?X-Amz-Signature=abc&sig=d&part=2&access_token=e", "http://h/b?X-Amz-Signature=***&sig=***&part=2&access_token=***"),
        ("http://h/\n\x1b[31m", "http://h/??[31m"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_url_is_shown_without_what_is_secret_in_it(url: str, said: str) -> None:
    assert shown(url) == said


@given(st.text(alphabet="ab:/@?#[]%&=.1\\ \n"))
def test_any_text_can_be_shown(text: str) -> None:
    assert shown(f"http://user:s3cret@{text}").count("s3cret") == 0
    assert shown(text).isprintable() and isinstance(wrong(text), str)


@pytest.mark.parametrize(
    "url",
    [
        "", "b.raucb", "/b", "file:///etc/passwd", "ftp://h/b", "http://", "http:///b", "http://h:port/", "http://[::1/b",
        "http://a b/", "http://h/a\nb", "http://h/\x00", "http://h\\@i/", "HTTP:h", "http://user@/b", "javascript:1",
    ],
)  # fmt: skip
async def test_what_is_no_url_of_http_is_refused_before_anything_is_done(target: Path, url: str) -> None:
    assert wrong(url) is not None
    with pytest.raises(DownloadError, match="not a URL"):
        await fetch(url, target, QUICK)
    assert os.listdir(target.parent) == []


def test_usual_urls_are_not_wrong() -> None:
    for url in ("http://h", "https://h:8443/b.raucb?a=b#c", "HTTP://u:p@[::1]:80/ü", "https://host.example?x"):
        assert wrong(url) is None


# --- the disk


async def test_room_is_looked_for_before_anything_is_fetched(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has = SimpleNamespace(f_bavail=len(CONTENT) // KIB, f_frsize=KIB)
    async with serving(Good()) as server:
        await broken_off(server, target, 2 * MIB)
        monkeypatch.setattr(os, "fstatvfs", lambda descriptor: has)
        limits = Limits(64 * MIB, reserve=MIB + MIB // 2)
        await fetch(server.url(), target, limits)
        assert is_there(target), "only the rest needs room"
        target.unlink()
        with pytest.raises(NoSpaceError) as caught:
            await fetch(server.url(), target, limits)
    assert (caught.value.code, caught.value.status) == ("UPDATE_NO_SPACE", 507)
    assert os.listdir(target.parent) == []


async def test_what_others_leave_of_the_disk_is_watched(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([100, *[50] * 4, *[3] * 100])
    monkeypatch.setattr(os, "fstatvfs", lambda descriptor: SimpleNamespace(f_bavail=next(free), f_frsize=MIB))
    async with serving(Good()) as server:
        with pytest.raises(NoSpaceError):
            await fetch(server.url(), target, Limits(64 * MIB, reserve=4 * MIB))
    assert os.listdir(target.parent) == []


_ON_A_SMALL_DISK = """
import asyncio, os, pathlib, sys
from homed.errors import HomedError
from homed.updates.download import Limits, fetch
target = pathlib.Path(sys.argv[2]) / "b"
try:
    asyncio.run(fetch(sys.argv[1], target, Limits(2**30, reserve=0)))
except HomedError as error:
    print(error.code, os.listdir(target.parent))
"""


@pytest.mark.parametrize("length_is_said", [True, False])
async def test_a_full_disk_is_told_and_cleaned(tmp_path: Path, length_is_said: bool) -> None:
    mount = f"mount -t tmpfs -o size=2m none {tmp_path}"
    if (
        shutil.which("unshare") is None
        or subprocess.run(("unshare", "--mount", "sh", "-c", mount), check=False).returncode
    ):
        pytest.skip("a disk of its own needs root")

    async def unsaid(request: Request, writer: asyncio.StreamWriter) -> None:
        await say(writer, 200, {}, CONTENT)

    async with serving(Good() if length_is_said else unsaid) as server:
        process = await asyncio.create_subprocess_exec(
            *("unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "-"),
            *(sys.executable, "-c", _ON_A_SMALL_DISK, server.url(), tmp_path),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
        )
        said, _ = await process.communicate()
    assert said.decode().strip() == "UPDATE_NO_SPACE []"


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
async def test_a_disk_that_fails_ends_it(target: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    async with serving(Good()) as server:
        monkeypatch.setattr(os, call, fails)
        with pytest.raises(UpdateError) as caught:
            await fetch(server.url(), target, QUICK)
        monkeypatch.undo()
        full = number != errno.EIO
        assert caught.value.code == ("UPDATE_NO_SPACE" if full else "UPDATE_ERROR")
        assert not full or os.listdir(target.parent) == []
        await fetch(server.url(), target, QUICK)
    assert is_there(target)


async def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UpdateError, match="cannot be kept"):
        await fetch("http://127.0.0.1:9/", tmp_path / "none" / "b", QUICK)


async def test_a_link_in_the_place_of_the_part_is_not_followed(target: Path) -> None:
    (target.parent / "precious").write_bytes(b"precious")
    Path(f"{target}.part").symlink_to("precious")
    with pytest.raises(UpdateError, match="cannot be kept"):
        await fetch("http://127.0.0.1:9/", target, QUICK)
    assert (target.parent / "precious").read_bytes() == b"precious"


# --- rate and memory


@given(
    rate=st.integers(1, 10**9),
    takes=st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 100, allow_nan=False)), max_size=30),
)
def test_no_more_is_taken_than_the_rate_allows(rate: int, takes: list[tuple[int, float]]) -> None:
    """Each take waits as long as it is told, and then some."""
    bucket, now, total = Bucket(rate, 50.0), 50.0, 0
    for size, idle in takes:
        total += size
        wait = bucket.wait(size, now)
        assert wait >= 0
        now += wait + idle
        assert total <= rate * (now - 50.0 + 0.25) * (1 + 1e-9) + 1e-3


def test_the_rate_is_used_to_the_full() -> None:
    bucket, now = Bucket(1000, 0.0), 0.0
    for _ in range(100):
        now += bucket.wait(500, now)
    assert now == pytest.approx(50.0)


async def test_a_limited_download_waits_for_what_it_took(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = 0.0
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        nonlocal waited
        waited += seconds
        await sleep(0)

    monkeypatch.setattr(download, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": noted}))
    monkeypatch.setattr(download, "time", SimpleNamespace(monotonic=lambda: waited))
    async with serving(Good(cuts=[2 * MIB])) as server:
        limits = Limits(64 * MIB, rate=100_000, first_wait=0.0, reserve=0)
        await fetch(server.url(), target, limits)
    assert waited >= len(CONTENT) / 100_000 - 0.5
    assert is_there(target)


_MEASURED = """
import asyncio, pathlib, sys
from homed.updates.download import Limits, fetch

def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

async def main():
    folder = pathlib.Path(sys.argv[2])
    await fetch(sys.argv[1] + "/small", folder / "small", Limits(2**30, reserve=0))
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    await fetch(sys.argv[1] + "/large", folder / "large", Limits(2**30, reserve=0))
    print(status("VmHWM") - before)

asyncio.run(main())
"""


async def test_a_large_download_takes_little_memory(tmp_path: Path) -> None:
    async def zeros(request: Request, writer: asyncio.StreamWriter) -> None:
        pieces = 1 if request.path == "/small" else 200
        await say(writer, 200, {"Content-Length": pieces * MIB, "ETag": '"z"'})
        for _ in range(pieces):
            writer.write(bytes(MIB))
            await writer.drain()

    async with serving(zeros) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _MEASURED, server.url(""), tmp_path), cwd=REPOSITORY, stdout=subprocess.PIPE
        )
        said, _ = await process.communicate()
    assert process.returncode == 0
    assert (tmp_path / "large").stat().st_size == 200 * MIB
    (tmp_path / "large").unlink()
    assert int(said) < 20 * KIB, "KiB more than before"
