"""Trees that change, vanish or break off while they are packed; disks that are full; operations that are stopped."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from homed.backups.archive import tar
from homed.backups.archive.pack import Packer
from homed.backups.archive.unpack import unpack
from homed.backups.archive.verify import verify
from homed.backups.records import Backup, Section
from homed.backups.worker.context import Context, Stopped
from homed.errors import BackupError, BackupSpaceError
from tests.support.archives import VOLUME, Told, check, draft, pack, put_back, snapshot

_BIG = 8 << 20


class Meddler:
    """A watch that does something once tar has begun to read: the first piece is here, the pipe is full."""

    def __init__(self, meddle: Callable[[int], object], *, every: bool = False):
        self._meddle = meddle
        self._every = every
        self._runs = 0
        self._due = False
        self.told = Told()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.told.context, name)

    @contextlib.contextmanager
    def run(self, process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
        self._runs += 1
        self._due = self._runs == 1 or self._every
        with self.told.context.run(process) as running:
            yield running

    def check(self) -> None:
        if self._due:
            self._due = False
            self._meddle(self._runs)
        self.told.context.check()


def packed_while(
    path: Path, tree: Path, meddle: Callable[[int], object], *, every: bool = False, section: Section = VOLUME
) -> tuple[Backup, list[str]]:
    watch = Meddler(meddle, every=every)
    with Packer(path, path.with_suffix(".spool"), draft(), level=1, seal=None, watch=watch) as packer:
        packer.add(section, tree)
        return packer.finish(), watch.told.warnings


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A file that does not fit the pipe, so that tar is still at it when its first piece is seen."""
    made = tmp_path / "tree"
    made.mkdir()
    (made / "big").write_bytes(b"a" * _BIG)
    return made


def content(path: Path, backup: Backup, tmp_path: Path) -> Path:
    (staged,) = put_back(path, check(path), tmp_path / "staged")
    return staged


def test_a_file_that_changed_once_is_read_again(tree: Path, tmp_path: Path) -> None:
    def grow(_: int) -> None:
        with (tree / "big").open("ab") as file:
            file.write(b"more")

    path = tmp_path / "b.tar.gz"
    backup, warnings = packed_while(path, tree, grow)
    assert (backup.sections[0].changed, backup.sections[0].changed_count, warnings) == ((), 0, [])
    assert snapshot(content(path, backup, tmp_path)) == snapshot(tree)


def test_a_file_that_shrank_is_read_again(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    backup, _ = packed_while(path, tree, lambda _: os.truncate(tree / "big", 1000))
    assert backup.sections[0].changed_count == 0
    assert (content(path, backup, tmp_path) / "big").read_bytes() == b"a" * 1000


def test_a_file_that_never_comes_to_rest_is_reported(tree: Path, tmp_path: Path) -> None:
    def touch(run: int) -> None:
        with (tree / "big").open("r+b") as file:
            file.write(b"%d" % run)
        os.utime(tree / "big", ns=(0, run))

    path = tmp_path / "b.tar.gz"
    backup, _ = packed_while(path, tree, touch, every=True)
    assert backup.sections[0].changed == ("big",)
    assert backup.sections[0].changed_count == 1
    assert (content(path, backup, tmp_path) / "big").stat().st_size == _BIG


def test_a_file_of_several_names_is_not_read_again_but_reported(tree: Path, tmp_path: Path) -> None:
    os.link(tree / "big", tree / "other name")
    path = tmp_path / "b.tar.gz"
    backup, _ = packed_while(path, tree, lambda _: os.utime(tree / "big", ns=(0, 1)))
    assert backup.sections[0].changed_count == 1
    staged = content(path, backup, tmp_path)
    assert (staged / "big").stat().st_ino == (staged / "other name").stat().st_ino


def test_a_file_that_is_renamed_into_the_tree_is_not_missed(tree: Path, tmp_path: Path) -> None:
    """As those do who write a file anew and rename it over the old one."""
    (tree / "d").mkdir()
    (tmp_path / "new").write_bytes(b"new")

    def rename(_: int) -> None:
        os.rename(tmp_path / "new", tree / "settings")
        (tree / "folder").mkdir()
        (tree / "folder" / "inside").write_bytes(b"inside")

    path = tmp_path / "b.tar.gz"
    backup, _ = packed_while(path, tree, rename)
    assert backup.sections[0].changed_count == 0
    staged = content(path, backup, tmp_path)
    assert (staged / "settings").read_bytes() == b"new"
    assert (staged / "folder" / "inside").read_bytes() == b"inside"


def test_a_file_that_is_deleted_while_it_is_read_is_reported(tree: Path, tmp_path: Path) -> None:
    def delete(_: int) -> None:
        os.truncate(tree / "big", 0)
        (tree / "big").unlink()

    path = tmp_path / "b.tar.gz"
    backup, warnings = packed_while(path, tree, delete)
    assert backup.sections[0].changed == ("big",)
    assert warnings == []
    check(path)


def test_what_turns_into_something_else_stays_what_it_was(tree: Path, tmp_path: Path) -> None:
    """A link in the place of a file must not be followed, and not be a second thing of that name."""
    (tmp_path / "secret").write_bytes(b"secret")

    def replace(_: int) -> None:
        with (tree / "big").open("ab") as file:
            file.write(b"x")
        (tree / "big").unlink()
        os.symlink(tmp_path / "secret", tree / "big")

    path = tmp_path / "b.tar.gz"
    backup, _ = packed_while(path, tree, replace)
    assert "big" in backup.sections[0].changed
    staged = content(path, backup, tmp_path)
    assert (staged / "big").stat().st_size == _BIG
    assert not (staged / "big").is_symlink()


def test_a_single_file_that_changed_is_read_again(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    section = Section(kind="path", name="/srv/big", prefix="paths/0")
    backup, _ = packed_while(path, tree / "big", lambda _: os.truncate(tree / "big", 1000), section=section)
    assert (backup.sections[0].changed_count, backup.sections[0].single) == (0, True)
    (staged,) = put_back(path, check(path), tmp_path / "staged")
    assert (staged / "file").read_bytes() == b"a" * 1000


def test_a_tree_that_is_gone_is_warned_of(tree: Path, tmp_path: Path) -> None:
    told = Told()
    path = tmp_path / "b.tar.gz"
    other = Section(kind="volume", name="other", prefix="volumes/other")
    backup = pack(path, [(VOLUME, tmp_path / "gone"), (other, tree)], told)
    assert [section.members for section in backup.sections] == [0, 2]
    assert told.warnings == ["data is not there (any more): the backup holds nothing of it"]
    assert check(path).sections == backup.sections
    staged = put_back(path, backup, tmp_path / "staged")
    assert [len(os.listdir(one)) for one in staged] == [0, 1]


def test_a_tree_that_is_deleted_meanwhile_is_no_failure(tree: Path, tmp_path: Path) -> None:
    for i in range(200):
        (tree / f"d{i}").mkdir()
        (tree / f"d{i}" / "file").write_bytes(b"x" * 10_000)

    def delete(_: int) -> None:
        subprocess.run(["rm", "-rf", tree], check=True)

    path = tmp_path / "b.tar.gz"
    packed_while(path, tree, delete)
    check(path)


def test_a_tree_that_is_neither_a_folder_nor_a_file_is_warned_of(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    told = Told()
    pack(tmp_path / "b.tar.gz", [(Section(kind="path", name="/run/fifo", prefix="paths/0"), tmp_path / "fifo")], told)
    assert len(told.warnings) == 1


def test_a_volume_that_is_written_to_all_the_time(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for i in range(50):
        (tree / f"f{i}").write_bytes(b"x" * 20_000)
    over = threading.Event()

    def write() -> None:
        round_ = 0
        while not over.is_set():
            round_ += 1
            one = tree / f"f{round_ % 50}"
            one.write_bytes(b"%d" % round_ * (round_ % 5000))
            (tree / "new").write_bytes(b"x" * 1000)
            os.rename(tree / "new", tree / f"renamed{round_ % 7}")
            if not round_ % 5:
                (tree / f"renamed{round_ % 7}").unlink()
            over.wait(0.0005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for i in range(5):
            path = tmp_path / f"{i}.tar.gz"
            backup = pack(path, [(VOLUME, tree)])
            put_back(path, check(path), tmp_path / f"staged{i}")
            assert backup.members >= 51
    finally:
        over.set()
        writer.join()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_nothing(tree: Path, tmp_path: Path, small_disk: Path) -> None:
    (tree / "noise").write_bytes(os.urandom(4 << 20))
    with pytest.raises(BackupSpaceError):
        pack(small_disk / "b.tar.gz", [(VOLUME, tree)])
    assert os.listdir(small_disk) == []


def test_a_disk_that_is_full_at_any_moment_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    """The spool and the archive lie there; what is left free grows until they fit."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for i in range(300):
        (tree / f"{i}").write_bytes(os.urandom(1000))
    fill = small_disk / "fill"
    outcomes = []
    for left in range(0, 900, 60):
        fill.write_bytes(b"")
        fill.write_bytes(bytes((2 << 20) - (left << 10)))
        try:
            pack(small_disk / "b.tar.gz", [(VOLUME, tree)])
        except BackupSpaceError:
            assert os.listdir(small_disk) == ["fill"]
            outcomes.append(False)
        else:
            check(small_disk / "b.tar.gz")
            (small_disk / "b.tar.gz").unlink()
            outcomes.append(True)
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


def test_a_full_disk_where_it_is_unpacked_or_verified(tree: Path, tmp_path: Path, small_disk: Path) -> None:
    path = tmp_path / "b.tar.gz"
    backup = pack(path, [(VOLUME, tree)])
    (small_disk / "staged").mkdir()
    with pytest.raises(BackupSpaceError):
        unpack(path, None, [(backup.sections[0], small_disk / "staged")], Told().context)
    with (small_disk / "fill").open("wb") as file, contextlib.suppress(OSError):
        file.write(bytes(4 << 20))
    with pytest.raises(BackupSpaceError):
        verify(path, small_disk / "spool", None, Told().context)
    assert not (small_disk / "spool").exists()


def test_left_without_finish_nothing_is_left(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with Packer(folder / "b", folder / "spool", draft(), level=1, seal=None, watch=Told().context) as packer:
        packer.add(VOLUME, tree)
    with (
        pytest.raises(RuntimeError),
        Packer(folder / "b", folder / "spool", draft(), level=1, seal=None, watch=Told().context),
    ):
        raise RuntimeError
    assert os.listdir(folder) == []


def test_what_is_there_already_is_not_written_over(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        pack(tmp_path / "b", [(VOLUME, tree)])
    assert (tmp_path / "b").read_bytes() == b"precious"


def test_it_can_be_stopped(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    watch = Meddler(lambda _: watch.told.context.stop())
    with (
        pytest.raises(Stopped),
        Packer(path, tmp_path / "spool", draft(), level=1, seal=None, watch=watch) as packer,
    ):
        packer.add(VOLUME, tree)
    assert sorted(os.listdir(tmp_path)) == ["tree"]
    backup = pack(path, [(VOLUME, tree)])
    stopped = Told()
    stopped.context.stop()
    with pytest.raises(Stopped):
        verify(path, tmp_path / "spool", None, stopped.context)
    (tmp_path / "staged").mkdir()
    with pytest.raises(Stopped):
        unpack(path, None, [(backup.sections[0], tmp_path / "staged")], stopped.context)


@pytest.mark.parametrize("name", [signal.SIGKILL, signal.SIGTERM])
def test_a_tar_that_is_killed_is_a_failure(tree: Path, tmp_path: Path, name: signal.Signals) -> None:
    class Killing(Meddler):
        @contextlib.contextmanager
        def run(self, process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
            with super().run(process) as running:
                self._meddle = lambda _: os.kill(process.pid, name)
                yield running

    path = tmp_path / "b.tar.gz"
    with (
        pytest.raises(BackupError, match="signal"),
        Packer(
            path, tmp_path / "spool", draft(), level=1, seal=None, watch=Killing(lambda _: None, every=True)
        ) as packer,
    ):
        packer.add(VOLUME, tree)
    assert not path.exists()
    backup = pack(path, [(VOLUME, tree)])
    (tmp_path / "staged").mkdir()
    with pytest.raises(BackupError, match="signal"):
        unpack(path, None, [(backup.sections[0], tmp_path / "staged")], Killing(lambda _: None, every=True))


def test_what_tar_cannot_read_is_a_failure_that_says_what(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = ["sh", "-c", "echo 'tar: ./db\\:1: Read error at byte 0: Input/output error' >&2; exit 2"]
    monkeypatch.setattr(tar, "create", lambda *_, **__: says)
    with pytest.raises(BackupError, match=r"data cannot be read: \./db:1: Read error"):
        pack(tmp_path / "b.tar.gz", [(VOLUME, tree)])
    assert sorted(os.listdir(tmp_path)) == ["tree"]


def test_a_stream_that_breaks_off_is_a_failure(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tar.create

    def cut(*arguments: Any, **options: Any) -> list[str]:
        command = " ".join(f"'{os.fsdecode(word)}'" for word in real(*arguments, **options))
        return ["sh", "-c", f"{command} | head -c 100000"]

    monkeypatch.setattr(tar, "create", cut)
    with pytest.raises(BackupError, match="broke off"):
        pack(tmp_path / "b.tar.gz", [(VOLUME, tree)])


def test_a_section_that_has_no_right_prefix_is_not_packed(tree: Path, tmp_path: Path) -> None:
    for wrong in (msgspec.structs.replace(VOLUME, prefix="volumes/../x"), msgspec.structs.replace(VOLUME, name="y")):
        with pytest.raises(BackupError):
            pack(tmp_path / "b.tar.gz", [(wrong, tree)])
    with pytest.raises(BackupError, match="already"):
        pack(tmp_path / "b.tar.gz", [(VOLUME, tree), (VOLUME, tree)])


def test_progress_is_told(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    counted: list[tuple[int, int]] = []

    class Counting(Context):
        def advance(self, *, bytes: int = 0, files: int = 0) -> None:
            counted.append((bytes, files))

    watch = Counting(lambda _: None, lambda _: None)
    with Packer(path, tmp_path / "spool", draft(), level=1, seal=None, watch=watch) as packer:
        packer.add(VOLUME, tree)
        packer.finish()
    assert sum(one for one, _ in counted) >= _BIG
    assert sum(files for _, files in counted) == 2
    counted.clear()
    verify(path, tmp_path / "spool", None, watch)
    assert sum(one for one, _ in counted) == path.stat().st_size
