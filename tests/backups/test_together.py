"""What comes at once: two operations, a cancellation in each phase, a board that changes meanwhile, homed's end."""

import asyncio
import os
import signal
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from homed.backups.archive.verify import verify
from homed.backups.ports import Hook, Mode
from homed.backups.records import OperationKind, State
from homed.backups.wishes import RestoreWish, Wish
from homed.errors import BackupConflictError
from tests.support.archives import Told, snapshot
from tests.support.backup_board import BackupBoard, Folders
from tests.support.nursery import NursedStart, Nursery, send


class Gated(Folders):
    """Stops where it is told to, until it is let go: `gate` is the act, such as `pause db`."""

    def __init__(self, root: Path):
        super().__init__(root)
        self.gate = ""
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def _pass(self, act: str) -> None:
        if act == self.gate:
            self.reached.set()
            await self.go_on.wait()

    async def run_hook(self, name: str, hook: Hook) -> int | None:
        await self._pass(f"hook {name}")
        return await super().run_hook(name, hook)

    async def pause(self, names: Sequence[str]) -> None:
        await super().pause(names)
        await self._pass("pause")

    async def hold(self, names: Sequence[str], why: str) -> None:
        await super().hold(names, why)
        await self._pass("hold")


class Gates:
    """`board`, whose services are `gated`; `pass_to` begins something and returns where it stands at the gate."""

    def __init__(self, root: Path, start: NursedStart):
        self.root = root
        self.board = BackupBoard(root, start=start)
        self.gated = self.board.services = Gated(root / "volumes")
        for name, mode in (("db", Mode.PAUSED), ("log", Mode.STOPPED), ("web", Mode.LIVE)):
            data = root / "data" / name
            data.mkdir(parents=True)
            for i in range(20):
                (data / str(i)).write_bytes(os.urandom(20_000))
            self.gated.add(name, data, mode=mode, before=Hook("dump", 5) if name == "db" else None)

    def files(self) -> set[str]:
        return {path.name for path in self.board.folder.iterdir()}

    def assert_idle(self, *folders: str) -> None:
        """Nobody is held, and nothing is left beside the `folders`."""
        assert not self.gated.paused and not self.gated.held
        assert not list((self.board.state / "backup-work").iterdir())
        assert sorted(path.name for path in (self.root / "data").iterdir()) == list(folders or ("db", "log", "web"))
        assert not any(name.startswith(".") for name in self.files())


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    with Nursery(tmp_path) as made:
        yield made


@pytest.fixture
async def gates(tmp_path: Path, nursery: Nursery) -> AsyncIterator[Gates]:
    made = Gates(tmp_path / "board", NursedStart(nursery.socket, tmp_path / "board"))
    async with made.board:
        yield made


async def reach(gates: Gates, gate: str) -> None:
    async with asyncio.timeout(15):
        await gates.gated.reached.wait()
    assert gates.gated.gate == gate
    gates.gated.reached.clear()


async def test_of_two_at_once_the_second_is_told_of_the_first(gates: Gates) -> None:
    backups = gates.board.backups
    earlier = (await gates.board.create()).backup
    gates.gated.gate = "pause"
    first = await backups.create(Wish())
    await reach(gates, "pause")
    attempts: list[Callable[[], object]] = [
        lambda: backups.create(Wish()),
        lambda: backups.restore(earlier, RestoreWish()),
        lambda: backups.delete(earlier),
        lambda: backups.verify(earlier),
    ]
    for attempt in attempts:
        with pytest.raises(BackupConflictError) as caught:
            await attempt()  # type: ignore[misc]
        assert caught.value.code == "BACKUP_BUSY"
        assert caught.value.details["operation_id"] == first.id
    gates.gated.go_on.set()
    assert (await backups.wait(first.id)).state is State.SUCCEEDED
    assert backups.get(first.backup).services == ("db", "log", "web")
    gates.assert_idle()


async def test_of_many_begun_at_the_same_moment_one_is(gates: Gates) -> None:
    begun = await asyncio.gather(*(gates.board.backups.create(Wish()) for _ in range(5)), return_exceptions=True)

    assert sum(isinstance(one, BackupConflictError) for one in begun) == 4
    await gates.board.idle()
    assert len(gates.board.backups.all()) == 1
    assert len(gates.files()) == 2


@pytest.mark.parametrize("gate", ["hook db", "pause", "hold"])
async def test_a_backup_that_is_cancelled_while_it_waits_for_a_service(gates: Gates, gate: str) -> None:
    gates.gated.gate = gate
    operation = await gates.board.backups.create(Wish())
    await reach(gates, gate)
    await gates.board.backups.cancel(operation.id)
    ended = await gates.board.backups.wait(operation.id)

    assert ended.state is State.CANCELLED
    assert gates.files() == set()
    gates.assert_idle()


async def test_cancelled_at_any_message_of_the_worker_nothing_is_left(gates: Gates) -> None:
    """Create and restore: cancelled as soon as their progress has changed so many times."""
    backups = gates.board.backups
    name = (await gates.board.create()).backup
    (gates.root / "data" / "web" / "0").write_text("changed")
    before, there = snapshot(gates.root / "data" / "web"), gates.files()
    states = set()
    for kind in (OperationKind.CREATE, OperationKind.RESTORE):
        for count in range(12):
            wish = RestoreWish(config=False)
            operation = await (backups.create(Wish()) if kind is OperationKind.CREATE else backups.restore(name, wish))
            seen = 0
            last = operation.progress
            while seen < count and not backups.operations.get(operation.id).ended:
                await asyncio.sleep(0.001)
                now = backups.operations.get(operation.id).progress
                seen, last = seen + (now != last), now
            if not backups.operations.get(operation.id).ended:
                await backups.cancel(operation.id)
            ended = await backups.wait(operation.id)
            states.add((kind, ended.state))
            gates.assert_idle()
            if ended.state is State.CANCELLED:
                assert gates.files() == there
                assert snapshot(gates.root / "data" / "web") == before
                continue
            assert ended.state is State.SUCCEEDED, ended.failure
            there = gates.files()
            if kind is OperationKind.RESTORE:
                assert (gates.root / "data" / "web" / "0").stat().st_size == 20_000
            break
    assert {(kind, State.CANCELLED) for kind in (OperationKind.CREATE, OperationKind.RESTORE)} <= states


async def test_a_restore_that_is_cancelled_while_services_stop(gates: Gates) -> None:
    name = (await gates.board.create()).backup
    (gates.root / "data" / "web" / "0").write_text("changed")
    gates.gated.gate = "hold"
    operation = await gates.board.backups.restore(name, RestoreWish(config=False))
    await reach(gates, "hold")
    await gates.board.backups.cancel(operation.id)
    ended = await gates.board.backups.wait(operation.id)

    assert ended.state is State.CANCELLED
    assert (gates.root / "data" / "web" / "0").read_text() == "changed"
    gates.assert_idle()


async def test_a_worker_that_is_killed_leaves_nothing_of_a_backup(gates: Gates) -> None:
    """The kernel does that where memory is short; nobody is to wait for homed's next start to have the room back."""
    gates.gated.gate = "pause"
    operation = await gates.board.backups.create(Wish())
    await reach(gates, "pause")
    assert any(name.startswith(".partial-") for name in gates.files())
    send(int((gates.root / "worker").read_text()), signal.SIGKILL)
    gates.gated.go_on.set()
    ended = await gates.board.backups.wait(operation.id)

    assert ended.failure is not None
    assert ended.failure.code == "BACKUP_ERROR"
    assert gates.files() == set()
    gates.assert_idle()


async def test_an_error_that_nobody_thought_of_leaves_nobody_held(
    gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = (await gates.board.create()).backup
    (gates.root / "data" / "web" / "0").write_text("changed")

    async def hold(names: Sequence[str], why: str) -> None:
        gates.gated.held |= set(names)
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(gates.gated, "hold", hold)
    operation = await gates.board.restore(name, config=False)

    assert operation.failure is not None
    assert operation.failure.code == "INTERNAL_ERROR"
    assert (gates.root / "data" / "web" / "0").read_text() == "changed"
    gates.assert_idle()


async def test_a_service_that_is_deleted_while_it_is_backed_up(gates: Gates) -> None:
    gates.gated.gate = "hook db"
    operation = await gates.board.backups.create(Wish())
    await reach(gates, "hook db")
    for gone in ("log", "web"):
        gates.gated.stored.pop(gone)
        tree = gates.root / "data" / gone
        for path in tree.iterdir():
            path.unlink()
        tree.rmdir()
    gates.gated.go_on.set()
    ended = await gates.board.backups.wait(operation.id)

    assert ended.state is State.SUCCEEDED, ended.failure
    assert any("log" in warning for warning in ended.warnings)
    verified = await gates.board.backups.wait((await gates.board.backups.verify(ended.backup)).id)
    assert verified.failure is None
    operation = await gates.board.restore(ended.backup, config=False)
    assert operation.failure is None
    gates.assert_idle("db", "web")  # of what was gone before it was read there is nothing to put back


class Writer:
    """Changes a folder as fast as it can: `stamps` gets a number at its beginning, then at its end, again and again."""

    SIZE = 4 << 20

    def __init__(self, folder: Path):
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        (folder / "stamps").write_bytes(bytes(self.SIZE))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        count = 0
        with (self._folder / "stamps").open("r+b", buffering=0) as stamps:
            while not self._stop.is_set():
                count += 1
                for at in (0, self.SIZE - 8):
                    os.pwrite(stamps.fileno(), count.to_bytes(8, "big"), at)
                if count % 16 == 0:
                    fresh = self._folder / f"fresh{count % 800}"
                    fresh.write_bytes(b"x" * (count % 5000))
                    (self._folder / f"fresh{(count + 400) % 800}").unlink(missing_ok=True)
                    fresh.rename(self._folder / "renamed")


async def test_a_volume_that_is_written_to_all_the_while(gates: Gates, tmp_path: Path) -> None:
    """What changed while it was read is told; what is not told was read as it was at one moment."""
    busy = gates.root / "data" / "web"
    told = 0
    with Writer(busy):
        operations = [await gates.board.create() for _ in range(8)]
    for operation in operations:
        assert operation.state is State.SUCCEEDED, operation.failure
        (section,) = (s for s in gates.board.backups.get(operation.backup).sections if s.name == str(busy))
        path = gates.board.backups.path(operation.backup)
        backup = verify(path, tmp_path / "spool", None, Told().context)
        assert backup.members > 60
        assert bool(section.changed_count) == any("changed while" in warning for warning in operation.warnings)
        if "stamps" in section.changed:
            told += 1
            continue
        first, last = stamps(path, f"{section.prefix}/stamps")
        assert first - last in (0, 1), "it was torn, and nobody was told"
    assert told, "it was never read while it was written to"
    restored = await gates.board.restore(operations[-1].backup, config=False)
    assert restored.failure is None
    assert (busy / "stamps").stat().st_size == Writer.SIZE
    gates.assert_idle()


def stamps(path: Path, name: str) -> tuple[int, int]:
    """Of the last one in the archive, which counts."""
    with tarfile.open(path) as archive:
        content = archive.extractfile(archive.getmember(name))
        assert content is not None
        data = content.read()
    return int.from_bytes(data[:8], "big"), int.from_bytes(data[-8:], "big")


async def test_a_backup_that_is_deleted_while_it_is_read_elsewhere_is_read_to_its_end(gates: Gates) -> None:
    name = (await gates.board.create()).backup
    path = gates.board.backups.path(name)
    whole = path.read_bytes()
    with path.open("rb") as download:
        half = download.read(len(whole) // 2)
        assert (await gates.board.backups.wait((await gates.board.backups.delete(name)).id)).failure is None
        assert half + download.read() == whole
    assert gates.files() == set()


@pytest.mark.parametrize("gate", ["hook db", "pause", "hold"])
async def test_homed_that_ends_in_the_middle_of_a_backup_lets_everybody_go(
    tmp_path: Path, nursery: Nursery, gate: str
) -> None:
    gates = Gates(tmp_path / "board", NursedStart(nursery.socket, tmp_path / "board"))
    async with gates.board:
        gates.gated.gate = gate
        operation = await gates.board.backups.create(Wish())
        await reach(gates, gate)
    gates.assert_idle()
    assert gates.files() == set()
    ended = gates.board.backups.operations.get(operation.id)
    assert ended.failure is not None
    assert ended.failure.code == "BACKUP_INTERRUPTED"


async def test_homed_that_ends_in_the_middle_of_a_restore_leaves_all_as_it_was(
    tmp_path: Path, nursery: Nursery
) -> None:
    gates = Gates(tmp_path / "board", NursedStart(nursery.socket, tmp_path / "board"))
    async with gates.board:
        name = (await gates.board.create()).backup
        (gates.root / "data" / "web" / "0").write_text("changed")
        gates.gated.gate = "hold"
        await gates.board.backups.restore(name, RestoreWish(config=False))
        await reach(gates, "hold")
    # Those that were stopped stay so: homed is not there to keep them.
    gates.gated.held.clear()
    gates.assert_idle()
    assert (gates.root / "data" / "web" / "0").read_text() == "changed"
