import asyncio
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from homed.backups import keyring
from homed.backups.archive import age
from homed.backups.operations import Running
from homed.backups.ports import Hook, Mode
from homed.backups.records import OperationKind, State, Type
from homed.backups.worker.messages import Unlock
from homed.config.backups import BackupRepository
from homed.config.backups import Backups as Config
from tests.support.backup_board import BackupBoard


@pytest.fixture
async def board(tmp_path: Path) -> AsyncIterator[BackupBoard]:
    board = BackupBoard(tmp_path)
    data = tmp_path / "data"
    (data / "web" / "deep").mkdir(parents=True)
    (data / "web" / "deep" / "page").write_text("hello")
    os.chmod(data / "web" / "deep" / "page", 0o4711)
    (data / "web" / "link").symlink_to("deep/page")
    (data / "db").mkdir()
    (data / "db" / "rows").write_bytes(os.urandom(100_000))
    board.services.add("web", data / "web")
    board.services.add("db", data / "db", mode=Mode.PAUSED, before=Hook("dump", 5))
    board.settings.file.write_text('name = "one"\n')
    async with board:
        yield board


async def test_a_backup_holds_the_state_and_the_data_and_reads_with_tar_alone(
    board: BackupBoard, tmp_path: Path
) -> None:
    operation = await board.create(name="manual-backup")

    assert operation.failure is None
    (backup,) = board.backups.all()
    assert backup.name == operation.backup == operation.result["name"]
    assert (backup.type, backup.services, backup.encrypted) == (Type.FULL, ("db", "web"), False)
    assert backup.size == board.backups.path(backup.name).stat().st_size
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "xzf", board.backups.path(backup.name), "-C", out], check=True)
    assert (out / "paths").exists()
    assert json.loads((out / "state" / "records.json").read_text())["services"].keys() == {"db", "web"}
    assert (out / "state" / "homed.toml").read_text() == 'name = "one"\n'
    assert (out / "state" / "homed.db").read_bytes().startswith(b"SQLite format 3")
    with tarfile.open(board.backups.path(backup.name)) as archive:
        assert archive.getnames()[-1] == "manifest.jsonl"


async def test_a_paused_service_stands_still_only_while_it_is_read(board: BackupBoard) -> None:
    await board.create()

    assert board.services.acts == ["hook db", "pause db", "resume db"]
    assert board.services.paused == set()


async def test_what_is_restored_is_as_it_was(board: BackupBoard, tmp_path: Path) -> None:
    name = (await board.create()).backup
    page, rows = tmp_path / "data/web/deep/page", tmp_path / "data/db/rows"
    before, status = rows.read_bytes(), page.stat()
    page.write_text("changed")
    (tmp_path / "data/web/new").write_text("new")
    rows.unlink()
    board.services.stored.pop("web")

    operation = await board.restore(name)

    assert operation.failure is None
    assert page.read_text() == "hello"
    assert (page.stat().st_mode, page.stat().st_mtime_ns) == (status.st_mode, status.st_mtime_ns)
    assert not (tmp_path / "data/web/new").exists()
    assert os.readlink(tmp_path / "data/web/link") == "deep/page"
    assert rows.read_bytes() == before
    assert set(board.services.stored) == {"web", "db"}
    assert board.services.held == set()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["db", "web"]


async def test_a_dry_run_says_what_would_change_and_changes_nothing(board: BackupBoard, tmp_path: Path) -> None:
    name = (await board.create()).backup
    (tmp_path / "data/web/deep/page").write_text("changed")
    (tmp_path / "data/web/new").write_text("new")
    (tmp_path / "data/db/rows").unlink()
    board.services.acts.clear()

    operation = await board.restore(name, dry_run=True)

    assert operation.failure is None
    plan = operation.result["plan"]
    assert isinstance(plan, dict)
    changes = {Path(one["name"]).name: one for one in plan["changes"]}
    assert {key: changes["web"][key] for key in ("added", "changed", "unchanged", "removed")} == {
        "added": 0, "changed": 1, "unchanged": 1, "removed": 1,
    }  # fmt: skip
    assert (changes["db"]["added"], changes["db"]["first"]) == (1, ["rows"])
    assert plan["services"] == [{"name": "db", "act": "unchanged"}, {"name": "web", "act": "unchanged"}]
    assert (tmp_path / "data/web/deep/page").read_text() == "changed"
    assert board.services.acts == []


async def test_a_part_is_restored_alone(board: BackupBoard, tmp_path: Path) -> None:
    name = (await board.create()).backup
    (tmp_path / "data/web/deep/page").write_text("changed")
    (tmp_path / "data/db/rows").write_text("changed")

    operation = await board.restore(name, services=("web",), config=False)

    assert operation.failure is None
    assert (tmp_path / "data/web/deep/page").read_text() == "hello"
    assert (tmp_path / "data/db/rows").read_text() == "changed"


async def test_the_configuration_comes_back_with_the_backup(board: BackupBoard) -> None:
    name = (await board.create()).backup
    board.settings.file.write_text('name = "two"\n')

    operation = await board.restore(name, services=False, volumes=False)

    assert operation.failure is None
    assert board.settings.file.read_text() == 'name = "two"\n'  # the owner's file stays
    assert board.settings.current.name == "one"
    assert board.settings.applied == 1


_POWERFUL = """name = "theirs"
[containers]
allow_privileged = true
allow_host_root = true
[jobs]
users = ["root"]
"""


@pytest.mark.parametrize("dry_run", [True, False])
async def test_settings_that_the_file_alone_may_hold_are_not_restored_but_listed(
    board: BackupBoard, dry_run: bool
) -> None:
    board.settings.file.write_text(_POWERFUL)
    name = (await board.create()).backup
    board.settings.file.write_text('name = "mine"\n')

    operation = await board.restore(name, services=False, volumes=False, dry_run=dry_run)

    assert operation.failure is None
    shown: Any = operation.result["plan" if dry_run else "restored"]
    kept = ["containers.allow_host_root", "containers.allow_privileged", "jobs.users"]
    assert sorted(shown["settings_kept"]) == kept
    assert any(all(one in warning for one in kept) for warning in operation.warnings)
    assert board.settings.file.read_text() == 'name = "mine"\n'
    if not dry_run:
        now = board.settings.current
        assert (now.name, now.containers.allow_privileged, now.jobs.users) == ("theirs", False, ())
        assert "allow" not in (board.state / "config.json").read_text()


@pytest.mark.parametrize("mode", [0o644, 0o640])
async def test_the_file_comes_back_with_its_settings_if_that_is_asked_for(board: BackupBoard, mode: int) -> None:
    """With the mode and owner of the one that it replaces."""
    board.settings.file.write_text(_POWERFUL)
    name = (await board.create()).backup
    board.settings.file.write_text('name = "mine"\n')
    board.settings.file.chmod(mode)
    os.chown(board.settings.file, 0, 1234)

    operation = await board.restore(name, services=False, volumes=False, file_settings=True)

    assert operation.failure is None
    assert board.settings.file.read_text() == _POWERFUL
    assert board.settings.current.containers.allow_privileged
    there = board.settings.file.stat()
    assert (stat.S_IMODE(there.st_mode), there.st_uid, there.st_gid) == (mode, 0, 1234)


async def test_a_configuration_that_is_not_valid_here_is_refused_before_anything_is_touched(
    board: BackupBoard, tmp_path: Path
) -> None:
    board.settings.file.write_text("colour = 'blue'\n")
    name = (await board.create()).backup
    board.settings.file.write_text('name = "two"\n')
    board.services.acts.clear()

    operation = await board.restore(name)

    assert operation.failure is not None
    assert operation.failure.code == "CONFIG_ERROR"
    assert "colour" in operation.failure.message
    assert board.services.acts == []
    assert board.settings.file.read_text() == 'name = "two"\n'


async def test_where_homeds_part_fails_the_board_is_as_it_was(board: BackupBoard, tmp_path: Path) -> None:
    name = (await board.create()).backup
    (tmp_path / "data/web/deep/page").write_text("changed")
    board.settings.file.write_text('name = "two"\n')
    board.services.put_fails = True

    operation = await board.restore(name, file_settings=True)

    assert operation.failure is not None
    assert operation.failure.code == "STORE_ERROR"
    assert (tmp_path / "data/web/deep/page").read_text() == "changed"
    assert board.settings.file.read_text() == 'name = "two"\n'
    assert board.services.held == set()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["db", "web"]


async def test_a_damaged_archive_is_found_before_anything_is_touched(board: BackupBoard, tmp_path: Path) -> None:
    name = (await board.create()).backup
    path = board.backups.path(name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    board.services.acts.clear()

    operation = await board.restore(name)
    assert operation.failure is not None
    assert operation.failure.code == "BACKUP_DAMAGED"
    assert board.services.acts == []

    verified = await board.backups.wait((await board.backups.verify(name)).id)
    assert verified.state is State.FAILED
    assert not board.backups.get(name).whole
    assert "damaged" in (board.parts.tell().message or "")


async def test_a_backup_is_verified_and_remembers_it(board: BackupBoard) -> None:
    name = (await board.create()).backup
    operation = await board.backups.wait((await board.backups.verify(name)).id)

    assert operation.failure is None
    assert board.backups.get(name).verified_at is not None


async def test_a_backup_is_deleted(board: BackupBoard) -> None:
    name = (await board.create()).backup
    operation = await board.backups.wait((await board.backups.delete(name)).id)

    assert operation.failure is None
    assert board.backups.all() == []
    assert list(board.folder.iterdir()) == []


async def test_without_data_only_homeds_own_is_kept(board: BackupBoard) -> None:
    await board.create(include_data=False)

    (backup,) = board.backups.all()
    assert [section.kind for section in backup.sections] == ["state"]
    assert board.services.acts == []


async def test_an_archive_from_elsewhere_is_taken_when_it_was_read(board: BackupBoard, tmp_path: Path) -> None:
    name = (await board.create()).backup
    data = board.backups.path(name).read_bytes()
    await board.backups.wait((await board.backups.delete(name)).id)

    async def chunks() -> AsyncIterator[bytes]:
        for i in range(0, len(data), 65536):
            yield data[i : i + 65536]

    operation = await board.backups.wait((await board.backups.receive(name, chunks())).id)

    assert operation.failure is None
    assert board.backups.get(name).uploaded
    assert board.backups.get(name).services == ("db", "web")
    assert sorted(path.name for path in board.folder.iterdir()) == [name, f"{name}.json"]


async def test_half_an_archive_from_elsewhere_is_not_taken(board: BackupBoard) -> None:
    name = (await board.create()).backup
    data = board.backups.path(name).read_bytes()
    await board.backups.wait((await board.backups.delete(name)).id)

    async def chunks() -> AsyncIterator[bytes]:
        yield data[: len(data) // 2]

    operation = await board.backups.wait((await board.backups.receive(name, chunks())).id)

    assert operation.failure is not None
    assert operation.failure.code == "BACKUP_DAMAGED"
    assert list(board.folder.iterdir()) == []


async def test_a_sealed_archive_that_was_put_there_by_hand_is_taken_in_unopened(tmp_path: Path) -> None:
    recipient, _ = age.generate()
    config = Config(encryption="recipients", recipients=(recipient,))
    async with BackupBoard(tmp_path, config) as board:
        name = (await board.create()).backup
    (board.folder / f"{name}.json").unlink()

    async with BackupBoard(tmp_path, config) as later:
        async with asyncio.timeout(30):
            while not later.backups.all():
                await asyncio.sleep(0.05)

        backup = later.backups.get(name)
        assert (backup.encrypted, backup.verified_at) == (True, None)


async def test_an_archive_that_was_put_there_by_hand_is_taken_in(tmp_path: Path) -> None:
    async with BackupBoard(tmp_path) as board:
        name = (await board.create()).backup
    (board.folder / f"{name}.json").unlink()

    async with BackupBoard(tmp_path) as later:
        async with asyncio.timeout(30):
            while not later.backups.all():
                await asyncio.sleep(0.05)

        assert [backup.name for backup in later.backups.all()] == [name]
        assert later.backups.get(name).verified_at is not None


async def test_a_cancelled_backup_leaves_nothing_and_nobody_frozen(board: BackupBoard, tmp_path: Path) -> None:
    with (tmp_path / "data/web/large").open("wb") as file:
        for _ in range(60):
            file.write(os.urandom(1 << 20))
    from homed.backups.wishes import Wish

    operation = await board.backups.create(Wish())
    while board.backups.operations.get(operation.id).progress.phase == "preparing":
        await board.backups.operations._store.list("x")
    await board.backups.cancel(operation.id)
    ended = await board.backups.wait(operation.id)

    assert ended.state is State.CANCELLED
    assert list(board.folder.iterdir()) == []
    assert board.services.paused == set()


async def test_a_sealed_backup_opens_with_its_key_only(tmp_path: Path) -> None:
    keyring.make(tmp_path / "state" / "backup-key", "correct horse battery")
    async with BackupBoard(tmp_path, Config(encryption="passphrase")) as board:
        data = tmp_path / "data"
        data.mkdir()
        (data / "secret").write_text("the plain words of it")
        board.services.add("web", data)
        name = (await board.create()).backup
        assert name.endswith(".age.tar")
        assert board.backups.get(name).encrypted
        assert b"the plain words of it" not in board.backups.path(name).read_bytes()
        (data / "secret").write_text("changed")

        for unlock, code in ((None, "BACKUP_KEY_MISSING"), (Unlock(passphrase="wrong one here"), "BACKUP_KEY_WRONG")):
            refused = await board.restore(name, config=False, unlock=unlock)
            assert refused.failure is not None
            assert refused.failure.code == code
        assert (data / "secret").read_text() == "changed"
        operation = await board.restore(name, config=False, unlock=Unlock(passphrase="correct horse battery"))

        assert operation.failure is None
        assert (data / "secret").read_text() == "the plain words of it"


async def test_a_sealed_backup_is_verified_without_its_key(tmp_path: Path) -> None:
    recipient, identity = age.generate()
    async with BackupBoard(tmp_path, Config(encryption="recipients", recipients=(recipient,))) as board:
        name = (await board.create()).backup

        for unlock in (None, Unlock(identity=identity)):
            verified = await board.backups.wait((await board.backups.verify(name, unlock)).id)
            assert verified.failure is None
        with board.backups.path(name).open("r+b") as file:
            file.seek(-3000, os.SEEK_END)
            file.write(b"flipped")
        verified = await board.backups.wait((await board.backups.verify(name)).id)

        assert verified.failure is not None
        assert verified.failure.code == "BACKUP_DAMAGED"
        assert not board.backups.get(name).whole


async def test_where_encryption_is_on_and_there_is_no_key_nothing_is_written(tmp_path: Path) -> None:
    async with BackupBoard(tmp_path, Config(encryption="passphrase")) as board:
        operation = await board.create()

        assert operation.failure is not None
        assert operation.failure.code == "BACKUP_KEY_MISSING"
        assert list(board.folder.iterdir()) == []


async def test_a_stranger_on_the_data_keeps_a_restore_from_beginning(board: BackupBoard) -> None:
    name = (await board.create()).backup
    board.services.foreign = ["somebody"]
    board.services.acts.clear()

    operation = await board.restore(name)

    assert operation.failure is not None
    assert operation.failure.code == "BACKUP_IN_USE"
    assert board.services.acts == []


async def test_an_incremental_backup_adds_little_and_restores_all(tmp_path: Path) -> None:
    config = Config(repository=BackupRepository(url=str(tmp_path / "repository")))
    async with BackupBoard(tmp_path, config) as board:
        data = tmp_path / "data"
        for name in ("web", "db"):
            (data / name).mkdir(parents=True)
            (data / name / "large").write_bytes(os.urandom(2_000_000))
        board.services.add("web", data / "web")
        board.services.add("db", data / "db", mode=Mode.PAUSED)
        first = await board.create(type=Type.INCREMENTAL)
        assert first.failure is None
        (data / "web" / "little").write_text("new")
        second = await board.create(type=Type.INCREMENTAL)
        assert second.failure is None
        assert second.backup != first.backup
        assert board.backups.get(first.backup).size > 4_000_000
        assert board.backups.get(second.backup).size < 500_000
        assert board.services.acts == ["pause db", "resume db"] * 2
        before = (data / "db" / "large").read_bytes()
        (data / "db" / "large").write_text("lost")
        (data / "web" / "little").unlink()

        operation = await board.restore(second.backup, config=False)

        assert operation.failure is None
        assert (data / "db" / "large").read_bytes() == before
        assert (data / "web" / "little").read_text() == "new"
        verified = await board.backups.wait((await board.backups.verify(second.backup)).id)
        assert verified.failure is None
        deleted = await board.backups.wait((await board.backups.delete(second.backup)).id)
        assert deleted.failure is None
        assert [backup.name for backup in board.backups.all()] == [first.backup]


async def test_without_a_repository_there_is_no_incremental_backup(board: BackupBoard) -> None:
    operation = await board.create(type=Type.INCREMENTAL)

    assert operation.failure is not None
    assert operation.failure.code == "NO_REPOSITORY"


async def test_another_board_finds_the_snapshots_in_the_repository(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("of both boards\n")
    config = Config(repository=BackupRepository(url=str(tmp_path / "repository"), password_file=str(password)))
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("precious")
    async with BackupBoard(tmp_path / "one", config) as board:
        board.services.add("web", data)
        name = (await board.create(type=Type.INCREMENTAL)).backup
    (data / "file").unlink()

    async with BackupBoard(tmp_path / "two", config) as other:
        async with asyncio.timeout(60):
            while not other.backups.all():
                await asyncio.sleep(0.05)
        await other.idle()
        operation = await other.restore(name, config=False)

        assert operation.failure is None
        assert (data / "file").read_text() == "precious"
        assert set(other.services.stored) == {"web"}


async def test_a_backup_waits_for_the_reading_of_the_repository_that_homed_has_begun_by_itself(tmp_path: Path) -> None:
    async with BackupBoard(tmp_path) as board:
        read = asyncio.Event()

        async def reading(running: Running) -> Mapping[str, object]:
            await read.wait()
            return {}

        await board.backups.operations.begin(OperationKind.RECEIVE, "repository", reading)
        asyncio.get_running_loop().call_later(0.2, read.set)
        assert (await board.create()).state is State.SUCCEEDED
