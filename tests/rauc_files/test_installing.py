"""All of it together: the Jetson's configuration and backend, homed's hooks, and RAUC's own service, which installs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boards.rig.process import spawn
from tests.rauc_files.nvbootctrl import Jetson
from tests.rauc_files.running import RAUC_FILES, Build, Run, need, run
from tests.support.rauc import Slot, SystemBus, end, why_no_rauc
from tests.support.wait import until

ID = "0123456789abcdef0123456789abcdef\n"


class Board:
    """A Jetson whose partitions are loop devices, and whose running system is a folder."""

    def __init__(self, folder: Path, keyring: Path):
        self.folder = folder
        self.jetson = Jetson(folder)
        self.root = folder / "root"
        self.bus = SystemBus(folder)
        self.slots = [Slot(folder, "rootfs.0", "A"), Slot(folder, "rootfs.1", "B")]
        shutil.copy(RAUC_FILES / "jetson/nvbootctrl-backend", folder)
        self.config = folder / "system.conf"
        text = (RAUC_FILES / "jetson/system.conf").read_text()
        for here, there in (
            ("/etc/rauc/keyring.pem", keyring),
            ("/data/rauc", folder / "data/rauc"),
            # Kernels of development machines need not have dm-verity.
            ("bundle-formats=-plain", "bundle-formats=plain verity"),
            ("/dev/disk/by-partlabel/APP_b", self.slots[1].device),
            ("/dev/disk/by-partlabel/APP", self.slots[0].device),
        ):
            assert here in text
            text = text.replace(here, str(there))
        self.config.write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DBUS_SYSTEM_BUS_ADDRESS": self.bus.address,
            "NVBOOTCTRL": str(self.folder / "nvbootctrl"),
            "NVBOOTCTRL_MARKS": str(self.jetson.marks),
            "NVBOOTCTRL_EFIVARS": str(self.folder),
            "HOMED_ROOT": str(self.root),
        }

    def rauc(self, *arguments: str | Path) -> Run:
        return run("rauc", "-c", self.config, *arguments, **self.environment)

    def file(self, name: str) -> str:
        """A file of the second slot."""
        return run("debugfs", "-R", f"cat {name}", self.slots[1].device).stdout


@pytest.fixture
def board(tmp_path: Path, keys: Path) -> Iterator[Board]:
    reason = why_no_rauc()
    if reason is not None:
        pytest.skip(reason)
    need(resize2fs="e2fsprogs", debugfs="e2fsprogs")
    board = Board(tmp_path, keys / "keyring.pem")
    service = None
    try:
        board.bus.start()
        # What RAUC mounts is in a namespace that goes with it.
        command = ("unshare", "--mount", "--", "rauc", "-c", board.config, "--mount", tmp_path / "mounts", "service")
        with (tmp_path / "rauc.log").open("wb") as log:
            service = spawn([*command, "--override-boot-slot=A"], {**os.environ, **board.environment}, log)
        until("RAUC's service", lambda: board.bus.owns("de.pengutronix.rauc"))
        yield board
    finally:
        end(service)
        board.bus.close()
        for slot in board.slots:
            slot.close()


def test_an_update_is_installed_with_what_belongs_to_the_board(board: Board, build: Build, tree: Path) -> None:
    for name, text in (
        ("etc/machine-id", ID),
        ("etc/homed/homed.toml", "ours"),
        ("etc/os-release", "VERSION_ID=1.4\n"),
    ):
        (board.root / name).parent.mkdir(parents=True, exist_ok=True)
        (board.root / name).write_text(text)
    manifest = ("--manifest", RAUC_FILES / "manifests/jetson-orin-nano.raucm", "--format", "plain", "--size", "12M")

    # One that does not fit is refused before anything is written.
    build(*manifest, "--version", "3", "--root", tree, "--minimum-version", "2.0")
    too_new = board.rauc("install", board.folder / "made.raucb")
    assert too_new.returncode != 0
    assert "Bundle rejected: Hook returned: " in too_new.stdout + too_new.stderr
    assert "version 2.0 or newer, and 1.4 is running" in too_new.stdout + too_new.stderr
    assert board.jetson.ask("get-state", "B") == "good"
    assert board.slots[1].holds(bytes(4096))

    # One that fits is the next to be booted, has the board's own files, and fills its partition.
    build(*manifest, "--version", "2", "--root", tree, "--minimum-version", "1.4")
    installed = board.rauc("install", board.folder / "made.raucb")
    assert installed.returncode == 0, installed.stdout + installed.stderr
    assert board.jetson.ask("get-primary") == "B"
    assert board.file("/etc/machine-id") == ID
    assert board.file("/etc/homed/homed.toml") == "ours"
    assert board.file("/etc/os-release") == 'VERSION_ID="1.4.0"\n'
    assert "Block count:              4096" in run("dumpe2fs", "-h", board.slots[1].device).stdout

    # Its marks reach nvbootctrl.
    assert board.rauc("status", "mark-bad", "other").returncode == 0
    assert board.jetson.ask("get-primary") == "A"
    board.jetson.set(retries=[1, 3])
    assert board.rauc("status", "mark-good").returncode == 0
    assert board.jetson.get("retries") == [3, 3]
