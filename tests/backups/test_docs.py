"""What docs/backups.md says can be done: its commands are ones that there are, its archives open as it says."""

import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from homed import cli
from homed.config import check
from homed.config.backups import Backups as Config
from tests.backups.archive.age_program import age, new_key
from tests.support.backup_board import BackupBoard

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "backups.md").read_text(encoding="utf-8")
ROWS = b"rows of the database\n" * 1000


def blocks(kind: str) -> list[str]:
    return [text for found, text in re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.M | re.S) if found == kind]


def commands() -> Sequence[str]:
    lines = [line.partition("#")[0].strip() for text in blocks("") for line in text.splitlines()]
    inline = re.findall(r"`(homed [^`]+)`", TEXT)
    return sorted({line for line in [*lines, *inline] if line.startswith("homed ")})


def test_there_are_commands() -> None:
    assert len(commands()) > 12
    assert len(blocks("toml")) == 2 and len(blocks("sh")) == 2


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_page_is_one_that_there_is(command: str) -> None:
    assert cli._parser().parse_args(shlex.split(command)[1:]).run


def test_the_configuration_of_the_page_is_right() -> None:
    told = tomllib.loads("\n".join(blocks("toml")))
    told["backups"]["targets"] = [{"name": "nas", "url": "sftp://a@b/c"}]
    config = check(told).backups
    assert [one.name for one in config.schedules] == ["nightly", "check"]
    assert config.repository.url


def test_every_field_that_the_api_is_told_of_is_there() -> None:
    from homed.api.homei import backup_answers as answers

    for kind in (answers.NewBackup, answers.Restoring, answers.Opening, answers.Copying):
        for field in kind.__struct_fields__:
            assert f"`{field}`" in TEXT, field


async def _archive(root: Path, config: Config) -> Path:
    """A board's backup; its data was in /…/data/db, which is `paths/0`."""
    data = root / "data" / "db"
    data.mkdir(parents=True)
    (data / "rows").write_bytes(ROWS)
    os.chmod(data / "rows", 0o640)
    board = BackupBoard(root / "board", config)
    board.services.add("db", data)
    async with board:
        operation = await board.create()
        assert operation.failure is None, operation.failure
        archive: Path = board.backups.path(operation.backup)
    return archive


def _run(script: str, folder: Path, **environment: str) -> str:
    folder.mkdir()
    path = f"{Path(age()).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, **environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _is_whole(folder: Path) -> None:
    rows = folder / "paths" / "0" / "rows"
    assert rows.read_bytes() == ROWS
    assert rows.stat().st_mode & 0o777 == 0o640
    assert (folder / "state" / "homed.db").read_bytes().startswith(b"SQLite format 3")


async def test_an_archive_opens_by_hand(tmp_path: Path) -> None:
    archive = await _archive(tmp_path, Config())
    said = _run(blocks("sh")[0], tmp_path / "out", ARCHIVE=str(archive))
    _is_whole(tmp_path / "out")
    assert '"sha256"' in said and '"sections"' in said
    assert str(tmp_path / "data" / "db") in said


async def test_a_sealed_archive_opens_by_hand(tmp_path: Path) -> None:
    recipient, identity = new_key()
    archive = await _archive(tmp_path, Config(encryption="recipients", recipients=(recipient,)))
    assert archive.name.endswith(".age.tar")
    (tmp_path / "key").write_text(identity)
    _run(blocks("sh")[1], tmp_path / "out", SEALED=str(archive), IDENTITY=str(tmp_path / "key"))
    _is_whole(tmp_path / "out")
