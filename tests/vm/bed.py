"""All that the tests share: the machine's disk, and the bundles on a disk of their own."""

import shutil
from pathlib import Path
from typing import Final, NamedTuple

from tests.boards.rig.cache import REPOSITORY

from . import disk, root, system, tools
from .bundles import Signer
from .report import Report

_RAUC: Final = REPOSITORY / "rauc"
_FILES: Final = {
    "de.pengutronix.rauc.conf": "usr/share/dbus-1/system.d/de.pengutronix.rauc.conf",
    "grub-efi/keep-grubenv": "usr/lib/homed/keep-grubenv",
    "grub-efi/rauc.service.d/grubenv.conf": "etc/systemd/system/rauc.service.d/grubenv.conf",
    "grub-efi/system.conf": "etc/rauc/system.conf",
    "rauc.service.d/homed.conf": "etc/systemd/system/rauc.service.d/homed.conf",
}
_MEDIA: Final = 'truncate --size 600M "$2"; mke2fs -q -t ext4 -L bundles -d "$1" "$2"'

GOOD: Final = "/media/good.raucb"
DEAD: Final = "/media/dead.raucb"
SICK: Final = "/media/sick.raucb"


class Bed(NamedTuple):
    """`disk` has version 1 in slot A and nothing in B; `media` has versions 2 (good), 3 (dead) and 4 (sick)."""

    disk: Path
    media: Path
    key: str


def build(folder: Path, report: Report) -> Bed:
    """Make it all; what does not change with homed is in the cache afterwards."""
    with report.step("bed", "tools"):
        tools.tools()
        signer = Signer(folder / "pki")
    with report.step("bed", "the root of the slots"):
        root.base()
    with report.step("bed", "homed in it"):
        made = system.build(folder, _configured(folder / "files", signer.keyring))
    with report.step("bed", "bundles of a good system, of one that is dead, of one that is sick"):
        media = _media(folder, made.slot, signer)
    with report.step("bed", "the disk"):
        return Bed(disk.build(folder, made), media, made.key)


def _media(folder: Path, slot: Path, signer: Signer) -> Path:
    bundles = folder / "bundles"
    bundles.mkdir()
    for version, name in (("2", "good"), ("3", "dead"), ("4", "sick")):
        image = folder / f"{name}.ext4"
        system.variant(slot, image, version, dead=name == "dead", sick=name == "sick")
        signer.bundle(image, version, bundles / f"{name}.raucb")
        image.unlink()
    media = folder / "media.raw"
    tools.script(_MEDIA, bundles, media)
    shutil.rmtree(bundles)
    return media


def _configured(files: Path, keyring: Path) -> Path:
    """What rauc/README.md has an image bring, and the keyring of the test."""
    for source, target in _FILES.items():
        _put(_RAUC / source, files / target)
    _put(keyring, files / "etc/rauc/keyring.pem")
    return files


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
