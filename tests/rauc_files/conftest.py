"""A development PKI, a root tree, and the versions of RAUC that can be had here."""

import os
from pathlib import Path

import pytest

from tests.boards.rig.needs import why_no_boards
from tests.boards.rig.root import board_root
from tests.rauc_files.running import RAUC_FILES, Build, Run, need, run


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pki` makes: an authority, and `ann`, who signs."""
    need(openssl="openssl")
    folder = tmp_path_factory.mktemp("pki") / "keys"
    for command in (["new", str(folder)], ["signer", str(folder), "ann"]):
        done = run(RAUC_FILES / "pki", *command)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root file system in small: a file of somebody else's, a link, a time long ago."""
    root = tmp_path / "tree"
    for name, text in {
        "etc/os-release": 'VERSION_ID="1.4.0"\n',
        "usr/bin/tool": "#!/bin/sh\n",
        "boot/Image": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        os.utime(root / name, (1_600_000_000, 1_600_000_000))
    (root / "usr/bin/tool").chmod(0o4755)
    # RAUC makes no verity bundle of less than two blocks.
    (root / "boot/Image").write_bytes(os.urandom(20_000))
    (root / "usr/bin/link").symlink_to("tool")
    return root


@pytest.fixture
def build(keys: Path, tmp_path: Path) -> Build:
    """`rauc/bundle` with ann's key, into `made.raucb`."""
    need(rauc="rauc", mksquashfs="squashfs-tools")

    def call(*arguments: str | Path, **environment: str) -> Run:
        signed = ("--cert", keys / "ann.cert.pem", "--key", keys / "ann.key.pem", "--keyring", keys / "keyring.pem")
        return run(RAUC_FILES / "bundle", *signed, *arguments, tmp_path / "made.raucb", **environment)

    return call


@pytest.fixture(scope="session", params=["machine", "board"])
def rauc(request: pytest.FixtureRequest) -> tuple[str | Path, ...]:
    """The command of a RAUC: this machine's, and that of the boards."""
    if request.param == "machine":
        need(rauc="rauc")
        return ("rauc",)
    reason = why_no_boards()
    if reason is not None:
        pytest.skip(reason)
    root = board_root()
    if not (root / "usr/bin/rauc").exists():
        pytest.skip("the boards have no RAUC")
    # Its libraries are the boards' too; nothing is mounted or entered for it.
    (loader,) = root.glob("usr/lib/*-linux-*/ld-linux-*.so.*")
    return (loader, "--library-path", loader.parent, root / "usr/bin/rauc")
