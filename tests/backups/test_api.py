"""The API over the real backups: made by a worker, fetched, deleted, brought again and put back."""

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from homed.api.homei import backups as backup_routes
from homed.config.backups import Backups as Config
from tests.backups.archive.age_program import new_key
from tests.support.backup_api import PATH
from tests.support.backup_board import BackupBoard
from tests.support.front import Server, serve


class Place(NamedTuple):
    server: Server
    board: BackupBoard
    data: Path
    stopping: asyncio.Event

    async def call(self, method: str, path: str = "", **more: Any) -> tuple[int, Any]:
        async with self.server.request(method, f"{PATH}{path}", **more) as answer:
            return answer.status, await answer.json()

    async def fetched(self, name: str, **headers: str) -> bytes:
        async with self.server.request("GET", f"{PATH}/{name}/download", headers=headers) as answer:
            assert answer.status in (200, 206)
            return bytes(await answer.read())

    def left(self) -> list[str]:
        """What lies in the folder of the backups."""
        return sorted(path.name for path in self.board.folder.iterdir())


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    data = tmp_path / "data" / "web"
    data.mkdir(parents=True)
    (data / "page").write_text("hello")
    board = BackupBoard(tmp_path / "board", Config(max_upload=8 << 20))
    board.services.add("web", data)
    board.settings.file.write_text('name = "one"\n')
    stopping = asyncio.Event()
    (tmp_path / "front").mkdir()
    async with board:
        routes = backup_routes.routes(board.backups, lambda: board.config.max_upload, stopping)
        async with serve(tmp_path / "front", routes=lambda _: routes) as server:
            yield Place(server, board, data, stopping)


async def _made(place: Place) -> str:
    status, body = await place.call("POST", json={"name": "manual-backup", "type": "full", "include_data": True})
    assert (status, body["status"], body["message"]) == (201, "created", "Backup created successfully"), body
    return str(body["name"])


async def test_a_backup_goes_its_way_over_the_api(place: Place) -> None:
    name = await _made(place)
    _, listed = await place.call("GET")
    (one,) = listed["backups"]
    assert (one["name"], one["type"], one["services"]) == (name, "full", ["web"])
    assert one["size"] == (place.board.folder / name).stat().st_size

    archive = await place.fetched(name)
    assert len(archive) == one["size"]
    assert await place.fetched(name, Range="bytes=100-") == archive[100:]

    status, body = await place.call("POST", f"/{name}/verify")
    assert (status, body["status"]) == (200, "verified")
    assert (await place.call("GET", f"/{name}"))[1]["verified_at"] is not None

    assert await place.call("DELETE", f"/{name}") == (
        200, {"status": "deleted", "message": "Backup deleted successfully"},
    )  # fmt: skip
    assert place.left() == []

    status, body = await place.call("PUT", f"/{name}", data=archive)
    assert (status, body["name"], body["uploaded"], body["size"]) == (201, name, True, len(archive))
    assert (place.board.folder / name).read_bytes() == archive

    (place.data / "page").write_text("changed")
    status, body = await place.call("POST", f"/{name}/restore", json={"dry_run": True})
    assert (status, body["status"]) == (200, "planned"), body
    assert [one["name"] for one in body["plan"]["volumes"]] == [str(place.data)]
    assert (place.data / "page").read_text() == "changed"
    status, body = await place.call("POST", f"/{name}/restore")
    assert (status, body["status"], body["message"]) == (200, "restored", "Backup restored successfully"), body
    assert (place.data / "page").read_text() == "hello"

    _, body = await place.call("GET", "/operations")
    kinds = [one["kind"] for one in body["operations"]]
    assert kinds == ["restore", "restore", "receive", "delete", "verify", "create"]


async def test_a_backup_that_is_not_waited_for_has_its_name_at_once(place: Place) -> None:
    status, body = await place.call("POST", "?wait=false", json={"name": "later"})
    assert (status, body["status"]) == (202, "creating")
    await place.board.backups.wait(body["operation_id"])
    _, operation = await place.call("GET", f"/operations/{body['operation_id']}")
    assert (operation["state"], operation["backup"]) == ("succeeded", body["name"])
    assert (await place.call("GET", f"/{body['name']}"))[0] == 200


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "BACKUP_FORMAT"),
        (b"this is no archive" * 1000, "BACKUP_DAMAGED"),
        (b"x" * (9 << 20), "PAYLOAD_TOO_LARGE"),
    ],
)
async def test_what_is_no_archive_is_not_taken(place: Place, data: bytes, code: str) -> None:
    async def sent() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 4096):
            yield data[start : start + 4096]

    _, body = await place.call("PUT", "/new-20240115-100000.tar.gz", data=sent())
    assert body["error"]["code"] == code
    assert place.left() == []
    assert (await place.call("GET"))[1] == {"backups": []}


async def test_an_archive_with_a_flipped_bit_is_not_taken(place: Place) -> None:
    archive = bytearray(await place.fetched(await _made(place)))
    archive[len(archive) // 2] ^= 1
    before = place.left()
    status, body = await place.call("PUT", "/new-20240115-100000.tar.gz", data=bytes(archive))
    assert (status, body["error"]["code"]) == (422, "BACKUP_DAMAGED")
    assert place.left() == before


async def test_a_client_that_goes_away_while_it_sends_leaves_nothing(place: Place) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", place.server.port)
    head = f"PUT {PATH}/new-20240115-100000.tar.gz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    writer.write(head.encode() + b"x" * 100_000)
    while not place.left():
        await asyncio.sleep(0.01)
    writer.transport.abort()
    while place.left():
        await asyncio.sleep(0.01)
    assert (await place.call("GET"))[1] == {"backups": []}


async def test_an_upload_ends_where_homed_stops_and_leaves_nothing(place: Place) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.server.port)
    head = f"PUT {PATH}/new-20240115-100000.tar.gz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    writer.write(head.encode() + b"x" * 100_000)
    while not place.left():
        await asyncio.sleep(0.01)
    place.stopping.set()
    assert (await reader.readline()).startswith(b"HTTP/1.1 503")
    writer.close()
    assert place.left() == []


async def test_the_same_archive_comes_whole_in_parts(place: Place) -> None:
    name = await _made(place)
    size = (place.board.folder / name).stat().st_size
    step = size // 5 + 1
    parts = [await place.fetched(name, Range=f"bytes={at}-{at + step - 1}") for at in range(0, size, step)]
    whole = hashlib.sha256((place.board.folder / name).read_bytes()).hexdigest()
    assert hashlib.sha256(b"".join(parts)).hexdigest() == whole


async def test_a_sealed_archive_is_taken_unopened_or_with_what_opens_it(place: Place) -> None:
    recipient, text = new_key()
    identity = next(line for line in text.splitlines() if line.startswith("AGE-SECRET-KEY-"))
    other = next(line for line in new_key()[1].splitlines() if line.startswith("AGE-SECRET-KEY-"))
    place.board.config = Config(encryption="recipients", recipients=(recipient,))
    name = await _made(place)
    assert name.endswith(".age.tar")
    archive = await place.fetched(name)
    assert (await place.call("DELETE", f"/{name}"))[0] == 200

    status, body = await place.call("PUT", f"/{name}", data=archive, headers={"X-Backup-Identity": other})
    assert (status, body["error"]["code"]) == (422, "BACKUP_KEY_WRONG")
    assert place.left() == []
    status, body = await place.call("PUT", f"/{name}", data=archive)
    assert (status, body["encrypted"], body["verified_at"]) == (201, True, None)
    status, body = await place.call("POST", f"/{name}/restore")
    assert (status, body["error"]["code"]) == (422, "BACKUP_KEY_MISSING")
    assert (await place.call("DELETE", f"/{name}"))[0] == 200
    status, body = await place.call("PUT", f"/{name}", data=archive, headers={"X-Backup-Identity": identity})
    assert (status, body["services"]) == (201, ["web"])
    assert body["verified_at"] is not None


async def test_what_opens_an_archive_is_on_no_disk_and_in_no_log_or_event(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[str] = []
    place.board.events.listen(lambda event: events.append(repr(event)))
    recipient, text = new_key()
    identity = next(line for line in text.splitlines() if line.startswith("AGE-SECRET-KEY-"))
    place.board.config = Config(encryption="recipients", recipients=(recipient,))
    name = await _made(place)
    seen: set[str] = set()
    for act in ("verify", "restore"):
        doing = asyncio.create_task(place.call("POST", f"/{name}/{act}", json={"identity": identity}))
        while not doing.done():
            seen |= await asyncio.to_thread(_holding, identity.encode(), tmp_path)
            await asyncio.sleep(0.01)
        assert (await doing)[0] == 200, await doing
    seen |= _holding(identity.encode(), tmp_path)
    assert seen == set()
    assert len(events) > 4
    assert not [text for text in events if identity in text]
    assert not [record for record in caplog.records if identity in repr(record.__dict__)]


def _holding(secret: bytes, folder: Path) -> set[str]:
    """The files in a folder that hold it, and the processes that show it."""
    found = set()
    files = [Path(above, name) for above, _, names in os.walk(folder) for name in names]  # though folders go meanwhile
    for path in [*files, *Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")]:
        with contextlib.suppress(OSError):
            if path.is_file() and secret in path.read_bytes():
                found.add(str(path))
    return found
