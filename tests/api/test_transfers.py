"""Archives on their way: parts of them, broken ones, slow clients and those that go away."""

import asyncio
import contextlib
import io
import json
import os
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import validate

from homed.access.scopes import Scope
from homed.api import homei, openapi, transfers
from homed.api.homei import backups as backup_routes
from homed.api.routes import Call, Route
from homed.api.transfers import RangeError, holds, span
from homed.backups.worker.messages import Unlock
from tests.support.backup_api import PATH, Place, serve_backups
from tests.support.fake_backups import FULL, SEALED, SNAPSHOT, FakeBackups
from tests.support.front import Server, raw, serve

NEW = "new-20240115-100000.tar.gz"
DATA = bytes(range(256)) * 4


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with serve_backups(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("bytes=0-99", (0, 100)), ("bytes=100-", (100, 1024)), ("bytes=-24", (1000, 1024)), ("bytes=0-", (0, 1024)),
        ("bytes=0-0", (0, 1)), ("bytes=1023-5000", (1023, 1024)), ("bytes=-5000", (0, 1024)), ("BYTES=1-2", (1, 3)),
        # What is no single range of bytes is passed over, as the standard has it.
        ("", None), ("bytes=-", None), ("bytes=5-4", None), ("bytes=0-1,5-6", None), ("lines=0-1", None),
        ("bytes=a-b", None), ("bytes=0", None), ("bytes= 0-1", None), ("bytes=²-3", None),
        ("bytes=" + "9" * 5000 + "-", None),
    ],
)  # fmt: skip
def test_a_range_is_read(wanted: str, found: tuple[int, int] | None) -> None:
    assert span(wanted, 1024) == found


@pytest.mark.parametrize(
    ("wanted", "size"), [("bytes=1024-", 1024), ("bytes=-0", 9), ("bytes=0-", 0), ("bytes=9-9", 9)]
)
def test_a_range_of_nothing_is_refused(wanted: str, size: int) -> None:
    with pytest.raises(RangeError):
        span(wanted, size)


@given(st.text("bytes=-0123456789,", max_size=20), st.integers(0, 2000))
def test_a_range_lies_in_the_file(wanted: str, size: int) -> None:
    try:
        found = span(wanted, size)
    except RangeError:
        return
    assert found is None or 0 <= found.start < found.end <= size


def test_a_part_is_sent_of_the_same_file_only() -> None:
    at = datetime(2024, 1, 15, 10, 0, tzinfo=UTC)
    assert holds('"a-1"', '"a-1"', at)
    assert holds("Mon, 15 Jan 2024 10:00:00 GMT", '"a-1"', at)
    for other in ('"a-2"', 'W/"a-1"', "Mon, 15 Jan 2024 10:00:01 GMT", "yesterday", ""):
        assert not holds(other, '"a-1"', at)


async def _get(place: Place, name: str = FULL, **headers: str) -> tuple[aiohttp.ClientResponse, bytes]:
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    async with place.server.request("GET", f"{PATH}/{name}/download", headers=sent) as answer:
        return answer, await answer.read()


async def test_an_archive_is_downloaded(place: Place) -> None:
    place.backups.archive(DATA)
    answer, data = await _get(place)
    assert (answer.status, data, answer.content_length) == (200, DATA, len(DATA))
    assert answer.content_type == "application/gzip"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{FULL}"'
    assert answer.headers["Accept-Ranges"] == "bytes" and answer.headers["ETag"].startswith('"')
    assert "Content-Encoding" not in answer.headers
    place.backups.archive(b"", SEALED)
    answer, data = await _get(place, SEALED)
    assert (answer.status, data, answer.content_type) == (200, b"", "application/x-tar")
    while len(await place.audited()) < 2:
        await asyncio.sleep(0.01)
    assert await place.audited() == [("backup.download", 200)] * 2


async def test_a_broken_download_is_gone_on_with(place: Place) -> None:
    place.backups.archive(DATA)
    first, begin = await _get(place, Range="bytes=0-499")
    etag = first.headers["ETag"]
    assert (first.status, first.headers["Content-Range"]) == (206, f"bytes 0-499/{len(DATA)}")
    rest, end = await _get(place, Range="bytes=500-", If_Range=etag)
    assert (rest.status, rest.content_length) == (206, len(DATA) - 500)
    assert begin + end == DATA
    dated, end = await _get(place, Range="bytes=500-", If_Range=first.headers["Last-Modified"])
    assert (dated.status, begin + end) == (206, DATA)


async def test_another_archive_of_the_same_name_is_sent_from_its_start(place: Place) -> None:
    path = place.backups.archive(DATA)
    answer, _ = await _get(place, Range="bytes=0-499")
    path.unlink()
    os.utime(place.backups.archive(DATA[::-1]), (1, 1))
    for condition in (answer.headers["ETag"], answer.headers["Last-Modified"]):
        again, data = await _get(place, Range="bytes=500-", If_Range=condition)
        assert (again.status, data) == (200, DATA[::-1])


async def test_a_part_that_is_not_there_is_refused_with_the_size(place: Place) -> None:
    place.backups.archive(DATA)
    answer, _ = await _get(place, Range="bytes=2000-")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(DATA)}"
    answer, data = await _get(place, Range="bytes=0-1,5-6")
    assert (answer.status, data) == (200, DATA)


async def test_what_a_client_has_is_not_sent_again(place: Place) -> None:
    place.backups.archive(DATA)
    etag = (await _get(place))[0].headers["ETag"]
    for known in (etag, f'W/{etag}, "x"', "*"):
        answer, data = await _get(place, If_None_Match=known)
        assert (answer.status, data, answer.headers["ETag"]) == (304, b"", etag)
    assert (await _get(place, If_None_Match='"x"'))[1] == DATA


async def test_a_snapshot_and_what_is_not_there_are_not_downloaded(place: Place) -> None:
    assert await place.refused("GET", f"/{SNAPSHOT}/download") == (409, "BACKUP_NO_ARCHIVE")
    assert (await place.call("GET", f"/{FULL}/download"))[0] == 404, "its archive is gone"
    (place.backups.folder / FULL).symlink_to("/etc/passwd")
    assert (await place.call("GET", f"/{FULL}/download"))[0] == 404
    (place.backups.folder / SEALED).mkdir()
    assert (await place.call("GET", f"/{SEALED}/download"))[0] == 404


async def test_a_download_goes_on_while_its_backup_is_deleted(place: Place) -> None:
    data = os.urandom(1 << 20) * 24
    path = place.backups.archive(data)
    async with place.server.request("GET", f"{PATH}/{FULL}/download") as answer:
        begin = await answer.content.readexactly(1000)
        path.unlink()
        assert begin + await answer.read() == data


def _open_archives(place: Place) -> int:
    folder = Path("/proc/self/fd")
    return sum(
        os.path.realpath(folder / one).startswith(str(place.backups.folder / FULL)) for one in os.listdir(folder)
    )


async def test_a_client_that_goes_away_leaves_nothing_open_and_is_accounted_for(place: Place) -> None:
    place.backups.archive(os.urandom(1 << 20) * 24)
    async with place.server.request("GET", f"{PATH}/{FULL}/download") as answer:
        await answer.content.readexactly(1000)
        assert _open_archives(place) == 1
        answer.close()
    while not await place.audited():
        await asyncio.sleep(0.01)
    assert await place.audited() == [("backup.download", 200)]
    assert _open_archives(place) == 0


async def test_a_download_ends_where_homed_stops(place: Place) -> None:
    place.backups.archive(os.urandom(1 << 20) * 24)
    async with place.server.request("GET", f"{PATH}/{FULL}/download") as answer:
        await answer.content.readexactly(1000)
        place.stopping.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    while _open_archives(place):
        await asyncio.sleep(0.01)


async def test_the_time_that_a_download_takes_is_not_that_of_an_answer(place: Place) -> None:
    place.backups.archive(DATA)
    await _get(place)
    await place.call("GET", f"/{FULL}")
    lines = place.server.metrics.render().decode().splitlines()
    counted = {line for line in lines if "http_request_duration_seconds_count" in line}
    assert [line for line in counted if f'{PATH}/{{backup_name}}"' in line and line.endswith(" 1.0")]
    assert not [line for line in counted if "download" in line and not line.endswith(" 0.0")]


async def _nothing(folder: Path) -> AsyncIterator[Server]:
    """A server with impatient routes, which send and take a file."""

    async def get(call: Call) -> web.StreamResponse:
        return await transfers.send(call.request, folder / "file", "application/x-tar", idle=0.2)

    async def put(call: Call) -> list[int]:
        return [len(piece) async for piece in transfers.received(call.request, 1 << 20, idle=0.2)]

    routes = [
        Route("GET", "/file", get, "Get", "Things", "system", streams=("application/x-tar",)),
        Route("PUT", "/file", put, "Put", "Things", "system", scope=Scope.ADMIN, change="put", uploads=("*/*",)),
    ]
    async with serve(folder, routes=lambda _: routes) as server:
        yield server


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Server]:
    async for server in _nothing(tmp_path):
        yield server


async def test_who_does_not_read_is_dropped(impatient: Server, tmp_path: Path) -> None:
    size = 64 << 20
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port, limit=1024)
    writer.write(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    await asyncio.sleep(1)
    got = 0
    try:
        while data := await reader.read(1 << 20):
            got += len(data)
    except ConnectionError:
        pass
    writer.close()
    assert got < size


async def test_who_sends_nothing_for_long_is_refused(impatient: Server) -> None:
    answer = await _answer(impatient.port, b"PUT /file HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 400") and b"nothing of the body came" in answer


async def _sent(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 4096):
        yield b"x" * 4096


async def test_an_archive_is_uploaded(place: Place) -> None:
    status, body = await place.call("PUT", f"/{NEW}", data=DATA)
    assert status == 201
    assert (body["name"], body["size"], body["uploaded"]) == (NEW, len(DATA), True)
    assert (place.backups.folder / NEW).read_bytes() == DATA
    assert await place.audited() == [("backup.upload", 201)]
    assert await place.refused("PUT", f"/{NEW}", data=DATA) == (409, "BACKUP_EXISTS")


async def test_an_archive_of_unknown_length_is_uploaded(place: Place) -> None:
    status, body = await place.call("PUT", f"/{NEW}", data=_sent(1 << 20))
    assert (status, body["size"]) == (201, 1 << 20)


@pytest.mark.parametrize(
    ("headers", "unlock"),
    [
        ({}, None),
        ({"X-Backup-Passphrase": "100%25%20p%C3%A4ss"}, Unlock("100% päss", None)),
        ({"X-Backup-Identity": "AGE-SECRET-KEY-1X"}, Unlock(None, "AGE-SECRET-KEY-1X")),
    ],
)
async def test_what_opens_an_uploaded_archive_comes_beside_it(
    place: Place, headers: dict[str, str], unlock: Unlock | None
) -> None:
    await place.call("PUT", "/new-20240115-100000.age.tar", data=DATA, headers=headers)
    assert place.backups.asked == [unlock]


async def test_a_snapshot_is_not_uploaded(place: Place) -> None:
    assert await place.refused("PUT", "/new-20240115-100000", data=DATA) == (400, "VALIDATION_ERROR")
    assert place.backups.asked == []


async def _answer(port: int, data: bytes) -> bytes:
    """The first answer to bytes as they are; nobody waits for the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = re.findall(rb"Content-Length: (\d+)", head)
        return head + await reader.readexactly(int(length))
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def _head(name: str, size: int, *more: str) -> bytes:
    lines = [f"PUT {PATH}/{name} HTTP/1.1", "Host: localhost", f"Content-Length: {size}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


async def test_a_body_is_asked_for_once_it_is_known_to_be_taken(place: Place) -> None:
    expect = "Expect: 100-continue"
    for name, size, status in ((FULL, 10, b"409"), (NEW, 5 << 20, b"413"), ("nothing", 10, b"404")):
        answer = await _answer(place.server.port, _head(name, size, expect))
        assert answer.startswith(b"HTTP/1.1 " + status), answer
        assert b"100 Continue" not in answer
        assert b"\r\nConnection: close\r\n" in answer, "the next request would be taken for the body"
    reader, writer = await asyncio.open_connection("127.0.0.1", place.server.port)
    writer.write(_head(NEW, len(DATA), expect))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(DATA)
    assert (await reader.readline()).startswith(b"HTTP/1.1 201")
    writer.close()


async def test_an_archive_past_the_bound_leaves_nothing(place: Place) -> None:
    before = set(place.backups.folder.iterdir())
    place.max_upload = 1 << 20
    assert await place.refused("PUT", f"/{NEW}", data=io.BytesIO(b"x" * (2 << 20))) == (413, "PAYLOAD_TOO_LARGE")
    assert await place.refused("PUT", f"/{NEW}", data=_sent(2 << 20)) == (413, "PAYLOAD_TOO_LARGE")
    assert set(place.backups.folder.iterdir()) == before
    assert NEW not in place.backups.backups


async def test_a_client_that_goes_away_while_it_sends_leaves_nothing(place: Place) -> None:
    before = set(place.backups.folder.iterdir())
    _, writer = await asyncio.open_connection("127.0.0.1", place.server.port)
    writer.write(_head(NEW, 1 << 20) + b"x" * 100_000)
    while not place.backups.operations.all():
        await asyncio.sleep(0.01)
    writer.transport.abort()
    while not await place.audited():
        await asyncio.sleep(0.01)
    assert await place.audited() == [("backup.upload", 400)]
    assert set(place.backups.folder.iterdir()) == before
    assert NEW not in place.backups.backups


async def test_an_upload_ends_where_homed_stops(place: Place) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.server.port)
    writer.write(_head(NEW, 1 << 20) + b"x" * 100_000)
    while not place.backups.waited:
        await asyncio.sleep(0.01)
    place.stopping.set()
    assert (await reader.readline()).startswith(b"HTTP/1.1 503")
    writer.close()


async def test_an_upload_comes_as_fast_as_it_is_taken(place: Place) -> None:
    size = 48 << 20
    place.max_upload = size
    place.backups.go_on.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", place.server.port)
    writer.write(_head(NEW, size))

    async def send() -> None:
        for _ in range(48):
            writer.write(b"x" * (1 << 20))
            await writer.drain()

    sending = asyncio.create_task(send())
    done, _ = await asyncio.wait({sending}, timeout=1)
    assert not done, "all of it was taken though nobody wanted it"
    place.backups.go_on.set()
    assert (await reader.readline()).startswith(b"HTTP/1.1 201")
    await sending
    assert (place.backups.folder / NEW).stat().st_size == size
    writer.close()


async def test_what_is_left_of_a_refused_body_is_no_request(place: Place) -> None:
    """A body that holds a request: its connection ends before anybody reads it as one."""
    inner = b"DELETE /api/v1/backups/" + FULL.encode() + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = await raw(place.server.port, _head(FULL, len(inner), "Connection: close") + inner)
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.startswith(b"HTTP/1.1 409")
    assert FULL in place.backups.backups


def test_the_specification_says_what_is_sent_and_taken(tmp_path: Path) -> None:
    routes = backup_routes.routes(FakeBackups(tmp_path), lambda: 0, asyncio.Event())
    document = json.loads(msgspec.json.encode(openapi.document([(homei.FAMILY, routes)], "1")))
    validate(document)
    one = document["paths"][f"{PATH}/{{backup_name}}"]
    assert one["put"]["requestBody"]["content"].keys() == {
        "application/gzip", "application/x-tar", "application/octet-stream",
    }  # fmt: skip
    sent = document["paths"][f"{PATH}/{{backup_name}}/download"]["get"]["responses"]
    assert sent["200"]["content"].keys() == sent["206"]["content"].keys() == {"application/gzip", "application/x-tar"}
    assert document["paths"][PATH]["post"]["requestBody"]["required"] is False
    assert document["paths"][f"{PATH}/{{backup_name}}/copy"]["post"]["requestBody"]["required"] is True
