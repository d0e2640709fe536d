"""The hooks of a bundle, called as RAUC calls them."""

import os
import shutil
from pathlib import Path

import pytest

from tests.rauc_files.running import RAUC_FILES, Run, run

ID = "0123456789abcdef0123456789abcdef\n"


class Board:
    """The root of a running system, the slot that was just written, and a bundle with homed's hooks."""

    def __init__(self, folder: Path):
        self.root, self.slot, self.bundle = folder / "root", folder / "slot", folder / "bundle"
        shutil.copytree(RAUC_FILES / "hooks", self.bundle)
        self.root.mkdir()
        self.slot.mkdir()

    def has(self, name: str, text: str, mode: int = 0o644) -> None:
        self._write(self.root / name, text, mode)

    def brings(self, name: str, text: str, mode: int = 0o644) -> None:
        self._write(self.slot / name, text, mode)

    def check(self, version: str = "2", **told: str) -> Run:
        """What RAUC sets for an install-check; it sets no more on 1.8."""
        variables = {
            "RAUC_SYSTEM_COMPATIBLE": "board",
            "RAUC_SYSTEM_VARIANT": "",
            "RAUC_MF_COMPATIBLE": "board",
            "RAUC_MF_VERSION": version,
            "RAUC_MOUNT_PREFIX": "/run/rauc",
            **told,
        }
        return run(self.bundle / "hook", "install-check", HOMED_ROOT=str(self.root), **variables)

    def write(self, **told: str) -> Run:
        """The hook after the slot was written."""
        variables = {
            "RAUC_SLOT_NAME": "rootfs.1",
            "RAUC_SLOT_CLASS": "rootfs",
            "RAUC_SLOT_TYPE": "ext4",
            "RAUC_SLOT_BOOTNAME": "B",
            "RAUC_SLOT_DEVICE": "/dev/disk/by-partlabel/rootfs-b",
            "RAUC_SLOT_MOUNT_POINT": str(self.slot),
            "RAUC_BUNDLE_MOUNT_POINT": str(self.bundle),
            **told,
        }
        return run(self.bundle / "hook", "slot-post-install", HOMED_ROOT=str(self.root), **variables)

    def _write(self, path: Path, text: str, mode: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


# install-check


def test_a_bundle_for_this_board_is_taken(board: Board) -> None:
    taken = board.check()

    assert (taken.returncode, taken.stderr) == (0, "")


def test_a_bundle_for_another_board_is_refused_in_rauc_s_own_words(board: Board) -> None:
    refused = board.check(RAUC_MF_COMPATIBLE="other board")

    assert refused.returncode == 10
    assert refused.stderr == "Compatible mismatch: Expected 'board' but bundle manifest has 'other board'\n"


def test_a_bundle_for_other_variants_is_refused(board: Board) -> None:
    (board.bundle / "conditions").write_text("variant one,a\nvariant two b\n")

    assert board.check(RAUC_SYSTEM_VARIANT="one,a").returncode == 0
    assert board.check(RAUC_SYSTEM_VARIANT="two b").returncode == 0
    for variant in ("one", "two", "", "one.a"):
        refused = board.check(RAUC_SYSTEM_VARIANT=variant)
        assert refused.returncode == 10
        assert refused.stderr.startswith("Compatible mismatch: ")
        assert refused.stderr.endswith(f"this board is '{variant}'\n")
        assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("running", "minimum", "fits"),
    [
        ("1.4.0", "1.4.0", True),
        ("1.4", "1.4.0", True),
        ("1.10.0", "1.9.3", True),
        ("2", "1.99", True),
        ("12", "2024.1", False),
        ("1.3.9", "1.4", False),
        ("1.4.0-rc1", "1.4.0", False),
        ("1.4.0", "1.4.0-rc1", True),
        ("1.4.0-rc2", "1.4.0-rc1", True),
        ("2024.01", "2024.1", True),
        ("20240115103000", "20240115103001", False),
    ],
)
def test_what_runs_may_be_too_old(board: Board, running: str, minimum: str, fits: bool) -> None:
    board.has("etc/os-release", f'ID=homed\nVERSION_ID="{running}"\n')
    (board.bundle / "conditions").write_text(f"minimum-version {minimum}\n")

    done = board.check()

    assert done.returncode == (0 if fits else 10)
    if not fits:
        assert done.stderr == (
            f"This bundle needs a running system of version {minimum} or newer, "
            f"and {running} is running: install {minimum} first\n"
        )


@pytest.mark.parametrize("line", ["VERSION_ID='3'", "VERSION_ID=3", 'VERSION_ID="3"'])
def test_a_version_is_read_however_it_is_quoted(board: Board, line: str) -> None:
    board.has("usr/lib/os-release", f"VERSION=9\n{line}\n")
    (board.bundle / "conditions").write_text("minimum-version 3\n")

    assert board.check().returncode == 0


def test_a_board_that_does_not_know_its_version_is_too_old(board: Board) -> None:
    (board.bundle / "conditions").write_text("minimum-version 3\n")

    assert board.check().returncode == 10
    board.has("etc/os-release", "VERSION_ID=\n")
    assert "names none" in board.check().stderr


# slot-post-install


def test_what_belongs_to_the_board_goes_with_it(board: Board) -> None:
    board.has("etc/machine-id", ID, 0o444)
    board.has("etc/hostname", "kitchen\n")
    board.has("etc/ssh/ssh_host_ed25519_key", "secret", 0o600)
    board.has("etc/ssh/ssh_host_ed25519_key.pub", "public")
    board.has("etc/ssh/sshd_config", "the old image's")
    board.has("etc/homed/homed.toml", "ours", 0o640)
    board.has("etc/homed/conf.d/more.toml", "more")
    (board.root / "etc/homed/conf.d").chmod(0o700)
    board.has("etc/NetworkManager/system-connections/office.nmconnection", "wifi", 0o600)
    board.has("etc/rauc/keyring.pem", "the old image's")
    board.brings("etc/machine-id", "uninitialized\n")
    board.brings("etc/ssh/sshd_config", "the new image's")
    board.brings("etc/homed/homed.toml", "the new image's")
    board.brings("etc/homed/added.toml", "the new image's")
    board.brings("etc/rauc/keyring.pem", "the new image's")

    done = board.write()

    assert (done.returncode, done.stderr) == (0, "")
    files = {str(path.relative_to(board.slot)): path for path in board.slot.rglob("*") if path.is_file()}
    assert {name: path.read_text() for name, path in files.items()} == {
        "etc/machine-id": ID,
        "etc/hostname": "kitchen\n",
        "etc/ssh/ssh_host_ed25519_key": "secret",
        "etc/ssh/ssh_host_ed25519_key.pub": "public",
        "etc/ssh/sshd_config": "the new image's",
        "etc/homed/homed.toml": "ours",
        "etc/homed/conf.d/more.toml": "more",
        "etc/homed/added.toml": "the new image's",
        "etc/NetworkManager/system-connections/office.nmconnection": "wifi",
        "etc/rauc/keyring.pem": "the new image's",
    }
    assert files["etc/ssh/ssh_host_ed25519_key"].stat().st_mode & 0o777 == 0o600
    assert files["etc/homed/homed.toml"].stat().st_mode & 0o777 == 0o640
    assert (board.slot / "etc/homed/conf.d").stat().st_mode & 0o777 == 0o700


def test_a_second_time_changes_nothing(board: Board) -> None:
    board.has("etc/machine-id", ID)
    board.has("etc/homed/homed.toml", "ours")

    def state() -> dict[Path, tuple[str, int, float]]:
        files = [path for path in board.slot.rglob("*") if path.is_file()]
        return {path: (path.read_text(), path.stat().st_mode, path.stat().st_mtime) for path in files}

    board.write()
    first = state()
    board.write()

    assert state() == first
    assert len(first) == 2


def test_owners_are_kept(board: Board) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    board.has("etc/homed/homed.toml", "ours")
    os.chown(board.root / "etc/homed", 1234, 5678)
    os.chown(board.root / "etc/homed/homed.toml", 1234, 5678)

    board.write()

    for name in ("etc/homed", "etc/homed/homed.toml"):
        status = (board.slot / name).stat()
        assert (status.st_uid, status.st_gid) == (1234, 5678)


def test_a_link_in_the_slot_never_leads_into_the_running_system(board: Board, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "id").write_text("theirs")
    board.has("etc/machine-id", ID)
    board.has("etc/hostname", "kitchen\n")
    board.has("etc/homed/homed.toml", "ours")
    (board.slot / "etc").mkdir()
    (board.slot / "etc/machine-id").symlink_to(outside / "id")
    (board.slot / "etc/homed").symlink_to(outside)

    done = board.write()

    assert done.returncode == 0
    assert (outside / "id").read_text() == "theirs"
    assert [path.name for path in outside.iterdir()] == ["id"]
    assert (board.slot / "etc/machine-id").is_symlink()
    assert (board.slot / "etc/hostname").read_text() == "kitchen\n"
    assert "/etc/machine-id is kept elsewhere" in done.stderr
    assert "/etc/homed/homed.toml is kept elsewhere" in done.stderr


def test_what_the_running_system_keeps_elsewhere_is_left_to_it(board: Board, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("kitchen\n")
    (board.root / "etc").mkdir()
    (board.root / "etc/hostname").symlink_to(tmp_path / "data")
    board.brings("etc/hostname", "new\n")

    assert board.write().returncode == 0
    assert (board.slot / "etc/hostname").read_text() == "new\n"


@pytest.mark.parametrize("value", ["", "uninitialized\n", "0123\n"])
def test_an_identity_that_is_none_is_not_spread(board: Board, value: str) -> None:
    board.has("etc/machine-id", value)
    board.brings("etc/machine-id", "uninitialized\n")

    assert board.write().returncode == 0
    assert (board.slot / "etc/machine-id").read_text() == "uninitialized\n"


def test_the_bundle_s_own_list_takes_the_place_of_the_usual_one(board: Board) -> None:
    board.has("etc/hostname", "kitchen\n")
    board.has("var/lib/app/serial", "77")
    board.has("secret", "not asked for")
    (board.bundle / "carry").write_text("# what our board has\nvar/lib/app/*\n/secret\n../secret\nnothing/here\n")

    assert board.write().returncode == 0
    files = [str(path.relative_to(board.slot)) for path in board.slot.rglob("*") if path.is_file()]
    assert files == ["var/lib/app/serial"]


def test_a_slot_that_cannot_be_written_is_left_as_it_is(board: Board) -> None:
    board.has("etc/hostname", "kitchen\n")

    raw = board.write(RAUC_SLOT_MOUNT_POINT="", RAUC_SLOT_TYPE="raw")

    assert raw.returncode == 0
    assert "not mounted (type raw)" in raw.stderr
    if os.geteuid() == 0:
        # As a mounted squashfs. In a mount namespace of its own, so nothing is left mounted.
        bind = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
        hook = [str(board.bundle / "hook"), "slot-post-install"]
        told = {"HOMED_ROOT": str(board.root), "RAUC_SLOT_MOUNT_POINT": str(board.slot)}
        read_only = run("unshare", "--mount", "sh", "-c", bind, board.slot, *hook, **told)
        assert read_only.returncode == 0, read_only.stderr
        assert "read-only" in read_only.stderr
    assert list(board.slot.iterdir()) == []


def test_a_slot_without_room_fails_the_installation(board: Board) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    board.has("etc/homed/large", "x" * 300_000)
    small = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'
    hook = [str(board.bundle / "hook"), "slot-post-install"]
    told = {"HOMED_ROOT": str(board.root), "RAUC_SLOT_MOUNT_POINT": str(board.slot)}

    full = run("unshare", "--mount", "sh", "-c", small, board.slot, *hook, **told)

    assert full.returncode == 1
    assert "slot hook: cannot copy /etc/homed/large" in full.stderr


def test_nvidia_s_boot_loader_is_pointed_at_the_slot_that_it_lies_in(board: Board, tmp_path: Path) -> None:
    before = "LABEL primary\n      LINUX /boot/Image\n      APPEND ${cbootargs} root=PARTUUID=old rw rootwait quiet\n"
    board.brings("boot/extlinux/extlinux.conf", f"TIMEOUT 30\n{before}")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "blkid").write_text('#!/bin/sh\n[ "$5" = /dev/disk/by-partlabel/rootfs-b ] && echo new-id\n')
    (programs / "blkid").chmod(0o755)

    for _ in range(2):
        done = board.write(PATH=f"{programs}:{os.environ['PATH']}")
        assert (done.returncode, done.stderr) == (0, "")

    assert (board.slot / "boot/extlinux/extlinux.conf").read_text() == (
        "TIMEOUT 30\nLABEL primary\n      LINUX /boot/Image\n"
        "      APPEND ${cbootargs} rw rootwait quiet root=PARTUUID=new-id rauc.slot=B\n"
    )


def test_a_board_of_nvidia_s_whose_partition_has_no_id_is_not_left_unbootable(board: Board) -> None:
    board.brings("boot/extlinux/extlinux.conf", "APPEND root=PARTUUID=old\n")

    assert board.write(RAUC_SLOT_DEVICE="/nowhere").returncode == 1


# The one program that RAUC runs


def test_before_a_slot_is_written_nothing_is_done(board: Board) -> None:
    board.has("etc/hostname", "kitchen\n")

    done = run(board.bundle / "hook", "slot-pre-install", RAUC_SLOT_MOUNT_POINT=str(board.slot))

    assert done.returncode == 0
    assert list(board.slot.iterdir()) == []


def test_a_hook_that_is_not_there_is_no_success(board: Board) -> None:
    for name in ("slot-install", "something", ""):
        done = run(board.bundle / "hook", name)
        # Not 10 and above: that would say that the bundle does not fit.
        assert done.returncode == 1
