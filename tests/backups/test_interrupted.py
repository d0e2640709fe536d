"""A restore that was broken off, until it is ended: nothing else begins meanwhile, and it is ended however often."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest

from homed.backups.records import Operation, OperationKind, State
from homed.backups.restore_step import Step, write_step
from homed.backups.wishes import RestoreWish, Wish
from homed.backups.workplaces import JOURNAL, interrupted
from homed.errors import BackupConflictError
from tests.support.backup_board import BackupBoard, Folders
from tests.support.killing import TREES, begun, fill, generations, in_memory, kill_at, measured, run, without_worker
from tests.support.nursery import NursedStart, Nursery, send


class Late(Folders):
    """`put` waits until it is let go."""

    def __init__(self, root: Path):
        super().__init__(root)
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def put(self, records: Mapping[str, bytes]) -> None:
        self.reached.set()
        await self.go_on.wait()
        await super().put(records)


class Broken:
    """A board whose worker is killed when everything is swapped, and homed has not done its part."""

    def __init__(self, root: Path, nursery: Nursery):
        self.root = root
        self.board = BackupBoard(root, start=NursedStart(nursery.socket, root))
        self.late = self.board.services = Late(root / "volumes")
        self.page = root / "data" / "web" / "page"
        self.page.parent.mkdir(parents=True)
        self.page.write_text("old")
        self.late.add("web", self.page.parent)

    async def break_off(self) -> Operation:
        backups = self.board.backups
        name = (await self.board.create()).backup
        self.page.write_text("new")
        operation = await backups.restore(name, RestoreWish(config=False))
        await self.late.reached.wait()
        send(int((self.root / "worker").read_text()), signal.SIGKILL)
        self.late.go_on.set()
        return await backups.wait(operation.id)

    async def recovered(self) -> None:
        async with asyncio.timeout(10):
            while self.interrupted or self.board.backups.operations.running:
                await asyncio.sleep(0.01)

    @property
    def interrupted(self) -> bool:
        return bool(interrupted(self.board.state / "backup-work"))


@pytest.fixture
async def broken(tmp_path: Path) -> AsyncIterator[Broken]:
    with Nursery(tmp_path) as nursery:
        made = Broken(tmp_path / "board", nursery)
        async with made.board:
            yield made


async def test_a_restore_whose_worker_was_killed_is_ended_at_once(broken: Broken) -> None:
    """Its services stand still until then."""
    ended = await broken.break_off()
    assert ended.state is State.FAILED
    await broken.recovered()
    assert broken.late.held == set()
    assert broken.page.read_text() == "old"
    assert broken.board.backups.operations.all()[0].kind is OperationKind.RECOVER


async def test_until_it_is_ended_nothing_is_captured_or_restored(broken: Broken) -> None:
    """Half of it would be captured, or put back over."""
    await broken.break_off()
    assert broken.interrupted
    earlier = broken.board.backups.all()[0].name
    attempts: list[Callable[[], Awaitable[object]]] = [
        lambda: broken.board.backups.create(Wish()),
        lambda: broken.board.backups.restore(earlier, RestoreWish(config=False)),
    ]
    for attempt in attempts:
        with pytest.raises(BackupConflictError) as caught:
            await attempt()
        assert caught.value.code == "BACKUP_BUSY"
    await broken.recovered()
    assert (await broken.board.create()).state is State.SUCCEEDED


class Ending(Folders):
    """A worker that has outlived its homed ends the restore just as the next homed has found it."""

    def keep_held(self, names: Sequence[str], why: str) -> None:
        super().keep_held(names, why)
        (journal,) = (self.root.parent / "state" / "backup-work").glob(f"*/{JOURNAL}")
        journal.unlink()


async def test_a_restore_that_a_left_worker_ends_while_homed_starts_holds_no_service(tmp_path: Path) -> None:
    work = tmp_path / "state" / "backup-work" / "one"
    work.mkdir(parents=True)
    (work / JOURNAL).write_text("{}")
    write_step(work, Step(held=("web",), services=(), config=False, keys=False))
    board = BackupBoard(tmp_path)
    board.services = Ending(tmp_path / "volumes")
    async with board:
        assert board.services.held == {"web"}
        async with asyncio.timeout(30):
            while board.services.held:
                await asyncio.sleep(0.01)
        await board.idle()
        assert not work.exists()


def test_also_what_ends_it_may_be_killed(tmp_path: Path) -> None:
    """homed and its worker are killed in a restore, and again while that is being ended, and again."""
    chance = random.Random(4)
    with in_memory() as root, Nursery(tmp_path) as nursery:
        backups: dict[str, str] = {}
        for generation in ("a", "b"):
            fill(root, generation)
            (backups[generation],) = set(run(nursery, root, "create")["backups"]) - set(backups.values())
        duration = measured(nursery, root, "restore", backups["b"])
        for i in range(20):
            (before,) = generations(root)
            wanted = "b" if before == "a" else "a"
            moment = duration * (0.5 + chance.random() / 2)
            kill_at(moment, "both", root, begun(nursery, root, "restore", backups[wanted]))
            for _ in range(3):
                (root / "worker").unlink(missing_ok=True)
                child = nursery.homed(root, "look")
                time.sleep(chance.random() * 0.15)
                kill_at(0, ("both", "homed")[i % 2], root, child)
            told = run(nursery, root, "look")
            without_worker(root)
            assert told["held"] == []
            assert len(generations(root)) == 1, i
            assert sorted(path.name for path in (root / "data").iterdir()) == list(TREES), i
            assert not list((root / "state" / "backup-work").iterdir()), i
