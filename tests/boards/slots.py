"""A board with two slots and a bootloader, which RAUC's own service updates: only the hardware is played."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .rig.board import Board

COMPATIBLE: Final = "homed-board"
SLOT_SIZE: Final = 4 << 20

RELEASE: Final = "/srv/system/release"
"""What the booted slot holds: `version=2`, and `breaks=…` where the new system breaks something."""

INTACT: Final = {"ORDER": "A B", "LEFT_A": "3", "LEFT_B": "3"}
"""What the bootloader of a board knows that was just delivered."""

BOOT_ID: Final = "/run/boot-id"
"""The board's boot id, for where the one that nspawn laid over the kernel's is not seen."""

_LIB: Final = "/usr/local/lib/board"
_DATA: Final = "/var/lib/board"
_DELIVERED: Final = "".join(f'{name}="{value}"\n' for name, value in INTACT.items())
_KEYRING: Final = "/etc/rauc/keyring.pem"

# The slots are files on the board's disk, behind loop devices. The kernel frees a device when the last who has it
# open ends, also in a power cut, so none is left behind on the machine, whose devices they are. The board's /dev has
# only those that the machine had at the start; the kernel may hand out others.
_DISKS: Final = '''\
#!/usr/bin/python3
import errno, fcntl, os, signal, stat, struct
from systemd import daemon

GET_FREE, CONFIGURE, AUTOCLEAR = 0x4C82, 0x4C0A, 4

def attach(image):
    """The number of the loop device that the image is behind from now on; it stays open."""
    configuration = struct.pack("=2I52xI240x", os.open(image, os.O_RDWR), 512, AUTOCLEAR)
    control = os.open("/dev/loop-control", os.O_RDWR)
    while True:
        number = fcntl.ioctl(control, GET_FREE)
        device = os.open(f"/dev/loop{number}", os.O_RDWR)
        try:
            fcntl.ioctl(device, CONFIGURE, configuration)
            return number
        except OSError as error:  # somebody else on the machine was faster
            os.close(device)
            if error.errno != errno.EBUSY:
                raise

for number in range(64):
    if not os.path.exists(f"/dev/loop{number}"):
        os.mknod(f"/dev/loop{number}", 0o600 | stat.S_IFBLK, os.makedev(7, number))
for name in "AB":
    os.symlink(f"/dev/loop{attach(f'/var/lib/board/slot-{name}')}", f"/dev/board-{name}")
daemon.notify("READY=1")
signal.pause()
'''

# As U-Boot with RAUC's script: an order, and for each slot the attempts that it has left.
_BOOTLOADER: Final = f"""\
#!/bin/sh
set -eu
cd {_DATA}
. ./bootloader
save() {{
    printf 'ORDER="%s"\\nLEFT_A=%s\\nLEFT_B=%s\\n' "$ORDER" "$LEFT_A" "$LEFT_B" > bootloader.new
    sync bootloader.new
    mv bootloader.new bootloader
}}
left() {{ eval "echo \\$LEFT_$1"; }}
first() {{
    for name in $ORDER; do
        [ "$(left "$name")" = 0 ] || {{ echo "$name"; return; }}
    done
    return 1
}}
case $1 in
boot)
    chosen=$(first) || {{ LEFT_A=3 LEFT_B=3 chosen=${{ORDER%% *}}; }}
    eval "LEFT_$chosen=\\$((LEFT_$chosen - 1))"
    save
    echo "$chosen" > current
    cat /proc/sys/kernel/random/boot_id > {BOOT_ID}
    head -c 4096 "/dev/board-$chosen" | tr -d '\\000' > {RELEASE}
    # The new system has no RAUC that starts.
    ! grep -q breaks=rauc {RELEASE} || ln -s /dev/null /run/systemd/system/rauc.service
    echo "booting $chosen: $(tr '\\n' ' ' < {RELEASE})"
    ;;
get-primary) first ;;
set-primary)
    case $2 in A) ORDER="A B" LEFT_A=3 ;; B) ORDER="B A" LEFT_B=3 ;; esac
    save
    ;;
get-state) if [ "$(left "$2")" = 0 ]; then echo bad; else echo good; fi ;;
set-state)
    case $3 in good) eval "LEFT_$2=3" ;; bad) eval "LEFT_$2=0" ;; esac
    save
    ;;
get-current) cat current ;;
esac
"""

_DISKS_UNIT: Final = f"""\
[Unit]
Description=The disks of this board
DefaultDependencies=no
After=systemd-journald.socket
Before=sysinit.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=notify
ExecStart={_LIB}/disks

[Install]
WantedBy=sysinit.target
"""

_BOOTLOADER_UNIT: Final = f"""\
[Unit]
Description=The bootloader of this board
DefaultDependencies=no
Requires=board-disks.service
After=board-disks.service
Before=sysinit.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={_LIB}/bootloader boot

[Install]
WantedBy=sysinit.target
"""

_SYSTEM: Final = f"""\
[system]
compatible={COMPATIBLE}
bootloader=custom
bundle-formats=plain
data-directory=/var/lib/rauc
[handlers]
bootloader-custom-backend={_LIB}/bootloader
[keyring]
path={_KEYRING}
[slot.rootfs.0]
device=/dev/board-A
type=raw
bootname=A
[slot.rootfs.1]
device=/dev/board-B
type=raw
bootname=B
"""


class Slots:
    """The slots of a board, its bootloader and RAUC; the board is in slot A once this is made."""

    def __init__(self, board: Board, keyring: Path) -> None:
        self.board: Final = board
        board.run("mkdir", "-p", "/var/lib/rauc", "/srv/system")
        board.write(f"{_DATA}/bootloader", _DELIVERED)
        for name in "AB":
            board.write(f"{_DATA}/slot-{name}", release("1").ljust(SLOT_SIZE, "\0"))
        board.write("/etc/rauc/system.conf", _SYSTEM)
        board.push(keyring, _KEYRING)
        board.write(f"{_LIB}/disks", _DISKS, mode=0o755)
        board.write(f"{_LIB}/bootloader", _BOOTLOADER, mode=0o755)
        board.write("/etc/systemd/system/board-disks.service", _DISKS_UNIT)
        board.write("/etc/systemd/system/board-bootloader.service", _BOOTLOADER_UNIT)
        board.run("systemctl", "unmask", "rauc.service")
        board.run("systemctl", "daemon-reload")
        board.run("systemctl", "enable", "--now", "board-disks.service", "board-bootloader.service")

    def reset(self) -> None:
        """As delivered: both slots hold version 1, A is the primary, RAUC never installed anything. It must be off."""
        (self.board.disk / _DATA[1:] / "bootloader").write_text(_DELIVERED)
        for name in "AB":
            self.image(name).write_text(release("1").ljust(SLOT_SIZE, "\0"))
        for status in (self.board.disk / "var/lib/rauc").iterdir():
            status.unlink()

    def image(self, name: str) -> Path:
        """The file of a slot, on this machine."""
        return self.board.disk / _DATA[1:] / f"slot-{name}"

    @property
    def booted(self) -> str:
        return self.board.read(f"{_DATA}/current").strip()

    @property
    def release(self) -> str:
        """What the booted system says of itself."""
        return self.board.read(RELEASE)

    def written(self, name: str) -> str:
        """What a slot says of itself."""
        return self.board.run("sh", "-c", f"head -c 4096 /dev/board-{name} | tr -d '\\000'").stdout

    def digest(self, name: str) -> str:
        """Of all that a slot holds."""
        return self.board.run("sha256sum", f"/dev/board-{name}").stdout.split()[0]

    def bootloader(self) -> Mapping[str, str]:
        """What the bootloader will do: `ORDER`, and the attempts `LEFT_A` and `LEFT_B`."""
        lines = shlex.split(self.board.read(f"{_DATA}/bootloader"))
        return dict(line.split("=", 1) for line in lines)

    def boots(self) -> list[str]:
        """What the bootloader started since the board was delivered: slot and release, oldest first."""
        said = self.board.journal("board-bootloader.service", "--identifier=bootloader")
        return [str(entry["MESSAGE"]).removeprefix("booting ") for entry in said]

    def rauc(self) -> Any:
        """What RAUC itself says of the slots."""
        return json.loads(self.board.run("rauc", "status", "--detailed", "--output-format=json").stdout)


def release(version: str, breaks: str = "") -> str:
    """The text at the start of a slot's image."""
    return f"version={version}\n" + (f"breaks={breaks}\n" if breaks else "")
