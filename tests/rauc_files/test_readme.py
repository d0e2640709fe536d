"""The commands of `rauc/README.md` do what it says."""

import os
import re
from pathlib import Path

from tests.rauc_files.running import RAUC_FILES, need, run


def test_three_commands_make_a_signed_bundle(tree: Path, tmp_path: Path) -> None:
    need(rauc="rauc", mksquashfs="squashfs-tools", openssl="openssl")
    (commands,) = re.findall(r"^```sh\n(.*?)^```", (RAUC_FILES / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "rauc").symlink_to(RAUC_FILES)

    done = run("env", f"--chdir={tmp_path}", "sh", "-e", "-c", commands)

    assert done.returncode == 0, done.stderr
    assert "homed-raspberry-pi 1.4.0, verified with keys/keyring.pem" in done.stdout
    assert (tmp_path / "homed-1.4.0.raucb").is_file()
    assert tree.is_dir()


def test_every_file_that_is_named_is_there() -> None:
    text = (RAUC_FILES / "README.md").read_text()
    names = set(re.findall(r"`((?:[a-z-]+/)?[a-zA-Z_.-]+)`", text)) | set(re.findall(r"`([a-z.-]+/)`", text))
    found = {name for name in names if (RAUC_FILES / name).exists()}
    ours = {entry.name + "/" * entry.is_dir() for entry in os.scandir(RAUC_FILES)}

    # The table names each of them.
    assert ours - {"README.md", "rauc.service.d/", "__pycache__/"} <= found
