"""boot.cmd: which slot is started, and what RAUC finds afterwards.

U-Boot's shell is played by busybox's, which it descends from; its commands are functions that note what is asked of
them. In U-Boot itself (2023.01 and 2025.01, in QEMU) it was run by hand.
"""

import re
from pathlib import Path

import pytest

from tests.rauc_files.running import RAUC_FILES, need, run
from tests.support.tools import program

SCRIPT = RAUC_FILES / "raspberry-pi/boot.cmd"

COMMANDS = """
setenv() { name=$1; shift; eval "$name=\\"\\$*\\""; }
setexpr() { eval "$1=$(printf %x $((0x$2 $3 0x$4)))"; }
saveenv() { for name in BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT; do eval "echo $name=\\$$name"; done > "$saved"; }
test() {
    case "$2" in -gt) [ $(($1)) -gt $(($3)) ] ;; *) [ "$@" ] ;; esac
}
fdt() { [ "$1" = addr ] || eval "$3='console=tty1 from-the-firmware'"; }
part() { [ "$1" = uuid ] && eval "$4=uuid-of-\\${3#*:}"; }
load() {
    echo "load $*" >> "$log"
    case " $unreadable " in *" $2 "*) return 1 ;; esac
    case "$4" in boot/initrd.img) [ -n "$with_initrd" ] && filesize=beef ;; *) : ;; esac
}
booti() { echo "booti $*" >> "$log"; echo "bootargs $bootargs" >> "$log"; exit 0; }
sleep() { :; }
reset() { echo reset >> "$log"; exit 0; }
devtype=virtio; devnum=3; fdt_addr=fdt; kernel_addr_r=kernel; ramdisk_addr_r=ramdisk
. "$script"
"""


class Board:
    """U-Boot's environment, as `fw_setenv` writes it, and boots."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.saved = folder / "saved"
        self.saved.write_text("")
        self.unreadable = ""
        self.initrd = "yes"

    def set(self, **values: str) -> None:
        self.saved.write_text("".join(f"{key}={value}\n" for key, value in {**self.read(), **values}.items()))

    def read(self) -> dict[str, str]:
        return dict(line.partition("=")[::2] for line in self.saved.read_text().splitlines())

    def start(self) -> list[str]:
        """One run of the script: what it did, line by line."""
        log = self.folder / "log"
        log.write_text("")
        done = run(
            "busybox", "ash", "-c", COMMANDS,
            **self.read(), saved=str(self.saved), log=str(log), script=str(SCRIPT),
            unreadable=self.unreadable, with_initrd=self.initrd,
        )  # fmt: skip
        assert done.stderr == ""
        return log.read_text().splitlines()

    def boot(self) -> str:
        """The slot that is started, after as many resets as it takes."""
        for _ in range(20):
            lines = self.start()
            if lines[-1] != "reset":
                (slot,) = re.findall(r"rauc\.slot=(\S+)", lines[-1])
                return str(slot)
        raise AssertionError(f"it does not start: {lines}")


@pytest.fixture
def board(tmp_path: Path) -> Board:
    need(busybox="busybox-static")
    return Board(tmp_path)


def test_a_board_as_delivered_starts_its_first_system(board: Board) -> None:
    assert board.boot() == "A"
    assert board.read() == {"BOOT_ORDER": "A B", "BOOT_A_LEFT": "2", "BOOT_B_LEFT": "3"}


def test_the_kernel_is_told_where_it_comes_from(board: Board) -> None:
    board.set(BOOT_ORDER="B A", BOOT_A_LEFT="3", BOOT_B_LEFT="3")

    assert board.start() == [
        "load virtio 3:3 kernel boot/Image",
        "load virtio 3:3 ramdisk boot/initrd.img",
        "booti kernel ramdisk:beef fdt",
        "bootargs console=tty1 from-the-firmware root=PARTUUID=uuid-of-3 ro rootwait panic=10 rauc.slot=B",
    ]


def test_a_system_without_an_initrd_is_started_too(board: Board) -> None:
    board.initrd = ""

    assert "booti kernel - fdt" in board.start()


def test_a_new_system_that_never_comes_up_is_given_up_after_its_attempts(board: Board) -> None:
    board.set(BOOT_ORDER="B A", BOOT_A_LEFT="6", BOOT_B_LEFT="3")

    assert [board.boot() for _ in range(5)] == ["B", "B", "B", "A", "A"]
    assert board.read() == {"BOOT_ORDER": "B A", "BOOT_A_LEFT": "4", "BOOT_B_LEFT": "0"}


def test_a_system_that_is_marked_good_keeps_its_attempts(board: Board) -> None:
    for _ in range(10):
        assert board.boot() == "A"
        # As RAUC writes it: hexadecimal.
        board.set(BOOT_A_LEFT="a")


def test_attempts_are_hexadecimal(board: Board) -> None:
    board.set(BOOT_ORDER="A", BOOT_A_LEFT="10", BOOT_B_LEFT="0")

    board.boot()

    assert board.read()["BOOT_A_LEFT"] == "f"


def test_a_slot_that_is_marked_bad_is_not_started(board: Board) -> None:
    board.set(BOOT_ORDER="A", BOOT_A_LEFT="1", BOOT_B_LEFT="0")

    # Not even when the other one has used up its attempts: they begin anew.
    assert [board.boot() for _ in range(4)] == ["A", "A", "A", "A"]
    assert board.read()["BOOT_ORDER"] == "A"


def test_with_no_attempt_left_the_board_is_not_dead(board: Board) -> None:
    board.set(BOOT_ORDER="B A", BOOT_A_LEFT="0", BOOT_B_LEFT="0")

    assert board.start() == ["reset"]
    assert board.boot() == "B"


def test_with_both_slots_marked_bad_the_board_is_not_dead(board: Board) -> None:
    # RAUC sets an empty BOOT_ORDER, which U-Boot's environment does not hold.
    board.saved.write_text("BOOT_A_LEFT=0\nBOOT_B_LEFT=0\n")

    assert [board.boot() for _ in range(4)] == ["A", "A", "A", "B"]


def test_a_slot_that_is_half_written_costs_its_attempts_and_no_more(board: Board) -> None:
    board.set(BOOT_ORDER="B A", BOOT_A_LEFT="3", BOOT_B_LEFT="3")
    board.unreadable = "3:3"

    assert board.boot() == "A"
    assert board.read()["BOOT_B_LEFT"] == "0"


def test_the_attempt_is_counted_before_the_kernel_starts(board: Board) -> None:
    board.set(BOOT_ORDER="A B", BOOT_A_LEFT="3", BOOT_B_LEFT="3")
    board.unreadable = "3:2 3:3"

    board.start()

    assert board.read()["BOOT_A_LEFT"] == "2"


def test_mkimage_takes_it(tmp_path: Path) -> None:
    mkimage = program("u-boot-tools", "usr/bin/mkimage")
    made = tmp_path / "boot.scr"

    done = run(mkimage, "-A", "arm64", "-T", "script", "-C", "none", "-d", SCRIPT, made)

    if done.returncode == 127:
        pytest.skip(f"mkimage does not run here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert SCRIPT.read_bytes() in made.read_bytes()


def test_where_the_environment_lies_is_told_in_one_way() -> None:
    lines = [line.split() for line in (SCRIPT.parent / "fw_env.config").read_text().splitlines()]

    assert [line for line in lines if line and not line[0].startswith("#")] == [
        ["/boot/firmware/uboot.env", "0x0000", "0x4000"]
    ]
