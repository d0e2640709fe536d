"""The embedded engine: compare-and-set, durability, and an error rather than a surprise."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed.errors import StoreError
from homed.store import base, migrations, sqlite
from homed.store.base import AuditEntry, Change, RevisionError
from homed.store.sqlite import SqliteStore

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "homed.db")
    await made.open()
    yield made
    await made.close()


def entry(action: str = "a", **given: object) -> AuditEntry:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return AuditEntry(0, moment, "key:me", action, "/x", "127.0.0.1", 200, "", "r1")._replace(**given)  # type: ignore[arg-type]


async def test_what_is_put_can_be_got(store: SqliteStore) -> None:
    revision = await store.put("b", "k", b"\x00v", 0)
    assert await store.get("b", "k") == ("k", b"\x00v", revision)
    assert await store.get("b", "other") is None
    assert await store.get("other", "k") is None


async def test_a_write_at_an_old_revision_loses_and_changes_nothing(store: SqliteStore) -> None:
    first = await store.put("b", "k", b"1", 0)
    second = await store.put("b", "k", b"2", first)
    for wrong in (0, first, second + 1):
        with pytest.raises(RevisionError):
            await store.put("b", "k", b"3", wrong)
        with pytest.raises(RevisionError):
            await store.delete("b", "k", wrong)
    assert await store.get("b", "k") == ("k", b"2", second)
    with pytest.raises(RevisionError):
        await store.put("b", "new", b"1", second)
    assert await store.put("b", "k", b"4", None) > second


async def test_a_revision_is_never_used_again(store: SqliteStore, tmp_path: Path) -> None:
    seen = [await store.put("b", "k", b"1", 0)]
    assert await store.delete("b", "k", seen[0])
    seen.append(await store.put("b", "k", b"2", 0))
    assert not await store.delete("b", "none", None)
    seen.append(await store.put("c", "k", b"2", None))
    await store.close()
    again = SqliteStore(tmp_path / "homed.db")
    await again.open()
    await again.delete("b", "k", None)
    seen.append(await again.put("b", "k", b"3", 0))
    await again.close()
    assert seen == sorted(set(seen))


async def test_a_list_is_one_buckets_in_the_order_of_keys(store: SqliteStore) -> None:
    for key in ("b", "a", "c"):
        await store.put("one", key, key.encode(), 0)
    await store.put("two", "z", b"", 0)
    assert [(r.key, r.value) for r in await store.list("one")] == [("a", b"a"), ("b", b"b"), ("c", b"c")]
    assert list(await store.list("none")) == []


async def test_a_list_can_be_had_in_pages(store: SqliteStore) -> None:
    keys = ["", "a", "a%", "a'b", "B", "z", "é", "\U0001f600"]
    await store.put_all("one", [(key, b"", 0) for key in keys])
    await store.put("two", "m", b"", 0)
    assert [r.key for r in await store.list("one", limit=3)] == ["", "B", "a"]
    found: list[str] = []
    after = ""
    while page := await store.list("one", after=after, limit=3):
        found += [record.key for record in page]
        after = page[-1].key
    assert found == sorted(keys)
    assert [r.key for r in await store.list("one", after="b")] == ["z", "é", "\U0001f600"]
    assert list(await store.list("one", limit=0)) == []


async def test_a_page_holds_one_record_more_than_its_bytes_allow_at_most(store: SqliteStore) -> None:
    await store.put_all("one", [(f"{i:02}", bytes(300), 0) for i in range(10)])
    await store.put("one", "05", bytes(5000), None)
    sizes = [[len(r.value) for r in page] async for page in base.pages(store, "one", 1000)]
    assert sizes == [[300] * 4, [300, 5000], [300] * 4]
    assert [r.key async for r in base.records(store, "one")] == [f"{i:02}" for i in range(10)]
    assert [r.key for r in await store.list("one", limit=2, max_bytes=10_000)] == ["00", "01"]


async def test_several_are_read_at_once_up_to_so_many_bytes(store: SqliteStore) -> None:
    await store.put_all("one", [(key, bytes(400), 0) for key in "abcd"])
    found, looked_at = await store.get_all("one", ["d", "none", "a", "b"], 800)
    assert ([r.key for r in found], looked_at) == (["d", "a"], 3)
    assert await store.get_all("one", [], 1) == ([], 0)
    found, looked_at = await store.get_all("one", ["none", "b"], 800)
    assert ([r.key for r in found], looked_at) == (["b"], 2)


async def test_writes_in_several_buckets_are_done_together_or_not_at_all(store: SqliteStore) -> None:
    first = await store.write([Change("one", "k", b"1", 0), Change("two", "k", b"2"), Change("two", "gone", None)])
    assert first == sorted(first)
    assert await store.get("one", "k") == ("k", b"1", first[0])
    with pytest.raises(RevisionError):
        await store.write([Change("two", "k", None), Change("two", "new", b""), Change("one", "k", b"2", 0)])
    assert await store.get("two", "k") == ("k", b"2", first[1])
    assert await store.get("two", "new") is None
    await store.write([Change("two", "k", None, first[1])])
    assert await store.get("two", "k") is None


async def test_the_space_of_what_was_deleted_is_given_back(store: SqliteStore, tmp_path: Path) -> None:
    path = tmp_path / "homed.db"
    await store.put_all("b", [(f"{i}", bytes(1 << 20), 0) for i in range(20)])
    await store.delete_all("b", [f"{i}" for i in range(19)])
    before = await store.give_back(1)
    assert before > 18 << 20
    assert await store.give_back(4 << 20) < before - (3 << 20)
    while await store.give_back(4 << 20):
        pass
    await store.close()
    assert path.stat().st_size < 3 << 20


async def test_a_database_of_an_older_homed_gives_space_back_too(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as old:
        old.execute("PRAGMA journal_mode = WAL")
        migrations.migrate(old, {1: migrations.steps()[1]})
        for i in range(200):
            old.execute("INSERT INTO records VALUES ('b', ?, ?, ?)", (f"{i}", bytes(1 << 16), i))
        old.execute("DELETE FROM records WHERE key <> '7'")
        old.commit()
    assert path.stat().st_size > 12 << 20
    store = SqliteStore(path)
    await store.open()
    assert [(r.key, r.value, r.revision) for r in await store.list("b")] == [("7", bytes(1 << 16), 7)]
    await store.put_all("b", [(f"more{i}", bytes(1 << 20), 0) for i in range(5)])
    await store.delete_all("b", [f"more{i}" for i in range(5)])
    while await store.give_back(1 << 20):
        pass
    await store.close()
    assert path.stat().st_size < 1 << 20


async def test_a_path_in_the_account_of_changes_is_bounded(store: SqliteStore) -> None:
    await store.append(entry(target="/" + "x" * 8000))
    (found,) = await store.entries(1, None)
    assert found.target == "/" + "x" * 510 + "…"


async def test_several_are_deleted_at_once_whether_or_not_they_are_there(store: SqliteStore) -> None:
    await store.put_all("b", [(key, b"", 0) for key in "abcd"])
    await store.put("other", "a", b"", 0)
    assert await store.delete_all("b", iter(["a", "none", "c", "c"])) == 2
    assert [r.key for r in await store.list("b")] == ["b", "d"]
    assert await store.get("other", "a") is not None
    assert await store.delete_all("b", []) == 0


async def test_of_writes_in_one_commit_one_that_loses_harms_no_other(store: SqliteStore) -> None:
    at = await store.put("b", "contested", b"", 0)

    async def all_or_none(i: int) -> object:
        return await store.put_all("b", [(f"pair{i}", b"", 0), ("contested", b"%d" % i, at)])

    won = await asyncio.gather(
        *(store.put("b", f"alone{i}", b"", 0) for i in range(30)),
        *(all_or_none(i) for i in range(30)),
        *(store.append(entry(f"a{i}")) for i in range(30)),
        return_exceptions=True,
    )
    revisions = [one for one in won[:30] if isinstance(one, int)]
    assert len(set(revisions)) == 30
    winners = [i for i, one in enumerate(won[30:60]) if not isinstance(one, RevisionError)]
    assert len(winners) == 1
    keys = {record.key for record in await store.list("b")}
    assert keys == {"contested", f"pair{winners[0]}", *(f"alone{i}" for i in range(30))}
    assert len(await store.entries(100, None)) == 30


async def test_a_read_sees_every_write_that_was_asked_for_before_it(store: SqliteStore) -> None:
    async def look(i: int) -> None:
        await store.put("b", f"k{i}", b"%d" % i, 0)
        found = await store.get("b", f"k{i}")
        assert found is not None and found.value == b"%d" % i

    await asyncio.gather(*(look(i) for i in range(200)))


@settings(max_examples=25, deadline=None)
@given(
    acts=st.lists(
        st.tuples(st.sampled_from(["put", "delete"]), st.sampled_from("ab"), st.integers(0, 3), st.binary(max_size=3)),
        max_size=15,
    )
)
async def test_it_behaves_as_a_dictionary_with_revisions(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, str, int, bytes]]
) -> None:
    """`which` picks the revision: right, none at all, an old one, none there."""
    store = SqliteStore(tmp_path_factory.mktemp("model") / "homed.db")
    await store.open()
    model: dict[str, tuple[bytes, int]] = {}
    newest = 0
    try:
        for act, key, which, value in acts:
            at = model.get(key, (b"", 0))[1]
            asked = {0: at, 1: None, 2: at - 1, 3: 0}[which]
            fits = asked is None or asked == at
            try:
                if act == "put":
                    revision = await store.put("b", key, value, asked)
                    assert revision > newest
                    newest, model[key] = revision, (value, revision)
                else:
                    assert await store.delete("b", key, asked) == (key in model)
                    model.pop(key, None)
                assert fits
            except RevisionError:
                assert not fits
            assert {r.key: (r.value, r.revision) for r in await store.list("b")} == model
    finally:
        await store.close()


async def test_of_many_writers_at_one_revision_one_wins(store: SqliteStore) -> None:
    at = await store.put("b", "k", b"", 0)
    results = await asyncio.gather(*(store.put("b", "k", b"%d" % i, at) for i in range(20)), return_exceptions=True)
    assert sum(isinstance(one, int) for one in results) == 1
    assert sum(isinstance(one, RevisionError) for one in results) == 19


async def test_a_write_ends_as_a_whole_where_its_caller_has_gone(store: SqliteStore) -> None:
    task = asyncio.create_task(store.put("b", "k", b"v", 0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = await store.get("b", "k")
    assert found is not None and found.value == b"v"


async def test_the_account_of_changes_is_paged_from_the_newest(store: SqliteStore) -> None:
    for i in range(7):
        await store.append(entry(f"a{i}"))
    first = await store.entries(3, None)
    second = await store.entries(3, first[-1].id)
    third = await store.entries(3, second[-1].id)
    assert [e.action for e in (*first, *second, *third)] == [f"a{i}" for i in (6, 5, 4, 3, 2, 1, 0)]
    assert list(await store.entries(3, third[-1].id)) == []
    assert first[0]._replace(id=0) == entry("a6")


async def test_the_account_of_changes_is_bounded_and_its_ids_grow_on(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_KEPT_AUDIT_ENTRIES", 5)
    for i in range(12):
        await store.append(entry(f"a{i}"))
    found = await store.entries(100, None)
    assert [e.action for e in found] == [f"a{i}" for i in (11, 10, 9, 8, 7)]
    assert found[0].id == 12


async def test_a_moment_keeps_its_milliseconds(store: SqliteStore) -> None:
    moment = datetime(2026, 1, 1, 12, 0, 0, 123_000, tzinfo=UTC)
    await store.append(entry(at=moment + timedelta(microseconds=0)))
    assert (await store.entries(1, None))[0].at == moment


def run(code: str, *arguments: str | Path) -> str:
    """What another process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_PUT_ONCE = """
import asyncio, pathlib, sys
from homed.store.sqlite import SqliteStore
async def main():
    store = SqliteStore(pathlib.Path(sys.argv[1]))
    await store.open()
    await store.put("b", sys.argv[2], b"theirs", 0)
    await store.close()
asyncio.run(main())
"""


async def test_another_processes_writes_are_seen_and_told(store: SqliteStore, tmp_path: Path) -> None:
    before = await store.foreign_version()
    await store.put("b", "own", b"", 0)
    assert await store.foreign_version() == before, "its own writes are not foreign"
    await asyncio.to_thread(run, _PUT_ONCE, tmp_path / "homed.db", "k")
    assert await store.foreign_version() != before
    found = await store.get("b", "k")
    assert found is not None and found.value == b"theirs"
    assert await store.put("b", "k", b"ours", found.revision) > found.revision


async def test_two_processes_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    stores = [SqliteStore(tmp_path / "homed.db") for _ in range(6)]
    await asyncio.gather(*(store.open() for store in stores))
    for i, store in enumerate(stores):
        await store.put("b", str(i), b"", 0)
        await store.close()


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "homed.db")
    with pytest.raises(StoreError):
        await store.get("b", "k")
    await store.open()
    await store.close()
    await store.close()
    for act in (store.get("b", "k"), store.put("b", "k", b"", 0), store.append(entry())):
        with pytest.raises(StoreError, match="closed"):
            await act


async def test_the_file_is_for_its_owner_alone(store: SqliteStore, tmp_path: Path) -> None:
    await store.put("b", "k", b"secret", 0)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name


@pytest.mark.parametrize("content", [b"this is not a database at all, but text of some length" * 50, b"\x00" * 8192])
async def test_a_file_that_is_no_database_is_an_error_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "homed.db"
    path.write_bytes(content)
    store = SqliteStore(path)
    with pytest.raises(StoreError) as raised:
        await store.open()
    await store.close()
    assert str(path) in raised.value.message
    assert path.read_bytes() == content


async def test_a_damaged_database_is_an_error_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "homed.db"
    store = SqliteStore(path)
    await store.open()
    for i in range(200):
        await store.put("b", f"k{i}", b"x" * 500, 0)
    await store.close()
    data = bytearray(path.read_bytes())
    for at in range(4096 * 3, len(data), 4096):
        data[at : at + 2000] = os.urandom(2000)
    path.write_bytes(data)
    again = SqliteStore(path)
    with pytest.raises(StoreError):
        await again.open()
    await again.close()


async def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = SqliteStore(tmp_path / "file" / "homed.db")
    with pytest.raises(StoreError):
        await store.open()
    await store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small disk needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_is_an_error_that_passes_and_loses_nothing(small_disk: Path) -> None:
    store = SqliteStore(small_disk / "homed.db")
    await store.open()
    kept: list[str] = []

    async def fill() -> None:
        for i in range(1000):
            await store.put("b", f"k{i}", b"x" * 4000, 0)
            kept.append(f"k{i}")

    with pytest.raises(StoreError):
        await fill()
    assert kept and store.trouble
    assert {record.key for record in await store.list("b")} == set(kept)
    for key in kept[: len(kept) // 2]:
        with suppress(StoreError):
            await store.delete("b", key, None)
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    await store.put("b", "after", b"", 0)
    assert store.trouble == ""
    await store.close()


async def test_on_a_full_disk_nothing_that_was_refused_is_there_and_nothing_acknowledged_lost(
    small_disk: Path,
) -> None:
    store = SqliteStore(small_disk / "homed.db")
    await store.open()
    kept: set[str] = set()
    refused: set[str] = set()

    async def fill(i: int) -> None:
        for k in range(40):
            key = f"k{i}-{k}"
            try:
                await store.put("b", key, b"x" * 3000, 0)
            except StoreError:
                refused.add(key)
            else:
                kept.add(key)

    await asyncio.gather(*(fill(i) for i in range(20)))
    assert kept and refused
    assert {record.key for record in await store.list("b")} == kept
    await store.close()
    again = SqliteStore(small_disk / "homed.db")
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    await again.open()
    assert {record.key for record in await again.list("b")} == kept
    await again.close()


_WRITER = """
import asyncio, pathlib, sys
from homed.store.sqlite import SqliteStore
async def main():
    store = SqliteStore(pathlib.Path(sys.argv[1]))
    await store.open()
    number = int(sys.argv[2])
    while True:
        await store.put("b", f"k{number}", str(number).encode(), 0)
        print(number, flush=True)
        number += 1
asyncio.run(main())
"""


async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    path, said = tmp_path / "homed.db", 0
    for i in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), str(said + 1000 * (i + 1))],
            cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for _ in range(5 + 7 * i):
                said = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            rest = process.stdout.read().split()
        said = int(rest[-1]) if rest else said
        store = SqliteStore(path)
        await store.open()
        found = await store.get("b", f"k{said}")
        revisions = [record.revision for record in await store.list("b")]
        await store.close()
        assert found is not None and found.value == str(said).encode()
        assert len(set(revisions)) == len(revisions)


_WRITERS = """
import asyncio, pathlib, sys
from homed.store.sqlite import SqliteStore
async def main():
    store = SqliteStore(pathlib.Path(sys.argv[1]))
    await store.open()
    async def write(name):
        number = 0
        while True:
            await store.put("b", f"{name}-{number}", b"v", 0)
            print(f"{name}-{number}", flush=True)
            number += 1
    await asyncio.gather(*(write(f"{sys.argv[2]}{i}") for i in range(50)))
asyncio.run(main())
"""


async def test_nothing_acknowledged_to_many_writers_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    path, said = tmp_path / "homed.db", set[str]()
    for run in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITERS, str(path), "abcd"[run]], cwd=REPOSITORY, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(200 + 777 * run)]
            os.kill(process.pid, signal.SIGKILL)
            lines += process.stdout.read().splitlines(keepends=True)
        said |= {line.decode().strip() for line in lines if line.endswith(b"\n")}
        store = SqliteStore(path)
        await store.open()
        there = await store.list("b")
        await store.close()
        assert said <= {record.key for record in there}
        assert len({record.revision for record in there}) == len(there)


def test_commits_are_durable_before_they_are_acknowledged(tmp_path: Path) -> None:
    """What a power cut asks for: WAL, and a sync at each commit."""

    async def look() -> tuple[str, int]:
        store = SqliteStore(tmp_path / "homed.db")
        await store.open()
        mode = await store._group.read(
            lambda c: (
                str(c.execute("PRAGMA journal_mode").fetchone()[0]),
                int(c.execute("PRAGMA synchronous").fetchone()[0]),
            )
        )
        await store.close()
        return mode

    assert asyncio.run(look()) == ("wal", 2)
    assert sqlite3.sqlite_version_info >= (3, 35)
