"""homed's backup worker, a real one in a process of its own, asked over its socket as homed asks it."""

import asyncio
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from homed.backups import launcher, names
from homed.backups.conversation import Conversation
from homed.backups.names import Name
from homed.backups.records import Backup, Section, Type
from homed.backups.worker.messages import Create, Done, Group, Plan, Repository, Request, Restore, Seal, Tree, Unlock

_LEVEL = 2


class Timed(NamedTuple):
    """`seconds` from the start of the worker's process to its answer."""

    seconds: float
    done: Done


class Board:
    """The folders that homed would have: `backups`, `work` and a little `state`."""

    def __init__(self, folder: Path):
        self.backups = folder / "backups"
        self.work = folder / "work"
        self.state = folder / "state"
        for one in (self.backups, self.work, self.state):
            one.mkdir(parents=True)
        (self.state / "config.json").write_text("{}\n")

    def full(self, tree: Path, seal: Seal | None = None) -> tuple[float, Path]:
        """An archive of one tree: the seconds that it took, with its way to the disk, and where it is."""
        request = self._create(tree, Type.FULL, seal=seal)
        timed = self._run(request)
        assert timed.done.backup is not None
        return timed.seconds, self.backups / timed.done.backup.name

    def incremental(self, tree: Path, repository: Repository, parent: str | None) -> tuple[float, str]:
        """A snapshot of one tree: the seconds, and its id."""
        timed = self._run(self._create(tree, Type.INCREMENTAL, repository=repository, parent=parent))
        assert timed.done.backup is not None
        assert timed.done.backup.snapshot is not None
        return timed.seconds, timed.done.backup.snapshot

    def restore(self, archive: Path, target: Path, unlock: Unlock | None = None) -> float:
        """The seconds to verify it, unpack it beside `target`, which is not there yet, and put it in place."""

        async def plan(data: Mapping[str, object]) -> Mapping[str, object]:
            sections = msgspec.convert(data["backup"], Backup).sections
            trees = tuple(Tree(one, str(target)) for one in sections if one.kind == "path")
            return msgspec.to_builtins(Plan(trees))  # type: ignore[no-any-return]

        async def nothing(_: Mapping[str, object]) -> Mapping[str, object]:
            return {}

        folder = str(self.backups)
        request = Restore(name=archive.name, folder=folder, work=self._place(), path=str(archive), unlock=unlock)
        return self._run(request, {"plan": plan, "stop": nothing, "apply": nothing}).seconds

    def _create(
        self,
        tree: Path,
        type: Type,
        seal: Seal | None = None,
        repository: Repository | None = None,
        parent: str | None = None,
    ) -> Create:
        at = datetime.now(UTC).replace(microsecond=0)
        name = Name("bench", at, names.extension(type, encrypted=seal is not None))
        section = Section(kind="path", name=str(tree), prefix="paths/0", stored=str(tree))
        return Create(
            draft=Backup(name=str(name), type=type, created_at=at, size=0, encrypted=seal is not None),
            folder=str(self.backups), work=self._place(), state=str(self.state),
            groups=(Group((section,), (), asks=False),), level=_LEVEL, seal=seal, must_seal=seal is not None,
            repository=repository, parent=parent,
        )  # fmt: skip

    def _place(self) -> str:
        path = self.work / uuid.uuid4().hex[:12]
        path.mkdir(mode=0o700)
        return str(path)

    def _run(self, request: Create | Restore, answers: Mapping[str, object] | None = None) -> Timed:
        work = Path(request.work)
        try:
            started = time.perf_counter()
            done = asyncio.run(_ask(work, request, answers or {}))
            return Timed(time.perf_counter() - started, done)
        finally:
            shutil.rmtree(work, ignore_errors=True)


async def _ask(work: Path, request: Request, answers: Mapping[str, object]) -> Done:
    warned: list[str] = []
    async with launcher.worker(launcher.AsProcess.start, work) as connection:
        conversation = Conversation(connection, lambda _: None, warned.append)
        done = await conversation.run(request, answers)  # type: ignore[arg-type]
    if warned:
        print(f"  the worker warns: {'; '.join(warned)}", flush=True)
    return done


def sync(path: Path) -> None:
    """Wait until what was written to a file or a tree is on the disk."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    else:
        os.sync()
