"""The machine's disk: firmware's partition with GRUB, slots A and B, and what both share. Made without loop devices."""

import hashlib
from pathlib import Path
from typing import Final

from tests.boards.rig.cache import REPOSITORY
from tests.boards.rig.process import RigError

from . import tools
from .qemu import Machine
from .system import DATA_MIB, SLOT_MIB, System

GRUB_EFI: Final = REPOSITORY / "rauc" / "grub-efi"

_EFI_MIB: Final = 40
_SUPERBLOCK: Final = 4096
_ENVIRONMENT: Final = ("ORDER=A B", "A_OK=1", "A_TRY=0", "B_OK=0", "B_TRY=0")

# What grub.cfg of rauc/ uses, and what GRUB needs to find it.
_MODULES: Final = (
    *("part_gpt", "fat", "ext2", "normal", "linux", "loadenv", "regexp", "test", "echo", "sleep", "reboot"),
    *("configfile", "search", "search_label", "search_fs_uuid", "true", "minicmd", "all_video"),
)

# grub.cfg of rauc/ is what a board gets. Here the console is another, and time counts: after a panic, and at each
# system call, which an emulated processor need not guard against what a real one leaks.
_HERE: Final = {"console=tty0": "console=ttyS0", "panic=10": "panic=3", "quiet": "quiet mitigations=off"}

_EFI: Final = """
folder=$1 image=$2 size=$3; shift 3
cd "$folder"
grub-mkimage -O x86_64-efi -p /EFI/homed -o bootx64.efi $MODULES
grub-editenv grubenv create
grub-editenv grubenv set "$@"
truncate --size "${size}M" "$image"
mkfs.vfat -n EFI "$image" >/dev/null
mmd -i "$image" ::/EFI ::/EFI/BOOT ::/EFI/homed
mcopy -i "$image" bootx64.efi ::/EFI/BOOT/BOOTX64.EFI
mcopy -i "$image" grub.cfg grubenv ::/EFI/homed
mcopy -i "$image" grubenv ::/EFI/homed/grubenv.spare
"""

_DISK: Final = """
disk=$1 efi=$2 slot=$3 data=$4
at() { dd if="$1" of="$disk" bs=1M seek="$2" conv=notrunc,sparse status=none; }
truncate --size "$((1 + EFI + 2 * SLOT + DATA + 1))M" "$disk"
sgdisk --clear \\
    --new=1:1M:+${EFI}M --typecode=1:ef00 --change-name=1:efi \\
    --new=2:$((1 + EFI))M:+${SLOT}M --change-name=2:rootfs-a \\
    --new=3:$((1 + EFI + SLOT))M:+${SLOT}M --change-name=3:rootfs-b \\
    --new=4:$((1 + EFI + 2 * SLOT))M:+${DATA}M --change-name=4:data "$disk" >/dev/null
at "$efi" 1
at "$slot" $((1 + EFI))
at "$data" $((1 + EFI + 2 * SLOT))
"""


def build(folder: Path, system: System) -> Path:
    """A disk with the system in slot A, and nothing in B."""
    parts = folder / "efi"
    parts.mkdir()
    (parts / "grub.cfg").write_text(_script())
    efi, disk = folder / "efi.fat", folder / "disk.raw"
    modules = f"MODULES='{' '.join(_MODULES)}'"
    tools.script(f"{modules}\n{_EFI}", parts, efi, str(_EFI_MIB), *_ENVIRONMENT)
    sizes = f"EFI={_EFI_MIB} SLOT={SLOT_MIB} DATA={DATA_MIB}"
    tools.script(f"{sizes}\n{_DISK}", disk, efi, system.slot, system.shared)
    return disk


def digest(machine: Machine, slot: str) -> str:
    """The sha256 of a slot of a machine that is off, without what a kernel notes where it mounts one read-only."""
    if machine.on:
        raise RigError(f"{machine.name} is on, and its disk changes")
    copy = machine.disk.with_suffix(f".{slot}")
    first = 1 + _EFI_MIB + (SLOT_MIB if slot == "B" else 0)
    # qemu-img counts from the beginning of the disk, also where it skips.
    part = ("bs=1M", f"skip={first}", f"count={first + SLOT_MIB}")
    names = (f"if={tools.seen(machine.disk)}", f"of={tools.seen(copy)}")
    tools.run("qemu-img", "dd", "-f", "qcow2", "-O", "raw", *part, *names)
    with copy.open("rb") as file:
        # The superblock has the time of the last mount.
        file.seek(_SUPERBLOCK)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    copy.unlink()
    return found


def _script() -> str:
    """grub.cfg of rauc/, for this machine."""
    text = (GRUB_EFI / "grub.cfg").read_text()
    for board, here in _HERE.items():
        if board not in text:
            raise RigError(f"{GRUB_EFI / 'grub.cfg'} has no {board!r} to be changed for the test")
        text = text.replace(board, here)
    return text
