"""A board's backups without its containers: homed's side and the real worker, over services that are folders.

Run as a program (`python -m tests.support.backup_board FOLDER ACT …`) it is a homed that can be killed.
"""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from homed import settings
from homed.backups import parts
from homed.backups.backups import Backups
from homed.backups.creating import Board
from homed.backups.launcher import AsProcess, Start
from homed.backups.parts import Parts
from homed.backups.ports import Capture, Hook, Mode, Services, Source
from homed.backups.records import Operation
from homed.backups.schedules import Timers
from homed.backups.wishes import RestoreWish, Wish
from homed.config.backups import Backups as Config
from homed.errors import FieldError
from homed.events import Events
from homed.health import Component, Level
from homed.store.sqlite import SqliteStore


class Folders:
    """Services whose data is folders: `captures` may be changed. It notes what is done to them."""

    def __init__(self, root: Path, captures: Sequence[Capture] = ()):
        self.root = root
        self.made = list(captures)
        self.stored: dict[str, bytes] = {}
        self.acts: list[str] = []
        self.held: set[str] = set()
        self.paused: set[str] = set()
        self.foreign: list[str] = []
        self.put_fails = False

    def add(self, name: str, *paths: Path, mode: Mode = Mode.LIVE, before: Hook | None = None) -> None:
        sources = tuple(Source("path", str(path), str(path)) for path in paths)
        self.made.append(Capture(name, mode, sources, before))
        self.stored[name] = json.dumps({"name": name, "spec": {"paths": [str(p) for p in paths]}}).encode()

    async def captures(self) -> Sequence[Capture]:
        return self.made

    def records(self) -> Mapping[str, bytes]:
        return dict(self.stored)

    def order(self, records: Mapping[str, bytes]) -> Sequence[str]:
        return sorted(records)

    def problems(self, records: Mapping[str, bytes], *, alone: bool = False) -> list[FieldError]:
        return []

    def paths(self, records: Mapping[str, bytes]) -> set[str]:
        return {path for record in records.values() for path in json.loads(record)["spec"]["paths"]}

    async def pause(self, names: Sequence[str]) -> None:
        self.acts += [f"pause {name}" for name in names]
        self.paused |= set(names)

    async def resume(self, names: Sequence[str]) -> None:
        self.acts += [f"resume {name}" for name in names]
        self.paused -= set(names)

    async def hold(self, names: Sequence[str], why: str) -> None:
        self.acts += [f"hold {name}" for name in names]
        self.held |= set(names)

    def keep_held(self, names: Sequence[str], why: str) -> None:
        self.held |= set(names)

    async def release(self, names: Sequence[str]) -> None:
        self.acts += [f"release {name}" for name in names]
        self.held -= set(names)

    async def run_hook(self, name: str, hook: Hook) -> int | None:
        self.acts.append(f"hook {name}")
        return None

    def container(self, name: str) -> str | None:
        return f"container of {name}" if name in self.stored else None

    async def strangers(self, paths: Sequence[str], services: Sequence[str]) -> list[str]:
        return self.foreign

    async def find_volume(self, name: str) -> str | None:
        path = self.root / name
        return str(path) if path.exists() else None

    async def make_volume(self, name: str) -> str:
        (self.root / name).mkdir(exist_ok=True)
        return str(self.root / name)

    async def put(self, records: Mapping[str, bytes]) -> None:
        if self.put_fails:
            from homed.errors import StoreError

            raise StoreError("the store is full")
        self.acts += [f"put {name}" for name in records]
        self.stored.update(records)

    async def settle(self, names: Sequence[str], timeout: float) -> list[str]:
        return []


class Settings(settings.Settings):
    """The configuration, as a restore sees it: whatever a test has written into the file is in force."""

    applied = 0

    def restore(self, overlay: bytes | None, file: bytes | None = None) -> list[str]:
        self.reload()
        return super().restore(overlay, file)

    def apply(self) -> None:
        self.applied += 1
        super().apply()


class _NoTimers:
    def component(self) -> Component:
        return Component(Level.HEALTHY)


class BackupBoard:
    """Its state in `root/state`, its configuration in `root/homed.toml`; give it to `async with`."""

    def __init__(self, root: Path, config: Config | None = None, *, start: Start = AsProcess.start):
        self.state = root / "state"
        self.state.mkdir(parents=True, exist_ok=True)
        self.config = config or Config()
        self.services = Folders(root / "volumes")
        self.services.root.mkdir(exist_ok=True)
        self.settings = Settings(root / "homed.toml", self.state / "config.json")
        self.events = Events()
        self.store = SqliteStore(self.state / "homed.db")
        self.folder = Path(self.config.directory or self.state / "backups")
        self._start = start
        self.parts: Parts
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "BackupBoard":
        await self.store.open()
        self.parts = parts.build(
            Board(self.state, self.state / "backup-work", "board", "aarch64", "1.0", 1),
            self.folder,
            self.settings,
            self.store,
            cast(Services, self.services),
            self.events,
            self._start,
            cast(Timers, _NoTimers()),
            lambda: self.config,
        )
        await self.parts.load()
        self._running = asyncio.create_task(self.parts.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self.parts.stop()
        await self.store.close()

    @property
    def backups(self) -> Backups:
        return self.parts.backups

    async def idle(self) -> None:
        """Until nothing is under way."""
        await asyncio.sleep(0)
        while (running := self.backups.operations.running) is not None:
            await self.backups.wait(running.id)

    async def quiet(self) -> None:
        """Until it has looked into its repository, which it does first."""
        async with asyncio.timeout(60):
            while not self.backups.operations.all() or self.backups.operations.running is not None:
                await asyncio.sleep(0.02)

    async def create(self, **wish: object) -> Operation:
        operation = await self.backups.create(Wish(**wish))  # type: ignore[arg-type]
        return await self.backups.wait(operation.id)

    async def restore(self, name: str, **wish: object) -> Operation:
        operation = await self.backups.restore(name, RestoreWish(**wish))  # type: ignore[arg-type]
        return await self.backups.wait(operation.id)


async def _main(root: Path, act: str, *arguments: str) -> None:
    """`create`, `restore NAME` or `recover`; the folders in `root/data` are the services' data."""
    board = BackupBoard(root)
    for path in sorted((root / "data").iterdir()):
        if not path.name.startswith("."):
            board.services.add(path.name, path, mode=Mode.PAUSED)
    async with board:
        await board.idle()
        print("ready", flush=True)
        if act == "create":
            operation = await board.create(name="b")
        elif act == "restore":
            operation = await board.restore(arguments[0], config=False)
        else:
            print(json.dumps([backup.name for backup in board.backups.all()]), flush=True)
            return
        print(json.dumps([str(operation.state), operation.failure and operation.failure.message]), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), *sys.argv[2:]))
