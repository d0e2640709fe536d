"""A board whose services are judged as homed judges them, on an engine that is none: for archives that mean harm."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec

from homed.backups import catalog
from homed.backups.archive import seal
from homed.backups.launcher import Start
from homed.backups.records import Section
from homed.config.backups import Backups as Config
from homed.containers.engine import Engine
from homed.containers.model import Volume
from homed.containers.records import Service
from homed.containers.spec import ServiceSpec
from homed.containers.streams import Streams
from tests.support import held_services
from tests.support.archives import draft, snapshot
from tests.support.backup_board import BackupBoard
from tests.support.fake_engine import FakeEngine

NAME = "backup-20260102-030405.tar.gz"
STATE = Section(kind="state", name="state", prefix="state")


class FolderEngine(FakeEngine):
    """Its volumes are folders."""

    def __init__(self, root: Path):
        super().__init__()
        self._root = root

    async def ensure_volume(self, name: str) -> Volume:
        path = self._root / name / "_data"
        path.mkdir(parents=True, exist_ok=True)
        return self.volumes.setdefault(name, Volume(name, str(path), "local", {}))


class HostileBoard:
    """`web` runs on the folder `data/web` and on the volume `data`; `touched` tells whether something is changed."""

    def __init__(self, root: Path, board: BackupBoard, services: held_services.Board, engine: FolderEngine):
        self.root = root
        self.board = board
        self.services = services
        self.engine = engine
        self._before = self._all()

    def _all(self) -> object:
        trees = {name: snapshot(self.root / name) for name in ("data", "outside", "volumes")}
        files = [self.board.settings.file.read_bytes(), (self.board.state / "config.json").exists()]
        records = self.services.capturing.records()
        return trees, files, {name: msgspec.json.decode(one) for name, one in records.items()}, set(self.engine.volumes)

    @property
    def touched(self) -> bool:
        return self._all() != self._before

    @property
    def left(self) -> set[str]:
        """What a refused one has left."""
        return {path.name for path in (self.board.state / "backup-work").iterdir()}

    def shelve(self, archive: Path | None = None, name: str = NAME) -> None:
        """Have it in the list, as if it were one of this board's."""
        path = self.board.folder / name
        if archive is not None:
            path.write_bytes(archive.read_bytes())
        sealed = seal.is_sealed(path)
        catalog.write(
            self.board.folder, msgspec.structs.replace(draft(name=name), size=path.stat().st_size, encrypted=sealed)
        )
        self.board.backups.catalog.load()

    async def restored(self, **wish: Any) -> str:
        """The failure's code; empty where there was none."""
        operation = await self.board.restore(NAME, **wish)
        return operation.failure.code if operation.failure else ""

    async def received(self, data: bytes, name: str = NAME) -> str:
        """The failure's code where it is sent."""
        for path in self.board.folder.iterdir():
            path.unlink()
        self.board.backups.catalog.load()

        async def chunks() -> AsyncIterator[bytes]:
            for at in range(0, len(data), 1 << 16):
                yield data[at : at + (1 << 16)]

        operation = await self.board.backups.wait((await self.board.backups.receive(name, chunks())).id)
        return operation.failure.code if operation.failure else ""


@asynccontextmanager
async def hostile_board(root: Path, start: Start) -> AsyncIterator[HostileBoard]:
    for name in ("data/web", "outside", "volumes", "services"):
        (root / name).mkdir(parents=True)
    (root / "data/web/page").write_text("hello")
    (root / "outside/file").write_text("precious")
    engine = FolderEngine(root / "volumes")
    async with held_services.board(
        root / "services", cast(Engine, engine), cast(Streams, engine), margin=5
    ) as services:
        volume = await engine.ensure_volume("data")
        (Path(volume.path) / "rows").write_text("1 2 3")
        await services.create("web", volumes=("data:/data", f"{root}/data/web:/web"))
        await services.reaches("web", "running")
        board = BackupBoard(root, Config(), start=start)
        board.services = services.capturing  # type: ignore[assignment]
        board.settings.file.write_text('name = "one"\n')
        async with board:
            yield HostileBoard(root, board, services, engine)


def service(name: str, *volumes: str, **given: Any) -> bytes:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    spec = ServiceSpec(image="app:1", volumes=volumes, **given)
    return msgspec.json.encode(Service(name=name, spec=spec, created_at=at, updated_at=at))


def records(services: Mapping[str, bytes | str]) -> bytes:
    shown = {name: one if isinstance(one, str) else one.decode() for name, one in services.items()}
    return msgspec.json.encode({"services": shown})
