"""homed on the guest's root, as the image of a slot; and the images that differ from it in what is broken."""

import shutil
from pathlib import Path
from typing import Final, NamedTuple

from tests.boards.homed import build_wheel, installation
from tests.boards.rig.cache import REPOSITORY
from tests.boards.rig.install import HOME, LOCKS, dependencies
from tests.boards.rig.process import contained

from . import tools
from .root import base

# The image is smaller than its slot, as it is on a board: RAUC has the file system fill the partition.
IMAGE_MIB: Final = 320
SLOT_MIB: Final = 384
DATA_MIB: Final = 256

VERSION_FILE: Final = "/etc/board-version"

# A check that fails where there is this file: a system that boots and serves, but does not do its work.
SICK_FILE: Final = "/etc/board-sick"

_CONFIG: Final = f"""\
[api]
host = "0.0.0.0"

[api.limits]
enabled = false

[updates]
deadline = 45
soak = 5

[[updates.checks]]
name = "work"
command = ["/usr/bin/test", "!", "-e", "{SICK_FILE}"]
"""

# The slot is mounted read-only; what is written goes to /data, which both slots share.
_MAKE: Final = f"""
set -eu
work=$1 lower=$2 wheel=$3 units=$4 files=$5 installation=$6
root=$work/root
mkdir -p "$root" "$work/upper" "$work/scratch"
mount -t overlay slot -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/scratch" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mkdir "$root/tmp/homed"
cp -r "$units" "$root/tmp/homed/units"
cp "$wheel" "$root/tmp/homed"
inside() {{ chroot "$root" env -i PATH=/usr/sbin:/usr/bin LANG=C.UTF-8 PIP_DISABLE_PIP_VERSION_CHECK=1 sh -euc "$1"; }}
inside '{HOME}/bin/pip install --quiet --no-cache-dir --root-user-action=ignore --no-index --no-deps /tmp/homed/*.whl'
inside "cd /tmp/homed; $installation"
inside 'systemctl enable homed.service'
inside 'homed key create test --scope admin' | tail -n 1 >"$work/key"
umount -l "$root/dev" "$root/proc"
rm -rf "$root/tmp/homed" "$root/var/lib/dpkg" "$root/var/lib/apt" "$root/var/cache" "$root/run/homed"
mv "$root"/boot/vmlinuz-* "$root/boot/vmlinuz"
mv "$root"/boot/initrd.img-* "$root/boot/initrd.img"
rm -f "$root"/vmlinuz* "$root"/initrd.img*
cp -r "$files/." "$root/"
mkdir -p "$root/boot/efi" "$root/data" "$root/var/cache" "$work/shared/rauc"
cp -a "$root/var" "$work/shared/var"
find "$root/var" -mindepth 1 -delete
cp -a "$root" "$work/slot"
"""

_IMAGE: Final = """
truncate --size "$3M" "$2"
mke2fs -q -t ext4 -J size=4 -E root_owner=0:0 -d "$1" "$2"
"""


class System(NamedTuple):
    """The image of a slot, that of what the slots share, and a key to homed's API."""

    slot: Path
    shared: Path
    key: str


def build(folder: Path, files: Path) -> System:
    """homed as it is in this repository, on a Debian, with `files` over it. A few seconds."""
    wheel = build_wheel(folder)
    root = base()
    lower = f"{dependencies(root, *LOCKS)}:{root}"
    work = folder / "system"
    (files / "etc/homed").mkdir(parents=True)
    (files / "etc/homed/homed.toml").write_text(_CONFIG)
    (files / VERSION_FILE.lstrip("/")).write_text("1\n")
    arguments = (work, lower, wheel, REPOSITORY / "units", files, installation())
    contained("sh", "-c", _MAKE, "make", *arguments, timeout=300)
    slot, shared = folder / "slot.ext4", folder / "shared.ext4"
    tools.script(_IMAGE, work / "slot", slot, str(IMAGE_MIB))
    tools.script(_IMAGE, work / "shared", shared, str(DATA_MIB))
    key = (work / "key").read_text().strip()
    shutil.rmtree(work)
    return System(slot, shared, key)


def variant(slot: Path, target: Path, version: str, *, dead: bool = False, sick: bool = False) -> None:
    """Another system: `dead` has an init that ends at once, so that the kernel panics; `sick` fails homed's check."""
    edits = [f"rm {VERSION_FILE}", f"write {tools.seen(_text(target, version))} {VERSION_FILE}"]
    if dead:
        edits += ["rm /usr/sbin/init", "symlink /usr/sbin/init /usr/bin/false"]
    if sick:
        edits.append(f"write /dev/null {SICK_FILE}")
    orders = target.with_suffix(".debugfs")
    orders.write_text("\n".join(edits) + "\n")
    tools.run("cp", "--sparse=always", slot, target)
    tools.run("debugfs", "-w", "-f", orders, target)


def _text(target: Path, version: str) -> Path:
    path = target.with_suffix(".version")
    path.write_text(f"{version}\n")
    return path
