"""The boards' configurations, as RAUC reads them: from 1.8 on, where a key that it does not know is an error."""

from configparser import RawConfigParser
from pathlib import Path

import pytest

from tests.rauc_files.running import RAUC_FILES, Build, run

BOARDS = sorted(path.parent.name for path in RAUC_FILES.glob("*/system.conf"))
MANIFESTS = {"grub-efi": "grub-efi", "jetson": "jetson-orin-nano", "raspberry-pi": "raspberry-pi"}


def parsed(path: Path) -> RawConfigParser:
    parser = RawConfigParser(delimiters=("=",), comment_prefixes=("#",))
    parser.read(path)
    return parser


def here(board: str, keys: Path, folder: Path) -> Path:
    """A board's configuration with this run's keyring, and nothing written outside its folder."""
    for name in ("system.conf", "nvbootctrl-backend"):
        file = RAUC_FILES / board / name
        if file.exists():
            text = file.read_text().replace("/etc/rauc/keyring.pem", str(keys / "keyring.pem"))
            (folder / name).write_text(text.replace("/data/rauc", str(folder / "data")))
            (folder / name).chmod(0o755)
    return folder / "system.conf"


@pytest.mark.parametrize("board", BOARDS)
def test_every_rauc_takes_it_and_a_bundle_for_it(
    board: str, rauc: tuple[str | Path, ...], build: Build, tree: Path, tmp_path: Path, keys: Path
) -> None:
    config = here(board, keys, tmp_path)
    build("--manifest", RAUC_FILES / "manifests" / f"{MANIFESTS[board]}.raucm", "--version", "1", "--root", tree)

    done = run(*rauc, "-c", config, "info", tmp_path / "made.raucb")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data").is_dir()


@pytest.mark.parametrize("board", BOARDS)
def test_a_plain_bundle_is_not_for_boards(
    board: str, rauc: tuple[str | Path, ...], build: Build, tree: Path, tmp_path: Path, keys: Path
) -> None:
    config = here(board, keys, tmp_path)
    build("--compatible", "homed", "--version", "1", "--root", tree, "--format", "plain")

    done = run(*rauc, "-c", config, "info", tmp_path / "made.raucb")

    assert done.returncode != 0
    assert "Bundle format 'plain' not allowed" in done.stderr


def test_a_key_that_rauc_does_not_know_would_be_seen(rauc: tuple[str | Path, ...], keys: Path, tmp_path: Path) -> None:
    config = here("grub-efi", keys, tmp_path)
    config.write_text(config.read_text().replace("bootloader=grub", "bootloader=grub\nno-such-key=1"))

    done = run(*rauc, "-c", config, "info", tmp_path / "made.raucb")

    assert done.returncode != 0
    assert "no-such-key" in done.stderr


@pytest.mark.parametrize("board", BOARDS)
def test_a_board_s_manifest_is_for_it(board: str) -> None:
    config = parsed(RAUC_FILES / board / "system.conf")
    manifest = parsed(RAUC_FILES / "manifests" / f"{MANIFESTS[board]}.raucm")

    assert manifest["update"]["compatible"] == config["system"]["compatible"]
    classes = {name.split(".")[1] for name in config.sections() if name.startswith("slot.")}
    assert {name.split(".")[1] for name in manifest.sections() if name.startswith("image.")} == classes
    assert {config[name]["bootname"] for name in config.sections() if name.startswith("slot.")} == {"A", "B"}


def test_each_board_has_a_manifest() -> None:
    assert sorted(MANIFESTS) == BOARDS
    assert sorted(path.stem for path in (RAUC_FILES / "manifests").iterdir()) == sorted(MANIFESTS.values())
