"""What is written is read at once as a verification reads it: what would be refused later is never finished."""

import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from homed.backups.archive import tar
from homed.backups.archive.follow import Entry, heavy
from homed.backups.archive.output import Output
from homed.backups.records import Backup, Section
from homed.errors import ArchiveError, BackupError
from tests.support.archives import VOLUME, Forged, Told, check, draft, header, pack, padded, pax

_README = header(b"README", 6) + padded(b"hello\n")


def _tar_that_writes(folder: Path, data: bytes) -> Path:
    (folder / "stream").write_bytes(data)
    program = folder / "tar"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo "tar (GNU tar) 9"; else cat {folder}/stream; fi\n'
    )
    program.chmod(0o755)
    return program


_DIR = header(b"volumes/data/", flag=b"5")
_WRONG = {
    "a link under two names": _DIR + 2 * header(b"volumes/data/l", flag=b"2", link=b"x"),
    "a hard link to nothing": _DIR + header(b"volumes/data/l", flag=b"1", link=b"volumes/data/gone"),
    "a hard link to a folder": _DIR + header(b"volumes/data/l", flag=b"1", link=b"volumes/data"),
    "a name that leads out": _DIR + header(b"volumes/data/../x"),
    "a member in no folder": _DIR + header(b"volumes/data/gone/x"),
    "another section": _DIR + header(b"volumes/other/", flag=b"5"),
    "a sum that is wrong": _DIR + header(b"volumes/data/x")[:-1] + b"x",
}


@pytest.mark.parametrize("stream", _WRONG.values(), ids=_WRONG.keys())
def test_what_a_verification_would_refuse_is_no_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bytes
) -> None:
    monkeypatch.setattr(tar, "PROGRAM", str(_tar_that_writes(tmp_path, stream + bytes(1024))))
    (tmp_path / "tree").mkdir()
    path = tmp_path / "b.tar.gz"
    with pytest.raises(BackupError, match="could not be restored") as caught:
        pack(path, [(VOLUME, tmp_path / "tree")])
    assert caught.value.code == "BACKUP_ERROR"
    assert not path.exists()
    assert not list(tmp_path.glob("*.spool"))


def test_what_tar_writes_of_a_tree_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same way, with nothing wrong in it: so it is not the way that refuses."""
    stream = _DIR + header(b"volumes/data/l", flag=b"2", link=b"x")
    stream += header(b"volumes/data/l2", flag=b"1", link=b"volumes/data/l") + bytes(1024)
    monkeypatch.setattr(tar, "PROGRAM", str(_tar_that_writes(tmp_path, stream)))
    (tmp_path / "tree").mkdir()
    pack(tmp_path / "b.tar.gz", [(VOLUME, tmp_path / "tree")])
    assert check(tmp_path / "b.tar.gz").members == 4


def test_a_section_that_is_not_what_was_written_is_refused(tmp_path: Path) -> None:
    out = Output(tmp_path / "b.tar.gz", tmp_path / "spool", level=1, sealed=None)
    try:
        out.write(_README + _DIR)
        backup = Forged()
        with backup.section():
            pass
        wrong = backup.sections[0]
        for change in ({"members": 2}, {"size": 1}, {"offset": 0}, {"length": 1}, {"prefix": "volumes/other"}):
            with pytest.raises(ArchiveError):
                out.check(_draft_with(wrong, change))
        out.check(_draft_with(wrong, {}))
    finally:
        out.abandon()


def test_what_has_too_large_attributes_is_left_out_with_all_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = pax({b"SCHILY.xattr.user.x": b"x" * (9 << 20)})
    stream = _DIR + large + header(b"volumes/data/d/", flag=b"5") + header(b"volumes/data/d/e/", flag=b"5")
    stream += header(b"volumes/data/d/e/f") + large + header(b"volumes/data/f")
    stream += header(b"volumes/data/g", flag=b"1", link=b"volumes/data/f") + header(b"volumes/data/kept")
    monkeypatch.setattr(tar, "PROGRAM", str(_tar_that_writes(tmp_path, stream + bytes(1024))))
    (tmp_path / "tree").mkdir()
    told = Told()
    pack(tmp_path / "b.tar.gz", [(VOLUME, tmp_path / "tree")], told)
    names = []
    check(tmp_path / "b.tar.gz", visit=lambda section, member: names.append(member.name))
    assert names == ["", "kept"]
    assert [warning for warning in told.warnings if "8 MiB of extended attributes" in warning and "(4)" in warning]


def test_heavy_counts_headers_and_not_what_a_file_holds() -> None:
    light = Entry(b"x", "file", 20 << 20, b"", 0, (20 << 20) + 1024, b"", {})
    assert not heavy(light)
    assert heavy(Entry(b"x", "file", 0, b"", 0, 9 << 20, b"", {}))


def _draft_with(section: Section, change: dict[str, Any]) -> Backup:
    return draft(sections=(msgspec.structs.replace(section, **change),))


def test_the_file_is_for_root_alone(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    pack(tmp_path / "b.tar.gz", [(VOLUME, tmp_path / "tree")])
    assert stat.S_IMODE(os.stat(tmp_path / "b.tar.gz").st_mode) == 0o600
