"""A clone is whole, shares its blocks with its source, and leaves nothing where there can be none."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from homed.backups.worker import clone
from homed.backups.worker.context import Context, Stopped
from tests.support import filesystems

NAME = f"{clone.PREFIX}test"
SIZES = {"btrfs": 128, "xfs": 320, "ext4": 16}


def watch() -> Context:
    return Context(lambda _: None, lambda _: None)


@pytest.fixture(params=["btrfs", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    filesystems.needs_root()
    image = filesystems.make(request.param, tmp_path / "image", SIZES[request.param])
    with filesystems.mounted(image, tmp_path / "disk") as folder:
        yield folder
    image.unlink()


def write_source(source: Path) -> None:
    source.mkdir(parents=True)
    (source / "sub").mkdir(mode=0o701)
    (source / "big").write_bytes(os.urandom(4 << 20))
    (source / "small").write_text("small")
    (source / "empty").touch()
    os.link(source / "small", source / "sub/hard")
    (source / "link").symlink_to("/nowhere")
    with (source / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    os.mkfifo(source / "fifo")
    os.setxattr(source / "small", "user.note", b"kept")
    os.chown(source / "small", 1234, 4321)
    os.chmod(source / "small", 0o4755)
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(source)
        listener.bind("socket")
        os.chdir("/")
    os.utime(source / "sub", ns=(1, 10**18))
    os.utime(source, ns=(1, 10**18))


def description(root: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for path in sorted([root, *root.rglob("*")]):
        status = path.lstat()
        held = path.read_bytes() if path.is_file() and path.name != "sparse" else None
        xattrs = {} if path.is_symlink() else {name: os.getxattr(path, name) for name in os.listxattr(path)}
        where = str(path.relative_to(root))
        found.append((where, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink))
        found.append((held, xattrs))
    return found


def used(folder: Path) -> int:
    subprocess.run(["sync", "-f", str(folder)], check=True, timeout=60)
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def test_a_clone_is_as_its_source_and_takes_no_room(disk: Path) -> None:
    source = disk / "volumes/name/_data"
    write_source(source)
    before = used(disk)
    made = clone.clone(source, NAME, watch(), writable=[source])
    assert made is not None
    assert made.parent == source.parent
    assert made.name.startswith(NAME)
    assert description(made) == description(source)
    assert used(disk) - before < 2 << 20
    (source / "big").write_bytes(b"changed")
    assert (made / "big").stat().st_size == 4 << 20
    clone.remove(made)
    clone.remove(made)
    assert os.listdir(source.parent) == ["_data"]


def test_a_clone_has_the_same_name_each_time_and_replaces_what_was_left(disk: Path) -> None:
    for name in ("a", "b"):
        (disk / "data" / name).mkdir(parents=True)
        (disk / "data" / name / "file").write_text(name)
    first = [clone.clone(disk / "data" / name, NAME, watch()) for name in ("a", "b")]
    (disk / "data/a/file").write_text("later")
    again = [clone.clone(disk / "data" / name, NAME, watch()) for name in ("a", "b")]
    assert first == again
    assert again[0] is not None and again[1] is not None and again[0] != again[1]
    assert [(made / "file").read_text() for made in again if made] == ["later", "b"]
    assert sorted(clone.sweep([disk / "data/a", disk / "data/b", disk / "gone/long/ago"])) == sorted(
        made for made in again if made
    )
    assert sorted(os.listdir(disk / "data")) == ["a", "b"]


def test_a_single_file_is_cloned(disk: Path) -> None:
    (disk / "data").mkdir()
    (disk / "data/file").write_text("one file")
    made = clone.clone(disk / "data/file", NAME, watch())
    assert made is not None and made.read_text() == "one file"


def test_there_is_no_clone_of_a_mount_point_nor_across_one(disk: Path) -> None:
    (disk / "tree/file").parent.mkdir()
    (disk / "tree/file").write_text("x")
    assert clone.clone(disk, NAME, watch()) is None
    with filesystems.in_memory(disk / "tree/memory"):
        (disk / "tree/memory/file").write_text("of another filesystem")
        assert clone.clone(disk / "tree", NAME, watch()) is None
    assert [name for name in os.listdir(disk) if name != "lost+found"] == ["tree"]


def test_there_is_no_clone_where_containers_can_write(disk: Path) -> None:
    (disk / "data").mkdir()
    assert clone.clone(disk / "data", NAME, watch(), writable=[disk, disk / "data"]) is None
    assert os.listdir(disk) == ["data"]


def test_there_is_no_clone_where_the_disk_is_too_full_for_its_names(disk: Path) -> None:
    source = disk / "data"
    source.mkdir()
    for i in range(300):
        (source / f"{i:0200}").symlink_to("x" * 1000)
    try:
        with (disk / "filler").open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
    except OSError:
        pass
    made = clone.clone(source, NAME, watch())
    assert sorted(os.listdir(disk)) == sorted(["data", "filler", *([made.name] if made else [])])
    if made is not None:
        assert len(os.listdir(made)) == 300


def test_a_clone_that_is_cancelled_leaves_nothing(disk: Path) -> None:
    write_source(disk / "data")
    stopped = watch()
    stopped.stop()
    with pytest.raises(Stopped):
        clone.clone(disk / "data", NAME, stopped)
    assert os.listdir(disk) == ["data"]


def test_ext4_has_no_clones(tmp_path: Path) -> None:
    filesystems.needs_root()
    image = filesystems.make("ext4", tmp_path / "image", SIZES["ext4"])
    with filesystems.mounted(image, tmp_path / "disk") as folder:
        (folder / "data").mkdir()
        (folder / "data/file").write_text("x")
        assert not clone.can_clone(folder)
        assert clone.clone(folder / "data", NAME, watch()) is None
        assert sorted(os.listdir(folder)) == ["data", "lost+found"]


def test_there_is_no_clone_of_what_is_not_there(tmp_path: Path) -> None:
    assert clone.clone(tmp_path / "nothing", NAME, watch()) is None
    assert shutil.which("cp") is not None
    assert list(tmp_path.iterdir()) == []
