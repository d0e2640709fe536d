"""Where a tree is staged: in reach of one rename, out of the reach of containers, by no link of theirs."""

import os
from pathlib import Path

import pytest

from homed.backups.worker import disk, staging
from homed.backups.worker.staging import Kind
from homed.errors import ArchiveError, BackupError
from tests.support import filesystems

ID = "op1"


@pytest.fixture
def board(tmp_path: Path) -> Path:
    (tmp_path / "data" / "app").mkdir(parents=True)
    return tmp_path


def test_a_volume_is_staged_beside_its_data(board: Path) -> None:
    data = board / "volumes/name/_data"
    data.mkdir(parents=True)
    place = staging.place(data, ID, writable=[data])
    assert (place.base, place.kind, place.exposed, place.parents) == (data.parent, Kind.BESIDE, False, ())
    assert place.tree.parent == place.holder
    assert place.holder.name.startswith(".homed-new-op1-")
    assert not place.holder.exists()


def test_two_targets_in_one_folder_have_two_places(board: Path) -> None:
    assert staging.place(board / "data/app", ID).holder != staging.place(board / "data/other", ID).holder


def test_what_is_missing_above_a_target_is_told(board: Path) -> None:
    place = staging.place(board / "data/x/y/z", ID)
    assert place.base == board / "data"
    assert place.parents == (board / "data/x", board / "data/x/y")


def test_nothing_is_staged_where_a_container_can_write(board: Path) -> None:
    writable = [board / "data", board / "data/app"]
    place = staging.place(board / "data/app", ID, writable=writable)
    assert (place.base, place.exposed) == (board, False)
    place = staging.place(board / "data/new/deep", ID, writable=writable)
    assert (place.base, place.parents) == (board, (board / "data/new",))


def test_a_mount_point_is_staged_in_itself_and_told_to_be_exposed(board: Path) -> None:
    with filesystems.in_memory(board / "data/app"):
        place = staging.place(board / "data/app", ID, writable=[board / "data/app"])
        assert (place.kind, place.base, place.exposed) == (Kind.INSIDE, board / "data/app", True)
        # What lies in the mount, with the mount itself being a container's: it cannot be hidden from it.
        place = staging.place(board / "data/app/sub", ID, writable=[board / "data/app"])
        assert (place.kind, place.base, place.exposed) == (Kind.BESIDE, board / "data/app", True)


def test_a_mount_of_a_folder_of_the_same_filesystem_is_a_mount_point_too(board: Path) -> None:
    (board / "source").mkdir()
    with filesystems.bound(board / "source", board / "data/app"):
        assert staging.place(board / "data/app", ID).kind is Kind.INSIDE


def test_a_target_with_a_mount_in_it_is_refused(board: Path) -> None:
    with (
        filesystems.in_memory(board / "data/app/with space"),
        pytest.raises(BackupError, match="with space is mounted in it"),
    ):
        staging.place(board / "data/app", ID)


def test_a_file_that_is_mounted_is_refused(board: Path) -> None:
    for name in ("one", "other"):
        (board / name).touch()
    with filesystems.bound(board / "one", board / "other"), pytest.raises(BackupError, match="a file that is mounted"):
        staging.place(board / "other", ID, single=True)


@pytest.mark.parametrize("leads", ["..", "/etc"])
def test_a_link_where_a_container_can_write_is_not_followed(leads: str, board: Path) -> None:
    (board / "data/planted").symlink_to(leads)
    for target in ("data/planted", "data/planted/below", "data/planted/x/y"):
        with pytest.raises(ArchiveError, match="planted is a link") as caught:
            staging.place(board / target, ID, writable=[board / "data"])
        assert caught.value.code == "BACKUP_UNSAFE"


def test_a_link_in_a_folder_that_others_can_write_is_not_followed(board: Path) -> None:
    (board / "data/link").symlink_to("app")
    (board / "data").chmod(0o777)
    with pytest.raises(ArchiveError, match="is a link"):
        staging.place(board / "data/link", ID)


def test_a_link_of_roots_is_followed_once_for_all(board: Path) -> None:
    (board / "there").symlink_to(board / "data")
    (board / "again").symlink_to("there/../there/app")
    assert staging.place(board / "again" / "x", ID).target == board / "data/app/x"
    assert staging.place(board / "again", ID).target == board / "data/app"


def test_links_in_a_circle_are_refused(board: Path) -> None:
    (board / "a").symlink_to("b")
    (board / "b").symlink_to("a")
    with pytest.raises(BackupError):
        staging.place(board / "a", ID)


@pytest.mark.parametrize("target", ["/", "relative", "/tmp/../etc"])
def test_what_is_no_place_for_data_is_refused(target: str) -> None:
    with pytest.raises(BackupError, match="not a place"):
        staging.place(Path(target), ID)


@pytest.mark.parametrize("id", ["", "../x", "a/b", ".x", "x" * 65])
def test_an_id_that_is_no_name_is_refused(id: str, board: Path) -> None:
    with pytest.raises(BackupError, match="id"):
        staging.place(board / "data", id)


def test_a_file_in_the_way_of_a_target_is_refused(board: Path) -> None:
    (board / "file").touch()
    with pytest.raises((BackupError, OSError)):
        staging.place(board / "file/below", ID)


def test_a_folder_is_opened_by_no_link(board: Path) -> None:
    (board / "link").symlink_to("data")
    with pytest.raises(NotADirectoryError), disk.folder(board / "link" / "app"):
        pass


def test_a_tree_is_removed_whatever_is_in_it(board: Path) -> None:
    outside = board / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    tree = board / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    os.mkfifo(tree / "fifo")
    deep = os.open(tree, os.O_RDONLY)
    for _ in range(1500):  # deeper than a path may be long
        os.mkdir("d" * 100, dir_fd=deep)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    with disk.folder(board) as folder:
        disk.remove((folder, "tree"))
        disk.remove((folder, "tree"))
    assert sorted(os.listdir(board)) == ["data", "outside"]
    assert (outside / "kept").exists()


def test_what_is_mounted_in_a_tree_is_not_removed_with_it(board: Path) -> None:
    (board / "source").mkdir()
    (board / "source/precious").touch()
    (board / "tree/mount").mkdir(parents=True)
    with filesystems.bound(board / "source", board / "tree/mount"), disk.folder(board) as folder:
        with pytest.raises(BackupError, match="is mounted in it"):
            disk.remove((folder, "tree"))
        assert (board / "source/precious").exists()


def test_nothing_is_renamed_over_another(board: Path) -> None:
    (board / "one").write_text("one")
    (board / "other").write_text("other")
    with disk.folder(board) as folder, pytest.raises(FileExistsError):
        disk.move((folder, "one"), (folder, "other"))
    assert (board / "other").read_text() == "other"
