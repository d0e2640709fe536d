"""A board without its hardware: RAUC, a bootloader, a stand-in for logind and homed, booted and cut off at will."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

from homed.store import migrations
from tests.boards.rig.cache import REPOSITORY
from tests.boards.rig.process import command, spawn
from tests.rauc.bundles import Bundle, Bundles
from tests.support.api import Answer
from tests.support.homed import Homed
from tests.support.login1 import LOGIND, SYSTEMD
from tests.support.rauc import Rauc, Slot, SystemBus, end
from tests.support.wait import until

# Quick, and long enough for a noisy machine: a judgement that is to fail says so by its own short deadline.
_QUICK: Final[Mapping[str, Any]] = {"deadline": 60, "soak": 0}
ENDED: Final = frozenset({"good", "rolled_back", "failed", "cancelled"})


class BoardsHomed(Homed):
    """homed with a boot of its own: a file lies over the kernel's boot id, in homed's mount namespace."""

    def __init__(self, folder: Path, bus: str, checks: list[Mapping[str, Any]]):
        self.checks = checks
        self.package = REPOSITORY
        # A program that starts it where it has to be.
        self.within: tuple[str, ...] = ()
        self.boot_id = folder / "boot-id"
        self._bus = bus
        # What is asked for by tests all the time would hide the rest.
        tables = {"updates": _QUICK, "log": {"level": "info", "requests": "changes"}}
        super().__init__(folder, f"unix://{folder}/no-engine.sock", tables)

    def write_config(self) -> None:
        super().write_config()
        with self.config.open("a", encoding="utf-8") as file:
            for check in self.checks:
                file.write("[[updates.checks]]\n")
                file.writelines(f"{key} = {json.dumps(value)}\n" for key, value in check.items())

    def new_boot(self) -> None:
        self.boot_id.write_text(f"{uuid4()}\n")

    def inside(self, *arguments: str) -> str:
        """A program's output, with homed's view of the files."""
        return command("nsenter", f"--target={self.pid}", "--mount", "--", *arguments)

    def _around(self) -> list[str | Path]:
        bind = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
        return [*self.within, "unshare", "--mount", "--", "sh", "-c", bind, self.boot_id]

    def _environment(self) -> dict[str, str]:
        ours = {"DBUS_SYSTEM_BUS_ADDRESS": self._bus, "PYTHONPATH": str(self.package), "PYTHONSAFEPATH": "1"}
        return {**super()._environment(), **ours}


class Logind:
    """What homed asks for a reboot, under one of the two names that may be asked; it is on whatever bus there is."""

    def __init__(self, folder: Path, bus: SystemBus):
        self._folder, self._bus = folder, bus
        self._file = folder / "reboots"
        self._process: subprocess.Popen[bytes] | None = None
        self.name = ""

    @property
    def asked(self) -> list[str]:
        """The interfaces that were asked to reboot in this boot, with the arguments."""
        return self._file.read_text().splitlines() if self._file.exists() else []

    def forget(self) -> None:
        """A new boot."""
        self._file.unlink(missing_ok=True)

    def launch(self, name: str) -> None:
        """Have this name, if it has not got it already."""
        if self.name == name and self._process is not None:
            return
        end(self._process)
        self.name = name
        with (self._folder / "logind.log").open("ab") as log:
            arguments = ["-m", "tests.support.login1", self._bus.address, str(self._file), name]
            self._process = spawn([sys.executable, *arguments], {**os.environ, "PYTHONPATH": str(REPOSITORY)}, log)

    def await_up(self) -> None:
        until("the stand-in for logind", lambda: self._bus.owns(self.name), every=0.01)

    def close(self) -> None:
        end(self._process)


class Disk:
    """A small disk that homed and RAUC see, in a mount namespace that a process of ours holds."""

    def __init__(self, folder: Path, size: int):
        self.path = folder / "disk"
        self.path.mkdir(exist_ok=True)
        made = f'mount -t tmpfs -o size={size} homed-test "$0" && touch "$0/made" && exec sleep infinity'
        with (folder / "disk.log").open("ab") as log:
            holder: list[str | Path] = ["unshare", "--mount", "--", "sh", "-c", made, self.path]
            self._process = spawn(holder, dict(os.environ), log)
        self.within = ("nsenter", f"--target={self._process.pid}", "--mount", "--")
        until("the disk", lambda: self.run("ls", str(self.path)) == "made\n", every=0.01)

    def run(self, *arguments: str) -> str:
        """A program's output, with a view of the disk."""
        return command(*self.within, *arguments)

    def resize(self, size: int) -> None:
        self.run("mount", "-o", f"remount,size={size}", str(self.path))

    def close(self) -> None:
        end(self._process)


class Machine:
    """`sick` names the slots in which the owner's check fails, `broken` those that never come up, `newer` those that
    hold a newer homed.

    `with_rauc` is off for a board that has no RAUC at all.
    """

    def __init__(self, folder: Path, bundles: Bundles):
        self.folder, self.bundles = folder, bundles
        folder.mkdir(parents=True, exist_ok=True)
        self.bus = SystemBus(folder)
        self.rauc = Rauc(folder, self.bus, bundles.authority.certificate)
        self.logind = Logind(folder, self.bus)
        self.with_rauc = True
        self.sick: set[str] = set()
        self.broken: set[str] = set()
        self.newer: set[str] = set()
        self.booted: str | None = None
        self._well = folder / "well"
        self.disk: Disk | None = None
        self._count = 0
        self._asking: list[socket.socket] = []
        self.reset()

    # The board.

    def reset(self) -> None:
        """Off, and as delivered, with a homed that has no state."""
        self.cut_power()
        if self.disk is not None:
            self.disk.close()
            self.disk, self.rauc.within = None, ()
        self.bundles.gate.close()
        self.rauc.reset()
        self.sick, self.broken, self.newer, self.with_rauc = set(), set(), set(), True
        self.logind.launch(LOGIND)
        self._count += 1
        check = {"name": "well", "command": ["/usr/bin/test", "-e", str(self._well)]}
        self.homed = BoardsHomed(self.folder / f"homed{self._count}", self.bus.address, [check])
        self.api = self.homed.api

    def configure(self, **values: Any) -> None:
        """Set fields of `[updates]`, for the next start of homed."""
        self.homed.tables["updates"].update(values)
        self.homed.write_config()

    def with_disk(self, size: int) -> Disk:
        """Have bundles downloaded to a disk of its own, from the next boot on."""
        self.disk = Disk(self.folder, size)
        self.rauc.within = self.homed.within = self.disk.within
        self.configure(directory=str(self.disk.path))
        return self.disk

    def boot(self) -> Self:
        """What the bootloader chooses comes up: another boot than the last one."""
        assert self.booted is None, "it is on"
        chosen = self.rauc.bootloader.choose()
        while chosen in self.broken:
            chosen = self.rauc.bootloader.choose()
        self.booted = chosen
        if chosen in self.sick:
            self._well.unlink(missing_ok=True)
        else:
            self._well.touch()
        self.homed.package = self._newer_homed() if chosen in self.newer else REPOSITORY
        self.homed.new_boot()
        self.bus.start()
        if self.with_rauc:
            self.rauc.launch(chosen)
        self.logind.forget()
        self.homed.launch()
        self.await_homed()
        if self.with_rauc:
            self.await_rauc()
        self.logind.await_up()
        return self

    def shut_down(self) -> None:
        """Everything ends in order."""
        if self.homed.runs:
            self.homed.stop()
        self.rauc.kill(signal.SIGTERM)
        self._off()

    def cut_power(self) -> None:
        """Everything ends at once."""
        if hasattr(self, "homed") and self.homed.runs:
            self.homed.kill()
        self.rauc.kill()
        self._off()

    def reboot(self) -> Self:
        """By homed's wish: waits for it."""
        self.await_wish()
        self.shut_down()
        return self.boot()

    def heal(self) -> None:
        """The owner's check works from now on."""
        self._well.touch()

    def start_rauc(self) -> None:
        """RAUC's service again in the same boot, as its activation by the bus does."""
        assert self.booted is not None
        self.rauc.kill()
        self.rauc.start(self.booted)

    def restart_bus(self) -> None:
        """dbus-daemon dies and comes back; RAUC dies with it, and comes back as it is asked for."""
        self.bus.restart()
        self.start_rauc()
        self.logind.await_up()

    def without_logind(self) -> None:
        """Only systemd's own manager takes the wish for a reboot, from the next boot on."""
        self.logind.launch(SYSTEMD)

    def await_wish(self) -> None:
        """Wait until homed has asked for a reboot."""
        until("homed to ask for a reboot", lambda: self.logind.asked, deadline=60)

    def await_rauc(self) -> None:
        """Wait until homed has heard of RAUC."""
        until("homed to see RAUC", lambda: self.rauc.runs and self.status()["rauc"] == "available")

    def restart_homed(self) -> None:
        """In the same boot, such as to have it read its configuration."""
        self.homed.restart()
        self.await_rauc()

    def await_homed(self) -> None:
        until("homed to answer", self.homed._answers, every=0.02)

    def close(self) -> None:
        self.reset()
        self.logind.close()
        self.rauc.close()
        self.bus.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def slot(self, bootname: str) -> Slot:
        return self.rauc.slots[bootname]

    # Updates, by what tests say all the time.

    def status(self) -> dict[str, Any]:
        return self._json("/api/v1/update/status")

    def slot_status(self, name: str) -> dict[str, Any]:
        return next(slot for slot in self.status()["slots"] if slot["name"] == name)

    def install(self, bundle: Bundle | str, **more: Any) -> Answer:
        """Ask for an update, from a file or a URL."""
        source = {"bundle_url": bundle} if isinstance(bundle, str) else {"bundle_path": str(bundle.path)}
        return self.api.post("/api/v1/update/install", {**source, **more})

    def install_without_waiting(self, bundle: Bundle | str, **more: Any) -> None:
        """Ask for an update, and be gone before there is an answer."""
        source = {"bundle_url": bundle} if isinstance(bundle, str) else {"bundle_path": str(bundle.path)}
        data = json.dumps({**source, **more})
        head = (
            f"POST /api/v1/update/install HTTP/1.1\r\nHost: 127.0.0.1:{self.homed.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        asking = socket.create_connection(("127.0.0.1", self.homed.port), timeout=20)
        self._asking.append(asking)
        asking.sendall((head + data).encode())

    def begin(self, bundle: Bundle | str, **more: Any) -> str:
        """The same where it must be taken: the update's id."""
        answer = self.install(bundle, **more)
        assert answer.status == 200, answer
        assert answer.json["status"] == "installing", answer
        return str(answer.json["id"])

    def begin_download(self, url: str, **more: Any) -> str:
        """Ask for an update from a server that does not deliver all of it: its id, once some of it has come."""
        self.install_without_waiting(url, **more)
        until("some of it to have come", lambda: any(part.stat().st_size for part in self.downloads("*.part")))
        (newest, *_) = self.history()
        assert newest["state"] == "downloading"
        return str(newest["id"])

    def downloads(self, pattern: str = "*") -> list[Path]:
        """The files that bundles are downloaded to, as homed sees them."""
        folder = self.disk.path if self.disk is not None else self.homed.state / "updates" / "downloads"
        return list(Path(f"/proc/{self.homed.pid}/root{folder}").glob(pattern))

    def act(self, verb: str, body: object = None) -> Answer:
        return self.api.post(f"/api/v1/update/{verb}", body)

    def update(self, identity: str) -> dict[str, Any]:
        return self._json(f"/api/v1/update/history/{identity}")

    def history(self) -> list[dict[str, Any]]:
        return list(self._json("/api/v1/update/history")["updates"])

    def on_disk(self, identity: str) -> dict[str, Any]:
        """What homed would find of an update after a power cut; empty where there is nothing yet."""
        try:
            return dict(json.loads((self.homed.state / "updates" / identity / "update.json").read_bytes()))
        except FileNotFoundError:
            return {}

    def await_state(self, identity: str, *states: str, deadline: float = 60) -> dict[str, Any]:
        """Wait until an update has one of these states, and return it; fail as soon as it has ended otherwise."""

        def look() -> bool:
            seen.append(self.update(identity))
            assert seen[-1]["state"] in states or seen[-1]["state"] not in ENDED, seen[-1]
            return seen[-1]["state"] in states

        seen: list[dict[str, Any]] = []
        try:
            until(f"the update to be {' or '.join(states)}", look, deadline)
        except AssertionError as error:
            raise AssertionError(f"{error}; the update was {seen[-1] if seen else 'never seen'}") from None
        return seen[-1]

    def await_waiting(self, identity: str, what: str | None) -> dict[str, Any]:
        """Wait until an update waits for this."""
        return until(
            f"the update to wait for {what}",
            lambda: (found := self.update(identity))["waiting_for"] == what and found,
        )

    def _json(self, path: str) -> dict[str, Any]:
        answer = self.api.get(path)
        assert answer.status == 200, (path, answer)
        return dict(answer.json)

    def _newer_homed(self) -> Path:
        """A homed whose store has a schema that this one does not know."""
        folder = self.folder / "newer"
        if not folder.exists():
            shutil.copytree(REPOSITORY / "homed", folder / "homed", ignore=shutil.ignore_patterns("__pycache__"))
            (folder / "homed" / "__init__.py").write_text('__version__ = "99.0.0"\n')
            schema = folder / "homed" / "store" / f"schema_v{max(migrations.steps()) + 1}.sql"
            schema.write_text("CREATE TABLE newer (id INTEGER PRIMARY KEY);\n")
        return folder

    def _off(self) -> None:
        while self._asking:
            self._asking.pop().close()
        self.bus.kill()
        self.booted = None
