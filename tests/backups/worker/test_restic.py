"""Incremental backups, by the real restic: what goes in comes out, and what goes wrong is told as what it is."""

import contextlib
import os
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from homed.backups.records import Backup, Type
from homed.backups.worker import restic, restic_process
from homed.backups.worker.context import Context, Stopped
from homed.backups.worker.messages import Repository
from homed.backups.worker.restic_process import AbsentError
from homed.errors import ArchiveError, BackupConflictError, BackupError, BackupSpaceError, RemoteError
from tests.support import filesystems
from tests.support.restic import put_on_path, rest_server
from tests.support.sshd import sshd
from tests.support.wait import until

PASSWORD = "restic-test-password"
NAME = "data-20260101-000000"


@pytest.fixture(autouse=True)
def _restic(monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(monkeypatch)
    monkeypatch.setattr(restic_process, "_PATIENCE", 2.0)


class Counted(Context):
    bytes = files = 0

    def advance(self, *, bytes: int = 0, files: int = 0) -> None:
        self.bytes += bytes
        self.files += files


class Board:
    """A tree, an operation's folder, and a repository."""

    def __init__(self, folder: Path, repository: Repository):
        self.folder = folder
        self.repository = repository
        self.watch = Counted(lambda _: None, lambda _: None)
        self.work = folder / "work" / "op"
        self.work.mkdir(parents=True)
        self.tree = folder / "tree"
        self.tree.mkdir()
        (self.tree / "file").write_bytes(os.urandom(100_000))

    def save(self, *paths: Path, known: bool = False, parent: str | None = None) -> restic.Saved:
        return restic.backup(
            self.repository, paths or [self.tree], self.work, self.watch, known=known, parent=parent, tags=["x"]
        )

    def restore(self, snapshot: str, stored: Path, into: Path) -> None:
        into.mkdir(parents=True)
        restic.restore(self.repository, snapshot, str(stored), into, self.work, self.watch)
        assert os.listdir(into.parent) == [into.name]

    def check(self) -> None:
        restic.check(self.repository, self.work, self.watch)

    def other(self, **changes: object) -> "Board":
        """The same with another repository."""
        self.repository = msgspec.structs.replace(self.repository, **changes)
        return self


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path, Repository(str(tmp_path / "repository"), PASSWORD))


def fill(tree: Path) -> None:
    (tree / "sub").mkdir(mode=0o2751)
    (tree / "sub/small").write_text("small")
    os.link(tree / "sub/small", tree / "hard")
    (tree / "link").symlink_to("/nowhere")
    os.mkfifo(tree / "fifo")
    with (tree / "sparse").open("wb") as file:
        file.seek(4 << 20)
        file.write(b"end")
    (tree / "sub/name [x] *? ä").write_text("a name with signs")
    os.setxattr(tree / "file", "user.note", b"kept")
    if os.geteuid() == 0:
        os.chown(tree / "file", 1234, 4321)
        os.chown(tree, 12, 34)
        os.chmod(tree / "file", 0o4750)
    os.setxattr(tree, "user.root", b"of the tree itself")
    tree.chmod(0o711)
    for path in (tree / "file", tree / "sub", tree):
        os.utime(path, ns=(10**18, 10**18 + 7))


def description(root: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for path in sorted([root, *root.rglob("*")]):
        status = path.lstat()
        is_file = stat.S_ISREG(status.st_mode)
        content = path.read_bytes() if is_file else os.readlink(path) if path.is_symlink() else None
        xattrs = {} if path.is_symlink() else {name: os.getxattr(path, name) for name in os.listxattr(path)}
        modified = None if path.is_symlink() else status.st_mtime_ns
        where = str(path.relative_to(root))
        owner = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink if is_file else 0)
        found.append((where, *owner, modified, content, xattrs))
    return found


def test_what_is_saved_comes_back_as_it_was(board: Board) -> None:
    fill(board.tree)
    saved = board.save()
    assert saved.files == 5
    assert saved.size >= 100_000
    assert saved.added > 100_000
    assert (saved.unread, saved.unread_count) == ((), 0)
    assert (board.watch.bytes, board.watch.files) == (saved.size, saved.files)
    into = board.folder / "held" / "new"
    board.restore(saved.snapshot, board.tree, into)
    assert description(into) == description(board.tree)


def test_one_path_of_many_comes_back_alone_and_a_file_as_a_file(board: Board) -> None:
    paths = [board.folder / name for name in ("plain", "with [signs]*", "with xsignsx")]
    for path in paths:
        path.mkdir()
        (path / "file").write_text(path.name)
    saved = board.save(*paths, paths[0] / "file")
    for i, path in enumerate(paths):
        into = board.folder / f"held-{i}" / "new"
        board.restore(saved.snapshot, path, into)
        assert [(one.name, one.read_text()) for one in into.iterdir()] == [("file", path.name)]
    into = board.folder / "held-file" / "new"
    board.restore(saved.snapshot, paths[0] / "file", into)
    assert (into / "file").read_text() == "plain"
    with pytest.raises(ArchiveError, match="does not hold"):
        board.restore(saved.snapshot, board.folder / "never", board.folder / "held-none" / "new")


def test_a_second_backup_adds_what_is_new_alone(board: Board) -> None:
    first = board.save()
    (board.tree / "more").write_bytes(os.urandom(1000))
    second = board.save(parent=first.snapshot, known=True)
    assert second.added < 20_000
    assert second.size == first.size + 1000
    assert [one.id[:8] for one in restic.snapshots(board.repository, board.work, board.watch)] == [
        first.snapshot[:8],
        second.snapshot[:8],
    ]


def test_a_parent_that_the_repository_has_lost_is_done_without(board: Board) -> None:
    board.save()
    assert board.save(parent="0badbeef", known=True).files == 1


def test_what_is_excluded_is_left_out_by_its_name_alone(board: Board) -> None:
    for name in ("left [out]", "left o"):
        (board.tree / name).mkdir()
        (board.tree / name / "file").touch()
    exclude = [str(board.tree / "left [out]")]
    saved = restic.backup(board.repository, [board.tree], board.work, board.watch, exclude=exclude, known=False)
    into = board.folder / "held" / "new"
    board.restore(saved.snapshot, board.tree, into)
    assert sorted(os.listdir(into)) == ["file", "left o"]


def test_clones_of_the_same_files_are_not_read_again(board: Board) -> None:
    def save(parent: str | None) -> restic.Saved:
        return restic.backup(
            board.repository, [board.tree], board.work, board.watch, cloned=True, parent=parent, known=False
        )

    first = save(None)
    whole = (board.tree / "file").stat()
    content = bytearray((board.tree / "file").read_bytes())
    content[0] ^= 1
    (board.tree / "file").unlink()
    (board.tree / "file").write_bytes(content)  # what a clone never is: another content with the same times and size
    os.utime(board.tree / "file", ns=(whole.st_atime_ns, whole.st_mtime_ns))
    assert save(first.snapshot).added < 20_000


def test_a_repository_that_is_there_is_never_made_anew(board: Board) -> None:
    board.save()
    board.other(password="another")
    with pytest.raises(ArchiveError, match="password") as caught:
        board.save()
    assert caught.value.code == "BACKUP_KEY_WRONG"
    assert len(os.listdir(board.folder / "repository" / "keys")) == 1


def test_a_repository_that_is_gone_is_not_made_where_there_was_one(board: Board) -> None:
    with pytest.raises(AbsentError):
        board.save(known=True)
    assert not (board.folder / "repository").exists()


def test_a_repository_is_not_made_in_a_folder_that_holds_something(board: Board) -> None:
    saved = board.save()
    (board.folder / "repository" / "config").unlink()
    with pytest.raises(AbsentError):
        board.save()
    assert not (board.folder / "repository" / "config").exists()
    assert saved.snapshot
    board.other(url=str(board.folder / "not-mounted" / "repository"))
    with pytest.raises(AbsentError):
        board.save()
    assert not (board.folder / "not-mounted").exists()


def test_a_repository_that_cannot_be_reached_is_told_as_that(board: Board) -> None:
    board.other(url="rest:http://127.0.0.1:9/repository")
    with pytest.raises(RemoteError) as caught:
        board.save()
    assert not isinstance(caught.value, AbsentError)
    assert "refused" in caught.value.message


def test_no_secret_is_told(board: Board) -> None:
    board.other(url="rest:http://user:very-secret@127.0.0.1:9/repository")
    with pytest.raises(RemoteError) as caught:
        board.save()
    assert "very-secret" not in caught.value.message


def test_no_secret_stands_in_a_command_line(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = subprocess.Popen

    def start(arguments: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        seen.extend(arguments)
        return real(arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    environment = {"AWS_SECRET_ACCESS_KEY": "s3-very-secret"}
    board.other(url=f"local:{board.folder}/repository", environment=environment)
    board.save()
    assert seen
    assert not any(secret in word for word in seen for secret in (PASSWORD, "s3-very-secret", "local:"))


@pytest.mark.parametrize("what", ["data", "index"])
def test_a_flipped_bit_is_noticed(what: str, board: Board) -> None:
    board.save()
    board.check()
    files = [path for path in (board.folder / "repository" / what).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.chmod(0o600)
    largest.write_bytes(content)
    with pytest.raises(ArchiveError) as caught:
        board.check()
    assert caught.value.code == "BACKUP_DAMAGED"


def test_snapshots_are_forgotten_and_what_only_they_held(board: Board) -> None:
    first = board.save()
    (board.tree / "file").write_bytes(os.urandom(200_000))
    second = board.save()
    restic.forget(board.repository, [first.snapshot, "0badbeef"], board.work, board.watch)
    restic.forget(board.repository, [first.snapshot], board.work, board.watch)
    restic.forget(board.repository, [], board.work, board.watch)
    (left,) = restic.snapshots(board.repository, board.work, board.watch)
    assert left.id.startswith(second.snapshot[:8])
    size = sum(path.stat().st_size for path in (board.folder / "repository/data").rglob("*") if path.is_file())
    assert size < 250_000
    board.check()
    with pytest.raises(RemoteError, match="no such snapshot"):
        board.restore(first.snapshot, board.tree, board.folder / "held" / "new")


@contextlib.contextmanager
def in_the_middle(board: Board) -> Iterator[threading.Thread]:
    """A backup that has begun, and is ended in the block."""
    failed: list[BaseException] = []

    def save() -> None:
        try:
            board.save()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=save)
    thread.start()
    locks = board.folder / "repository" / "locks"
    until("restic's lock", lambda: locks.is_dir() and bool(os.listdir(locks)), deadline=30)
    yield thread
    thread.join(30)
    assert not thread.is_alive()
    assert failed


def restic_processes(board: Board) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"restic") and os.fsencode(board.work.parent / "restic-cache") in words:
                    found.append(int(entry.name))
    return found


def test_a_backup_that_was_killed_is_done_again_and_its_lock_is_no_hindrance(board: Board) -> None:
    board.save()
    (board.tree / "large").write_bytes(os.urandom(150 << 20))
    with in_the_middle(board):
        for pid in restic_processes(board):
            os.kill(pid, signal.SIGKILL)
    assert len(restic.snapshots(board.repository, board.work, board.watch)) == 1
    assert os.listdir(board.folder / "repository" / "locks")
    saved = board.save()
    restic.forget(board.repository, [saved.snapshot], board.work, board.watch)  # which wants it for itself
    board.check()


def test_a_backup_that_is_cancelled_ends_at_once_and_leaves_no_snapshot(board: Board) -> None:
    board.save()
    (board.tree / "large").write_bytes(os.urandom(150 << 20))
    with in_the_middle(board):
        board.watch.stop()
    assert restic_processes(board) == []
    with pytest.raises(Stopped):
        board.check()
    fresh = Context(lambda _: None, lambda _: None)
    assert len(restic.snapshots(board.repository, board.work, fresh)) == 1


def test_a_full_disk_is_told_as_that_and_the_repository_stays_whole(board: Board) -> None:
    with filesystems.in_memory(board.folder / "disk", megabytes=4):
        board.other(url=str(board.folder / "disk" / "repository"))
        board.save()
        (board.tree / "large").write_bytes(os.urandom(8 << 20))
        with pytest.raises(BackupSpaceError) as caught:
            board.save()
        assert caught.value.code == "BACKUP_NO_SPACE"
        (board.tree / "large").unlink()
        assert len(restic.snapshots(board.repository, board.work, board.watch)) == 1


def test_what_cannot_be_read_is_named_and_the_rest_saved(board: Board) -> None:
    unreadable = Path(f"/proc/{os.getpid()}/mem")
    saved = board.save(board.tree, unreadable)
    assert (saved.unread, saved.unread_count) == ((str(unreadable),), 1)
    assert len(restic.snapshots(board.repository, board.work, board.watch)) == 1
    board.restore(saved.snapshot, board.tree, board.folder / "held" / "new")


def test_the_records_in_a_repository_are_found_by_a_board_that_has_none(board: Board) -> None:
    record = Backup(name=NAME, type=Type.INCREMENTAL, created_at=datetime(2026, 1, 1, tzinfo=UTC), size=0, board="one")
    path = board.folder / "state" / restic.RECORD
    path.parent.mkdir()
    path.write_bytes(msgspec.json.encode(record))
    saved = board.save(board.tree, path)
    board.save()  # of another kind: without a record
    path.write_bytes(b'{"of": "another version"}')
    board.save(board.tree, path)
    (found,) = restic.adopt(board.repository, board.work, board.watch)
    assert found.snapshot is not None and found.snapshot.startswith(saved.snapshot[:8])
    assert msgspec.structs.replace(found, snapshot=None, repository=None) == record


def test_a_repository_behind_rest(board: Board) -> None:
    (board.folder / "served").mkdir()
    with rest_server(board.folder / "served") as url:
        goes_round(board.other(url=f"{url}repository"))


def test_a_repository_behind_sftp(board: Board) -> None:
    (board.folder / "sshd").mkdir()
    with sshd(board.folder / "sshd", shell=False) as server:
        key, known = board.folder / "key", board.folder / "known"
        key.write_text(server.key)
        key.chmod(0o600)
        known.write_text(server.known_hosts(server.port))
        options = f"-F none -i {key} -o UserKnownHostsFile={known} -o BatchMode=yes -p {server.port}"
        command = f"ssh {options} {server.user}@127.0.0.1 -s sftp"
        url = f"sftp:{server.user}@127.0.0.1:{board.folder}/served"
        goes_round(board.other(url=url, environment={"SFTP_COMMAND": command}))


def goes_round(board: Board) -> None:
    with pytest.raises(AbsentError):
        board.save(known=True)
    saved = board.save()
    board.check()
    into = board.folder / "held" / "new"
    board.restore(saved.snapshot, board.tree, into)
    assert description(into) == description(board.tree)
    board.other(password="another")
    with pytest.raises(ArchiveError) as caught:
        board.save()
    assert caught.value.code == "BACKUP_KEY_WRONG"


def test_a_board_without_restic_says_what_is_missing(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BackupError, match="restic, which is not installed"):
        board.save()


@contextlib.contextmanager
def _another_restic(board: Board, *on: str) -> Iterator[int]:
    """One that has a lock on the repository and waits for what it is to save; its process id."""
    process = subprocess.Popen(
        [*on, "restic", "-q", "backup", "--stdin"],
        env={**os.environ, "RESTIC_REPOSITORY": board.repository.url, "RESTIC_PASSWORD": PASSWORD},
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until("its lock", lambda: any((Path(board.repository.url) / "locks").iterdir()), deadline=60)
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def _on_a_host_named(name: str) -> tuple[str, ...]:
    if subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a host name of one process's own cannot be had here")
    return ("unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh")


def test_a_lock_of_another_host_is_named_at_once_and_removed_if_that_is_said(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(restic_process.Restic, "_pause", lambda _, seconds: waits.append(seconds))
    board.save()
    with _another_restic(board, *_on_a_host_named("nas")):
        pass  # it is killed: its lock stays
    with pytest.raises(BackupConflictError, match=r"'nas'.*homed backup unlock") as caught:
        board.check()
    assert (caught.value.code, caught.value.details["host"]) == ("BACKUP_LOCKED", "nas")
    assert waits == [1.0, 2.0]
    (removed,) = restic.unlock(board.repository, board.work, board.watch, force=False)
    assert removed.hostname == "nas"
    board.check()
    assert restic.unlock(board.repository, board.work, board.watch, force=False) == []


@pytest.mark.thorough
def test_a_lock_of_a_restic_that_runs_here_stays_unless_it_is_forced(board: Board) -> None:
    board.save()
    with _another_restic(board) as pid:
        with pytest.raises(BackupConflictError, match="of this board") as caught:
            restic.unlock(board.repository, board.work, board.watch, force=False)
        assert (caught.value.code, caught.value.details["pid"]) == ("BACKUP_LOCKED", pid)
        assert len(list((Path(board.repository.url) / "locks").iterdir())) == 1
        (removed,) = restic.unlock(board.repository, board.work, board.watch, force=True)
        assert removed.pid == pid
    board.check()
