"""A database that is missing, damaged, unreadable or read-only is told from a new one, and what it holds is read."""

import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from homed.errors import StateUnavailableError, StoreError
from homed.store import opening
from homed.store.sqlite import SqliteStore
from homed.store.standing import Standing
from tests.support.filesystems import bound, in_memory

RECORDS = {"services": 12, "keys": 3, "jobs": 150}


async def fill(path: Path) -> dict[tuple[str, str], bytes]:
    """A store with records of several buckets; what it holds."""
    held = {(b, f"{b}{i:03}"): f'{{"{b}": "{"x" * 700}{i}"}}'.encode() for b, n in RECORDS.items() for i in range(n)}
    store = SqliteStore(path)
    await store.open()
    for name in RECORDS:
        await store.put_all(name, [(key, value, 0) for (bucket, key), value in held.items() if bucket == name])
    await store.close()
    return held


async def content(store: SqliteStore) -> dict[tuple[str, str], bytes]:
    return {(bucket, r.key): r.value for bucket in RECORDS for r in await store.list(bucket)}


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open_somehow()
    try:
        yield store
    finally:
        await store.close()


@contextmanager
def read_only(folder: Path, at: Path) -> Iterator[Path]:
    """The folder at another place, where nothing can be written until it is mounted anew."""
    at.mkdir()
    with bound(folder, at):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(at)], check=True)
        yield at


def make_writable(at: Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw,bind", str(at)], check=True)


async def test_the_first_commit_leaves_a_marker_and_a_first_start_needs_none(tmp_path: Path) -> None:
    async with opened(tmp_path / "new" / "homed.db") as store:
        assert store.standing is Standing.WHOLE and not store.message
        await store.put("b", "k", b"v", 0)
    assert opening.marker(tmp_path / "new" / "homed.db").exists()
    opening.marker(tmp_path / "new" / "homed.db").unlink()  # as a homed that knew of none has left it
    async with opened(tmp_path / "new" / "homed.db") as store:
        assert store.standing is Standing.WHOLE
    assert opening.marker(tmp_path / "new" / "homed.db").exists()


@pytest.mark.parametrize("left", ["nothing", "no bytes", "the log"])
async def test_a_database_that_was_lost_is_no_new_one(tmp_path: Path, left: str) -> None:
    path = tmp_path / "homed.db"
    await fill(path)
    path.unlink()
    if left != "nothing":
        path.touch()
    if left == "the log":
        (tmp_path / "homed.db-wal").write_bytes(b"x" * 5000)
    before = sorted(one.name for one in tmp_path.iterdir())
    with pytest.raises(StoreError) as raised:
        await SqliteStore(path).open()
    assert raised.value.code == "STATE_MISSING" and "homed state reset" in raised.value.message
    async with opened(path) as store:
        assert store.standing is Standing.MISSING and store.is_stand_in and str(path) in store.message
        assert await content(store) == {}
    assert sorted(one.name for one in tmp_path.iterdir()) == before, "nothing was touched"


@pytest.mark.parametrize("state", [Standing.MISSING, Standing.DAMAGED])
async def test_what_is_put_in_a_lost_ones_place_is_the_boards_once_it_starts_anew(
    tmp_path: Path, state: Standing
) -> None:
    path = tmp_path / "homed.db"
    await fill(path)
    if state is Standing.MISSING:
        path.unlink()
    else:
        path.write_bytes(os.urandom(1 << 16))
    async with opened(path) as store:
        assert store.standing is state
        revision = await store.put("services", "web", b"restored", 0)
        assert not path.exists() or state is Standing.DAMAGED
        await store.start_anew()
        assert store.standing is Standing.WHOLE
        assert await store.put("services", "web", b"changed", revision) > revision
    async with opened(path) as store:
        assert store.standing is Standing.WHOLE
        assert await content(store) == {("services", "web"): b"changed"}
        assert bool(store.message) == (state is Standing.DAMAGED), "what was damaged is kept, and told of"


async def test_where_it_cannot_start_anew_all_is_as_before(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    await fill(folder / "homed.db")
    (folder / "homed.db").unlink()
    with read_only(folder, tmp_path / "ro") as at:
        async with opened(at / "homed.db") as store:
            await store.put("services", "web", b"restored", 0)
            with pytest.raises(StoreError):
                await store.start_anew()
            assert store.standing is Standing.MISSING and await store.get("services", "web") is not None
    assert opening.is_missing(folder / "homed.db")


async def test_a_lost_one_that_is_put_back_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "homed.db"
    held = await fill(path)
    path.rename(tmp_path / "elsewhere")
    async with opened(path) as store:
        assert not await store.recover()
        (tmp_path / "elsewhere").rename(path)
        assert await store.recover()
        assert store.standing is Standing.WHOLE and await content(store) == held


@pytest.mark.parametrize("left", ["log and index", "log", "neither"])
async def test_on_a_read_only_filesystem_all_that_was_committed_is_read(tmp_path: Path, left: str) -> None:
    folder, killed = tmp_path / "state", tmp_path / "killed"
    held = await fill(folder / "homed.db")
    if left != "neither":
        store = SqliteStore(folder / "homed.db")
        await store.open()
        await store.put("keys", "late", b"only in the log", 0)
        held["keys", "late"] = b"only in the log"
        shutil.copytree(folder, killed)  # as a kill leaves it
        await store.close()
        if left == "log":
            (killed / "homed.db-shm").unlink()
        folder = killed
    with read_only(folder, tmp_path / "ro") as at:
        async with opened(at / "homed.db") as store:
            assert store.standing is Standing.READ_ONLY and store.message
            assert await content(store) == held
            with pytest.raises(StateUnavailableError):
                await store.put("keys", "more", b"", 0)
            assert not await store.recover()
            make_writable(at)
            assert await store.recover() and not store.message
            await store.put("keys", "more", b"", 0)
            assert await content(store) == {**held, ("keys", "more"): b""}


async def test_a_disk_that_is_full_at_the_start_is_read(tmp_path: Path) -> None:
    held = await fill(tmp_path / "state" / "homed.db")
    with in_memory(tmp_path / "disk", 1) as disk:
        shutil.copytree(tmp_path / "state", disk, dirs_exist_ok=True)
        with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while filler.write(bytes(4096)):
                pass
        async with opened(disk / "homed.db") as store:
            assert await content(store) == held
            with pytest.raises(StoreError):
                await store.put("keys", "more", bytes(100_000), 0)
            (disk / "filler").unlink()
            await store.recover()
            await store.put("keys", "more", b"", 0)


async def test_a_folder_in_the_databases_place_is_told_of_and_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "homed.db"
    held = await fill(path)
    path.rename(tmp_path / "kept")
    path.mkdir()
    async with opened(path) as store:
        assert store.standing is Standing.UNREADABLE and await content(store) == {}
        assert not await store.recover()
        path.rmdir()
        (tmp_path / "kept").rename(path)
        assert await store.recover() and await content(store) == held


async def test_a_damaged_page_takes_its_own_records_alone(tmp_path: Path) -> None:
    path = tmp_path / "homed.db"
    held = await fill(path)
    whole = path.read_bytes()
    pages = len(whole) // 4096
    for number in range(3, pages, 7):
        for one in tmp_path.iterdir():
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        data = bytearray(whole)
        data[number * 4096 : number * 4096 + 64] = bytes(64)
        path.write_bytes(data)
        async with opened(path) as store:
            found = await content(store)
            assert store.standing is Standing.WHOLE
            if store.message:  # not a free page
                (aside,) = tmp_path.glob("homed.db.damaged-*")
                assert (aside / "homed.db").read_bytes() == data, "the damaged one is kept as it was"
                assert str(aside) in store.message
        assert found.keys() <= held.keys()
        assert len(found.items() & held.items()) >= len(held) - 12, f"page {number} of {pages}"
        async with opened(path) as store:
            assert await content(store) == found
            assert await store.put("keys", "new", b"", 0) > max(len(held), 0)


@pytest.mark.parametrize("at", [0, 7, 16, 18, 19, 21, 45, 59, 60, 61, 62])
async def test_a_flipped_bit_in_the_header_costs_no_record(tmp_path: Path, at: int) -> None:
    path = tmp_path / "homed.db"
    held = await fill(path)
    data = bytearray(path.read_bytes())
    data[at] ^= 0x20
    path.write_bytes(data)
    async with opened(path) as store:
        assert store.standing is Standing.WHOLE
        assert await content(store) == held


async def test_a_version_that_was_wiped_out_costs_no_record(tmp_path: Path) -> None:
    path = tmp_path / "homed.db"
    held = await fill(path)
    data = bytearray(path.read_bytes())
    data[60:64] = bytes(4)
    path.write_bytes(data)
    async with opened(path) as store:
        assert await content(store) == held


async def test_no_flipped_bit_keeps_it_from_opening(tmp_path: Path) -> None:
    chance = random.Random(11)
    path = tmp_path / "homed.db"
    held = await fill(path)
    whole = path.read_bytes()
    for _ in range(60):
        for one in tmp_path.iterdir():
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        data = bytearray(whole)
        # The first pages are the schema and the roots: there a bit weighs most.
        at = chance.randrange(100, 3 * 4096) if chance.random() < 0.5 else chance.randrange(100, len(data))
        data[at] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        opening.marker(path).touch()
        async with opened(path) as store:
            for record in [r for b in RECORDS for r in await store.list(b)]:
                assert isinstance(record.value, bytes) and isinstance(record.key, str)
            await store.entries(10, None)
            found = await content(store)
            if store.standing is Standing.WHOLE:
                assert len(found.items() & held.items()) >= len(held) // 2, f"bit in byte {at}"
            else:
                assert store.standing is Standing.DAMAGED


@pytest.mark.parametrize("cut", [1, 100, 4096, 4096 * 5 + 77])
async def test_a_database_that_was_cut_short_is_read_as_far_as_it_goes(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "homed.db"
    held = await fill(path)
    path.write_bytes(path.read_bytes()[:-cut] if cut > 100 else path.read_bytes()[:cut])
    async with opened(path) as store:
        found = await content(store)
        assert found.keys() <= held.keys() and len(found.items() - held.items()) <= 1
        assert store.standing is (Standing.WHOLE if cut > 100 else Standing.MISSING)
        assert store.message


async def test_a_salvage_that_a_power_cut_ends_goes_on_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "homed.db"
    held = await fill(path)
    (tmp_path / "homed.db-wal").write_bytes(b"of the damaged one")
    path.rename(tmp_path / "homed.db.salvaged")
    async with opened(path) as store:
        assert store.standing is Standing.WHOLE and await content(store) == held


async def test_a_damaged_database_on_a_read_only_filesystem_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    held = await fill(folder / "homed.db")
    data = bytearray((folder / "homed.db").read_bytes())
    data[10 * 4096 : 10 * 4096 + 64] = bytes(64)
    (folder / "homed.db").write_bytes(data)
    with read_only(folder, tmp_path / "ro") as at:
        async with opened(at / "homed.db") as store:
            assert store.standing is Standing.READ_ONLY and "damaged" in store.message
            assert len(await content(store)) >= len(held) - 12


async def test_a_key_or_value_that_is_no_longer_text_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "homed.db"
    await fill(path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE records SET key = CAST(x'ff00' AS TEXT) WHERE key = 'services003'")
        database.execute("UPDATE records SET value = 17 WHERE key = 'services004'")
        database.execute("UPDATE records SET value = 'text' WHERE key = 'services005'")
        database.execute(
            "INSERT INTO audit (at, actor, action, target, origin, status, code, request_id)"
            " VALUES (x'ff', CAST(x'ff' AS TEXT), 'a', 't', 'o', 'x', '', '')"
        )
    database.close()
    async with opened(path) as store:
        values = {record.key: record.value for record in await store.list("services")}
        assert len(values) == 12 and (values["services004"], values["services005"]) == (b"17", b"text")
        (entry,) = await store.entries(10, None)
        assert (entry.action, entry.at.year, entry.status) == ("a", 1970, 0)
