"""Bundles for the tests, made and signed by `rauc bundle`: good ones, slow ones, and each way of being wrong."""

import hashlib
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.boards.rig.process import command
from tests.support.pki import Authority, Signer
from tests.support.rauc import COMPATIBLE, content

IMAGE_SIZE = 2 * 2**20

_MANIFEST = """[update]
compatible={compatible}
version={version}
description=the system {version}
build=20260101

[bundle]
format=plain
{hooks}
[image.rootfs]
filename=rootfs.img
{image_hooks}
"""

# Writes half of the image and waits to be let on, or for the end of RAUC.
_SLOW = """#!/bin/sh
set -eu
[ "$1" = slot-install ] || exit 0
size=$(stat -c %s "$RAUC_IMAGE_NAME")
half=$((size / 2))
head -c "$half" "$RAUC_IMAGE_NAME" | dd of="$RAUC_SLOT_DEVICE" conv=fsync,notrunc status=none
touch {started}
while [ ! -e {gate} ]; do
    [ "$PPID" -gt 1 ] && kill -0 "$PPID" || exit 1
    sleep 0.02
done
tail -c "+$((half + 1))" "$RAUC_IMAGE_NAME" |
    dd of="$RAUC_SLOT_DEVICE" bs="$half" seek=1 conv=fsync,notrunc status=none
"""


_UNWILLING = """#!/bin/sh
[ "$1" = install-check ] || exit 0
echo "not on a Monday" >&2
exit 10
"""


@dataclass(frozen=True)
class Bundle:
    """A file, and what the slot holds once it is installed."""

    path: Path
    version: str
    image: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


class Gate:
    """What lets a slow bundle's installation on; `reached` once half of the image is written."""

    def __init__(self, folder: Path):
        self.started, self.open_ = folder / "half-written", folder / "let-on"

    @property
    def reached(self) -> bool:
        return self.started.exists()

    def open(self) -> None:
        self.open_.touch()

    def close(self) -> None:
        self.open_.unlink(missing_ok=True)
        self.started.unlink(missing_ok=True)


class Bundles:
    """Makes bundles in a folder, each once."""

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.gate = Gate(folder)
        self.authority = Authority(folder / "pki", "Homed Test CA")
        self.signer = self.authority.signer("Release 1")
        self._stranger = Authority(folder / "pki-stranger", "Somebody Else's CA").signer("Stranger")
        self._expired = self.authority.signer("Release 0", ended=True)

    def good(self, version: str = "2.0", size: int = IMAGE_SIZE) -> Bundle:
        return self._make(f"good-{version}-{size}", version, size)

    def slow(self, version: str = "2.0") -> Bundle:
        """One whose installation stops when half is written, until the gate is open."""
        started, gate = (shlex.quote(str(path)) for path in (self.gate.started, self.gate.open_))
        hook = _SLOW.format(started=started, gate=gate)
        return self._make(f"slow-{version}", version, image_hooks="hooks=install", hook=hook)

    def unwilling(self) -> Bundle:
        """One whose own hook refuses this board."""
        return self._make("unwilling", "2.0", hooks="hooks=install-check", hook=_UNWILLING)

    def too_large(self, slot_size: int) -> Bundle:
        """One with an image that is larger than the slot; it compresses well."""
        return self._make("too-large", "2.0", slot_size + 2**20, image=bytes(slot_size + 2**20))

    def incompatible(self) -> Bundle:
        return self._make("incompatible", "2.0", compatible="another-board")

    def of_a_stranger(self) -> Bundle:
        return self._make("stranger", "2.0", signer=self._stranger)

    def of_an_expired_signer(self) -> Bundle:
        return self._make("expired", "2.0", signer=self._expired)

    def tampered(self) -> Bundle:
        """One with a byte changed after it was signed."""

        def flip(data: bytearray) -> bytearray:
            data[len(data) // 2] ^= 0xFF
            return data

        return self._spoil("tampered", flip)

    def truncated(self) -> Bundle:
        """The first half of one."""
        return self._spoil("truncated", lambda data: data[: len(data) // 2])

    def nonsense(self) -> Bundle:
        """A file that is no bundle."""
        return self._spoil("nonsense", lambda data: bytearray(content("nonsense", len(data))))

    def _spoil(self, name: str, how: Callable[[bytearray], bytearray]) -> Bundle:
        good = self.good()
        path = self._folder / f"{name}.raucb"
        if not path.exists():
            path.write_bytes(how(bytearray(good.path.read_bytes())))
        return Bundle(path, good.version, good.image)

    def _make(
        self, name: str, version: str, size: int = IMAGE_SIZE, *, image: bytes | None = None, hook: str = "",
        hooks: str = "", image_hooks: str = "", compatible: str = COMPATIBLE, signer: Signer | None = None,
    ) -> Bundle:  # fmt: skip
        held = content(f"image of {version}", size) if image is None else image
        made = Bundle(self._folder / f"{name}.raucb", version, held)
        if made.path.exists():
            return made
        source = self._folder / f"{name}.d"
        source.mkdir()
        (source / "rootfs.img").write_bytes(held)
        if hook:
            (source / "hook").write_text(hook)
            (source / "hook").chmod(0o755)
            hooks = f"\n[hooks]\nfilename=hook\n{hooks}\n"
        manifest = _MANIFEST.format(compatible=compatible, version=version, hooks=hooks, image_hooks=image_hooks)
        (source / "manifest.raucm").write_text(manifest)
        by = signer or self.signer
        command("rauc", "--cert", by.certificate, "--key", by.key, "bundle", source, made.path)
        shutil.rmtree(source)
        return made
