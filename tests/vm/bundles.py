"""Signed bundles, built by what rauc/ gives to those who build images."""

from pathlib import Path
from typing import Final

from tests.boards.rig.cache import REPOSITORY

from . import tools

_RAUC: Final = REPOSITORY / "rauc"
_MANIFEST: Final = _RAUC / "manifests" / "grub-efi.raucm"

# By default a bundle is packed with gzip, which takes three quarters of a minute here, and RAUC asks for nothing else.
_QUICKLY: Final = """\
#!/bin/sh
exec /usr/bin/mksquashfs "$@" -comp zstd -Xcompression-level 1
"""


class Signer:
    """A certificate authority of the test's own, and a signer that it vouches for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = folder.with_suffix(".programs")
        self._programs.mkdir()
        (self._programs / "mksquashfs").write_text(_QUICKLY)
        (self._programs / "mksquashfs").chmod(0o755)
        tools.run(_RAUC / "pki", "new", folder)
        tools.run(_RAUC / "pki", "signer", folder, "test")

    @property
    def keyring(self) -> Path:
        """What a board trusts."""
        return self._folder / "keyring.pem"

    def bundle(self, image: Path, version: str, target: Path) -> None:
        """A bundle of a slot's image."""
        certificate, key = self._folder / "test.cert.pem", self._folder / "test.key.pem"
        signature = ("--cert", certificate, "--key", key, "--keyring", self.keyring)
        what = ("--manifest", _MANIFEST, "--version", version, "--image", image)
        tools.run("env", f"PATH={tools.seen(self._programs)}:{tools.PATH}", _RAUC / "bundle", *what, *signature, target)
