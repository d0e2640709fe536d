import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from homed.backups.operations import Operations, Running
from homed.backups.records import OperationKind, Progress, State
from homed.errors import BackupConflictError, BackupError, NotFoundError
from homed.events import Events
from homed.store.sqlite import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "homed.db")
    await store.open()
    yield store
    await store.close()


async def done(running: Running) -> Mapping[str, object]:
    return {"name": "x"}


async def forever(running: Running) -> Mapping[str, object]:
    await asyncio.Event().wait()
    return {}


async def test_an_operation_runs_to_its_end_and_is_told_and_remembered(store: SqliteStore) -> None:
    events = Events()
    seen = events.subscribe(("backup.*",))
    operations = Operations(store, events)

    operation = await operations.begin(OperationKind.CREATE, "b", done)
    assert operation.state is State.RUNNING
    ended = await operations.wait(operation.id)

    assert (ended.state, ended.result, ended.progress.percent) == (State.SUCCEEDED, {"name": "x"}, 100.0)
    assert ended.finished_at is not None
    told = [await seen.next() for _ in range(2)]
    assert [event.type for event in told if event is not None] == ["backup.started", "backup.created"]
    later = Operations(store, Events())
    await later.load()
    assert later.get(operation.id) == ended


async def test_a_second_operation_is_refused_and_told_of_the_first(store: SqliteStore) -> None:
    operations = Operations(store, Events())
    first = await operations.begin(OperationKind.CREATE, "b", forever)

    with pytest.raises(BackupConflictError) as caught:
        await operations.begin(OperationKind.RESTORE, "c", done)

    assert caught.value.code == "BACKUP_BUSY"
    assert caught.value.details["operation_id"] == first.id
    await operations.stop()


async def test_a_failure_is_kept_with_its_code(store: SqliteStore) -> None:
    async def fail(running: Running) -> Mapping[str, object]:
        raise BackupError("no such thing", code="BACKUP_REMOTE")

    operations = Operations(store, Events())
    ended = await operations.wait((await operations.begin(OperationKind.COPY, "b", fail)).id)

    assert ended.state is State.FAILED
    assert ended.failure is not None
    assert (ended.failure.code, ended.failure.message) == ("BACKUP_REMOTE", "no such thing")
    assert operations.running is None


async def test_an_error_of_ours_ends_the_operation_and_not_homed(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(running: Running) -> Mapping[str, object]:
        raise ZeroDivisionError

    operations = Operations(store, Events())
    ended = await operations.wait((await operations.begin(OperationKind.COPY, "b", broken)).id)

    assert ended.failure is not None
    assert ended.failure.code == "INTERNAL_ERROR"
    assert "ZeroDivisionError" in caplog.text


async def test_a_cancelled_operation_stops_its_worker_and_ends_as_cancelled(store: SqliteStore) -> None:
    stopped = asyncio.Event()

    class Worker:
        async def cancel(self) -> None:
            stopped.set()

    async def work(running: Running) -> Mapping[str, object]:
        await running.stopped_by(Worker())
        await stopped.wait()
        running.check()
        return {}

    operations = Operations(store, Events())
    operation = await operations.begin(OperationKind.CREATE, "b", work)
    await asyncio.sleep(0)
    await operations.cancel(operation.id)
    ended = await operations.wait(operation.id)

    assert ended.state is State.CANCELLED
    with pytest.raises(BackupConflictError):
        await operations.cancel(operation.id)


async def test_a_cancel_before_the_worker_is_there_reaches_it_when_it_comes(store: SqliteStore) -> None:
    calls: list[str] = []
    go = asyncio.Event()

    class Worker:
        async def cancel(self) -> None:
            calls.append("cancel")

    async def work(running: Running) -> Mapping[str, object]:
        await go.wait()
        await running.stopped_by(Worker())
        return {}

    operations = Operations(store, Events())
    operation = await operations.begin(OperationKind.CREATE, "b", work)
    await operations.cancel(operation.id)
    go.set()
    await operations.wait(operation.id)

    assert calls == ["cancel"]


async def test_what_was_under_way_when_homed_ended_was_interrupted(store: SqliteStore) -> None:
    operations = Operations(store, Events())
    operation = await operations.begin(OperationKind.CREATE, "b", forever)
    await operations.stop()
    waited = await asyncio.wait_for(operations.wait(operation.id), 5)
    assert waited.state is State.FAILED

    later = Operations(store, Events())
    await later.load()
    found = later.get(operation.id)
    assert found.state is State.FAILED
    assert found.failure is not None
    assert found.failure.code == "BACKUP_INTERRUPTED"


async def test_only_the_last_operations_are_kept(store: SqliteStore) -> None:
    operations = Operations(store, Events())
    for _ in range(55):
        await operations.wait((await operations.begin(OperationKind.CREATE, "b", done)).id)

    assert len(operations.all()) == 50
    assert len(await store.list("backup_operations")) == 50


async def test_progress_is_told_at_once_and_in_events_not_too_often(store: SqliteStore) -> None:
    events = Events()
    seen = events.subscribe(("backup.progress",))

    async def work(running: Running) -> Mapping[str, object]:
        for i in range(1000):
            running.tell(Progress(phase="capturing", bytes=i))
        running.warn("look out")
        return {}

    operations = Operations(store, events)
    ended = await operations.wait((await operations.begin(OperationKind.CREATE, "b", work)).id)

    assert ended.progress.bytes == 999
    assert ended.warnings == ("look out",)
    assert seen._queue.qsize() <= 2


async def test_an_operation_that_nobody_knows_is_not_found(store: SqliteStore) -> None:
    with pytest.raises(NotFoundError) as caught:
        Operations(store, Events()).get("nope")
    assert caught.value.code == "OPERATION_NOT_FOUND"


async def test_who_waits_for_an_operation_that_is_only_being_written_down_waits_for_its_end(store: SqliteStore) -> None:
    """It would not come to be written down, were nobody else let run meanwhile."""
    operations = Operations(store, Events())
    beginning = asyncio.create_task(operations.begin(OperationKind.CREATE, "b", done))
    await asyncio.sleep(0)
    running = operations.running
    assert running is not None
    assert not beginning.done()
    ended = await operations.wait(running.id)
    assert ended.state is State.SUCCEEDED
    assert (await beginning).id == ended.id
