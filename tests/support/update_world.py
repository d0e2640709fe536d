"""homed's own parts of updates on a board of the model, in virtual time: lived through life by life.

RAUC, logind and the kernel's clock are stand-ins; all else is what the daemon runs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from homed.bus.connection import Bus
from homed.bus.login1 import Power
from homed.bus.rauc import Installer, Listener, Properties, meaning
from homed.config import Updates
from homed.errors import RaucUnavailableError
from homed.events import Event, Events
from homed.updates import bundle, journal, parts
from homed.updates.judgement import Finding, Findings
from homed.updates.ledger import Ledger
from homed.updates.parts import Parts
from homed.updates.records import Reboot, Source, Update
from homed.updates.updater import Request, Updater
from tests.support import virtual_time
from tests.support.board_model import Behaviour, Board, Content

_BUSY = "already processing a different method"
# How long RAUC takes for a stage.
STAGE = 5.0
WELL = Content("2.0")


class Killed(KeyboardInterrupt):
    """homed is gone; as a KeyboardInterrupt nothing in it can catch it."""


class RebootedError(KeyboardInterrupt):
    """The board starts anew, and homed with it."""


class World:
    """A board and its disk. `live` is one life of homed, from its start to the end of what it is asked to do there."""

    def __init__(self, folder: Path, board: Board, patch: pytest.MonkeyPatch, **config: Any):
        self.folder = folder
        self.board = board
        self.config = msgspec.convert({"deadline": 100, "soak": 10, **config}, Updates)
        self.bundles: dict[str, Content] = {}
        self.healthy: Callable[[], Findings] = self._by_behaviour
        self.journals: list[str] = []
        self.events: list[Event] = []
        self.now = 0.0
        self.rauc_away = False
        self.reboots_ignored = 0
        # Counted: moments at which something has become durable, or is just about to.
        self.points = 0
        self.killed_at: int | None = None
        self.cut_at: int | None = None
        self._dead = False
        self._booted_at = 0.0
        self._homes(patch)

    def bundle(self, content: Content, name: str = "update") -> Path:
        """A file that RAUC takes for a bundle with this content."""
        path = self.folder / f"{name}.raucb"
        path.write_bytes(content.version.encode())
        self.bundles[str(path)] = content
        return path

    def request(self, content: Content, **options: Any) -> Request:
        return Request(source=Source(path=str(self.bundle(content))), **options)

    def live(self, act: "Callable[[Life], Awaitable[Any]] | None" = None) -> Any:
        """Start homed, and give back what `act` does; or None where it was killed, or the board rebooted, before."""
        self._dead = False
        try:
            return virtual_time.run(self._life(act or _to_the_end), self.now)
        except RebootedError:
            return None
        except Killed:
            return None
        finally:
            self._dead = True

    def to_the_end(self, lives: int = 60) -> Update:
        """Live until no update is under way; the newest one."""
        for _ in range(lives):
            if self.board.runs.kind is Behaviour.MUTE:
                self.reboot()
                continue
            if self.live():
                return self.updates()[0]
        raise AssertionError(f"no end: {self.updates()}")

    def updates(self) -> list[Update]:
        """What is on the disk."""
        ledger = Ledger(self.folder / "updates")
        ledger.load()
        return ledger.all()

    def reboot(self) -> None:
        self.board.reboot()
        self._booted_at = self.now

    def point(self) -> None:
        """The one moment at which a test may have the power cut, or homed killed."""
        if self._dead:
            # homed is gone already, and only Python still tidies up.
            raise asyncio.CancelledError
        self.points += 1
        if self.points == self.killed_at:
            self._dead = True
            raise Killed
        if self.points == self.cut_at:
            self._dead = True
            self.reboot()
            raise RebootedError

    def clock(self) -> float:
        """Seconds since the boot."""
        return asyncio.get_running_loop().time() - self._booted_at

    async def _life(self, act: "Callable[[Life], Awaitable[Any]]") -> Any:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        life = Life(self)
        runner = asyncio.create_task(life.parts.runner.run())
        try:
            acting = asyncio.ensure_future(act(life))
            await asyncio.wait({runner, acting}, return_when=asyncio.FIRST_COMPLETED)
            if runner.done():
                runner.result()
                raise AssertionError("the runner has ended")
            return acting.result()
        finally:
            self.now = loop.time()
            runner.cancel()

    def _by_behaviour(self) -> Findings:
        ill = self.board.runs.kind is not Behaviour.WELL
        return {"service:web": Finding("is down" if ill else None, "1"), "component:store": Finding()}

    async def observe(self) -> Findings:
        return self.healthy()

    async def keep_journal(self, path: Path, boot: str) -> bool:
        self.journals.append(boot)
        path.write_text("why")
        return True

    def copy(self, folder: Path) -> None:
        self.point()
        (folder / "state").mkdir(exist_ok=True)
        self.point()

    def _homes(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr("os.fsync", lambda _: None)
        patch.setattr(journal, "keep", self.keep_journal)
        patch.setattr(bundle, "signers", lambda _: ())
        patch.setattr(bundle, "device_sizes", lambda slots: {slot.name: 1000 for slot in slots})
        patch.setattr(parts, "Ledger", lambda folder: _Ledger(folder, self))
        patch.setattr(parts, "Installer", lambda _: FakeInstaller(self))
        patch.setattr(parts, "Power", lambda _: FakePower(self))


class Life:
    """homed, from one start to the next."""

    def __init__(self, world: World):
        self.world = world
        self.events = Events()
        self.events.listen(world.events.append)
        self.parts: Parts = parts.build(
            world.folder / "updates", Bus("unix:path=/none"), self.events, lambda: world.config, world.observe,
            world.copy, world.board.boot_id, world.clock,
        )  # fmt: skip
        self.parts.load(None)

    @property
    def updater(self) -> Updater:
        return self.parts.updater

    @property
    def current(self) -> Update | None:
        return self.parts.desk.current

    async def until(self, state: str, waiting_for: str | None = None) -> Update:
        """Wait for this state of the newest update."""
        while True:
            found = self.parts.desk.ledger.all()[0]
            if found.state == state and waiting_for in (None, self.parts.desk.waiting_for):
                return found
            assert not found.ended, found
            await asyncio.sleep(0.5)

    async def to_the_end(self) -> bool:
        """True, when no update is under way."""
        while self.current is not None:
            await asyncio.sleep(1)
        # What comes after the end: old updates are forgotten, the slot is marked.
        await asyncio.sleep(1)
        return True


async def _to_the_end(life: Life) -> bool:
    return await life.to_the_end()


class _Ledger(Ledger):
    """One whose writes are points."""

    def __init__(self, folder: Path, world: World):
        super().__init__(folder)
        self._world = world

    def save(self, update: Update) -> None:
        self._world.point()
        super().save(update)
        self._world.point()


class FakePower(Power):
    """logind that reboots the board at once."""

    def __init__(self, world: World):
        self._world = world

    async def reboot(self) -> None:
        self._world.point()
        if self._world.reboots_ignored:
            self._world.reboots_ignored -= 1
            return
        self._world._dead = True
        self._world.reboot()
        raise RebootedError


class FakeInstaller(Installer):
    """RAUC's service on the board of the model. It goes on where homed was killed."""

    def __init__(self, world: World):
        self._world = world
        self._board = world.board
        self._listener: Listener | None = None
        self._task: asyncio.Task[None] | None = None

    def listen(self, listener: Listener) -> None:
        self._listener = listener
        if self._board.writing is not None:
            self._task = asyncio.create_task(self._work())

    @property
    def is_there(self) -> bool:
        return not self._world.rauc_away

    async def properties(self) -> Properties:
        await self._asked(busy=True)
        operation = "idle" if self._board.writing is None else "installing"
        return Properties(operation, self._board.last_error, "board", "", self._board.booted, (0, ""))

    async def slots(self) -> list[tuple[str, Mapping[str, Any]]]:
        await self._asked()
        return [(name, status) for name, status in self._board.status()]

    async def primary(self) -> str | None:
        await self._asked()
        return self._board.primary

    async def install(self, path: str, options: Mapping[str, object]) -> None:
        await self._asked()
        self._board.start_installing(self._world.bundles[path])
        self._task = asyncio.create_task(self._work())
        self._world.point()

    async def inspect(self, path: str) -> Mapping[str, Any] | None:
        await self._asked(busy=True)
        content = self._world.bundles.get(path)
        if content is None:
            raise meaning("", "signature verification failed: Verify error: certificate has expired")
        update = {"compatible": "board", "version": content.version}
        return {"update": update, "images": [{"slot-class": "rootfs", "filename": "rootfs.img", "size": 500}]}

    async def mark(self, state: str, slot: str) -> tuple[str, str]:
        await self._asked()
        name = self._board.mark(state, slot)
        self._world.point()
        return name, f"marked {state}"

    def crash(self) -> None:
        """kill -9: the bus tells of it, and starts it again with the next call."""
        if self._task is not None:
            self._task.cancel()
        self._board.crash_rauc()
        assert self._listener is not None
        self._listener.on_owner(False)
        self._listener.on_owner(True)

    async def _asked(self, *, busy: bool = False) -> None:
        await asyncio.sleep(0.01)
        self._world.point()
        if self._world.rauc_away:
            raise RaucUnavailableError("RAUC cannot be asked: it is away")
        if self._board.writing is not None and not busy:
            raise meaning("", _BUSY)

    async def _work(self) -> None:
        assert self._listener is not None
        self._listener.on_operation("installing")
        while True:
            await asyncio.sleep(STAGE)
            self._world.point()
            result = self._board.advance()
            self._listener.on_progress(min(100, self._board.stage * 20), "Installing")
            self._world.point()
            if result is not None:
                self._listener.on_completed(result)
                self._listener.on_operation("idle")
                return


def begin(world: World, content: Content = WELL, **options: object) -> None:
    """Ask for an update that is to reboot at once, and live until the board does so or the update ends."""

    async def ask(life: Life) -> None:
        await life.updater.install(world.request(content, **{"reboot": Reboot.NOW, **options}))
        await life.to_the_end()

    world.live(ask)


def rauc(life: Life) -> FakeInstaller:
    """RAUC, as somebody else would speak to it."""
    installer = life.parts.watch._installer
    assert isinstance(installer, FakeInstaller)
    return installer


MakeWorld = Callable[..., World]
