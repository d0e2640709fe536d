"""grub.cfg and the spare of its environment, run by GRUB itself: grub-emu is GRUB as a program.

Its disk is a file system in a file, on which it reads and writes the environment as it does on a board.
"""

import re
import subprocess
from pathlib import Path

import pytest

from tests.rauc_files.running import RAUC_FILES, need, run
from tests.support.tools import program

GRUB = RAUC_FILES / "grub-efi"

# It is read from a disk that GRUB calls hd0. There is no kernel that could be started.
READ = """
set root=hd0
source (hd0)/EFI/homed/grub.cfg
echo "CHOSEN $slot DEFAULT $default"
"""
# So the commands that would are told of.
TOLD = {
    'if linux "': 'if tell linux "',
    'if initrd "': 'if tell initrd "',
    "boot; fi": "tell boot; fi",
    "sleep 3": "true",
}


@pytest.fixture(scope="session")
def editenv() -> Path:
    tool = program("grub-common", "usr/bin/grub-editenv")
    if run(tool, "--version").returncode != 0:
        pytest.skip("grub-editenv does not run here: libraries are missing")
    return tool


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """GRUB, and a folder with a library in place of the one that would draw on a screen."""
    need(gcc="gcc", nm="binutils", ldd="libc-bin")
    grub = program("grub-emu", "usr/bin/grub-emu")
    folder = tmp_path_factory.mktemp("libraries")
    names = re.findall(r"\bSDL_\w+", run("nm", "--dynamic", "--undefined-only", grub).stdout)
    (folder / "none.c").write_text("".join(f"void {name}(void) {{}}\n" for name in names))
    for library in re.findall(r"(libSDL\S+) => not found", run("ldd", grub).stdout):
        run("gcc", "-shared", "-fPIC", folder / "none.c", "-o", folder / library)
    if run(grub, "--version", LD_LIBRARY_PATH=str(folder)).returncode != 0:
        pytest.skip("grub-emu does not run here: libraries are missing")
    return grub, folder


class Board:
    """The partition with GRUB's environment, and boots."""

    def __init__(self, folder: Path, emulator: tuple[Path, Path], editenv: Path):
        self.folder = folder
        self.emulator = emulator
        self.editenv = editenv
        self.disk = folder / "disk.img"
        self.files = folder / "files/EFI/homed"
        self.files.mkdir(parents=True)
        (self.files / "grub.cfg").write_bytes((GRUB / "grub.cfg").read_bytes())
        for name in ("grubenv", "grubenv.spare"):
            run(editenv, self.files / name, "create")
            run(editenv, self.files / name, "set", "ORDER=A B", "A_OK=1", "A_TRY=0", "B_OK=0", "B_TRY=0")
        (folder / "device.map").write_text(f"(hd0) {self.disk}\n")

    def set(self, *pairs: str, name: str = "grubenv") -> None:
        """As RAUC does it."""
        done = run(self.editenv, self.files / name, "set", *pairs)
        assert done.returncode == 0, done.stderr

    def read(self, name: str = "grubenv") -> dict[str, str]:
        done = run(self.editenv, self.files / name, "list")
        assert done.returncode == 0, done.stderr
        return dict(line.partition("=")[::2] for line in done.stdout.splitlines())

    def boot(self) -> str:
        """The slot that GRUB would start; its environment is afterwards as GRUB left it."""
        (slot,) = re.findall(r"CHOSEN (\S*) DEFAULT \1\b", self.run(READ + "exit\n"))
        return str(slot)

    def run(self, script: str) -> str:
        """What GRUB prints, on one line."""
        self.disk.unlink(missing_ok=True)
        run("mke2fs", "-q", "-t", "ext2", "-d", self.folder / "files", self.disk, "1M")
        (self.folder / "grub.cfg").write_text(script)
        grub, libraries = self.emulator
        said = run(
            "timeout", "30", grub, "--directory", self.folder, "--device-map", self.folder / "device.map",
            "--root", "host", LD_LIBRARY_PATH=str(libraries), TERM="dumb",
        ).stdout  # fmt: skip
        for file in ("grubenv", "grubenv.spare"):
            run("debugfs", "-R", f"dump /EFI/homed/{file} {self.files / file}", self.disk)
        return re.sub(r"\s*\n\s*", "", said)


@pytest.fixture
def board(tmp_path: Path, emulator: tuple[Path, Path], editenv: Path) -> Board:
    need(mke2fs="e2fsprogs", debugfs="e2fsprogs")
    return Board(tmp_path, emulator, editenv)


def test_a_board_as_delivered_starts_its_first_system(board: Board) -> None:
    assert board.boot() == "A"
    assert board.read() == {"ORDER": "A B", "A_OK": "1", "A_TRY": "1", "A_COUNT": "x", "B_OK": "0", "B_TRY": "0"}


def test_the_kernel_is_told_where_it_comes_from(board: Board) -> None:
    text = (board.files / "grub.cfg").read_text()
    for command, told in TOLD.items():
        assert command in text
        text = text.replace(command, told)
    (board.files / "grub.cfg").write_text(text)

    said = board.run('function tell { echo "TOLD $@"; }' + READ + "start B $partition_b $label_b\n")

    assert (
        "TOLD linux /boot/vmlinuz root=PARTLABEL=rootfs-b ro rootwait panic=10 quiet console=tty0 rauc.slot=B" in said
    )
    assert "TOLD initrd /boot/initrd.img" in said
    assert "TOLD boot" in said
    # And where that is not the end of it, as with a slot that is half written:
    assert "Slot B cannot be started" in said


def test_a_new_system_that_never_comes_up_is_given_up_after_its_attempts(board: Board) -> None:
    board.set("ORDER=B A", "B_OK=1", "B_TRY=0")

    assert [board.boot() for _ in range(4)] == ["B", "B", "B", "A"]


def test_a_system_that_is_marked_good_keeps_its_attempts(board: Board) -> None:
    for _ in range(5):
        assert board.boot() == "A"
        board.set("A_OK=1", "A_TRY=0")


def test_a_slot_that_is_marked_bad_is_not_started(board: Board) -> None:
    board.set("ORDER=B A", "B_OK=0", "B_TRY=0")

    # Not even when the other one has used up its attempts: they begin anew.
    assert [board.boot() for _ in range(5)] == ["A"] * 5


def test_a_slot_that_was_given_up_is_started_when_it_is_written_anew(board: Board) -> None:
    board.set("ORDER=B A", "B_OK=1", "B_TRY=1", "B_COUNT=xxx")
    assert board.boot() == "A"

    board.set("ORDER=B A", "B_OK=1", "B_TRY=0")

    assert board.boot() == "B"


def test_with_both_slots_marked_bad_the_board_is_not_dead(board: Board) -> None:
    board.set("ORDER=B A", "A_OK=0", "B_OK=0")

    assert [board.boot() for _ in range(4)] == ["A", "A", "A", "B"]


@pytest.mark.parametrize("left", [b"", b"\0" * 1024, b"half of it"])
def test_with_a_damaged_environment_attempts_are_counted_in_the_spare(board: Board, left: bytes) -> None:
    board.set("B_OK=1", name="grubenv.spare")
    (board.files / "grubenv").write_bytes(left)

    assert [board.boot() for _ in range(4)] == ["A", "A", "A", "B"]
    assert (board.files / "grubenv").read_bytes() == left


def test_with_no_environment_at_all_the_first_system_is_started(board: Board) -> None:
    for name in ("grubenv", "grubenv.spare"):
        (board.files / name).write_bytes(b"")

    assert board.boot() == "A"


def test_what_is_in_the_environment_cannot_be_a_command(board: Board) -> None:
    board.set("ORDER=A; reboot $(x) B", "prefix=(hd1)", "kernel=/other", "slot=B")

    said = board.run(READ + "echo KERNEL $kernel\n" + "exit\n")
    assert "CHOSEN A DEFAULT A" in said
    assert "KERNEL /boot/vmlinuz" in said


def test_grub_takes_its_syntax() -> None:
    checker = program("grub-common", "usr/bin/grub-script-check")

    done = run(checker, GRUB / "grub.cfg")

    if done.returncode == 127:
        pytest.skip("grub-script-check does not run here: libraries are missing")
    assert done.returncode == 0, done.stderr


# keep-grubenv


@pytest.fixture
def environment(tmp_path: Path, editenv: Path) -> Path:
    """A damaged environment without a spare, as `keep` finds it."""
    (tmp_path / "grubenv").write_bytes(b"")
    return tmp_path / "grubenv"


def keep(environment: Path, editenv: Path) -> subprocess.CompletedProcess[str]:
    return run(GRUB / "keep-grubenv", environment, PATH=f"{editenv.parent}:/usr/bin:/bin")


def test_the_spare_is_kept_and_comes_back(environment: Path, editenv: Path) -> None:
    run(editenv, environment, "create")
    run(editenv, environment, "set", "ORDER=B A", "B_OK=1")
    whole = environment.read_bytes()

    assert keep(environment, editenv).stderr == ""
    assert Path(f"{environment}.spare").read_bytes() == whole
    environment.write_bytes(b"")
    again = keep(environment, editenv)

    assert again.returncode == 0
    assert "spare takes its place" in again.stderr
    assert environment.read_bytes() == whole
    assert sorted(path.name for path in environment.parent.iterdir()) == ["grubenv", "grubenv.spare"]


def test_without_a_spare_both_slots_are_good(environment: Path, editenv: Path) -> None:
    done = keep(environment, editenv)

    assert done.returncode == 0, done.stderr
    assert "ORDER=A B\nA_OK=1\nA_TRY=0\nB_OK=1\nB_TRY=0\n" in run(editenv, environment, "list").stdout
    assert Path(f"{environment}.spare").read_bytes() == environment.read_bytes()
    assert sorted(path.name for path in environment.parent.iterdir()) == ["grubenv", "grubenv.spare"]
