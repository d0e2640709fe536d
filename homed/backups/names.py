"""How backups are named: NAME-YYYYMMDD-HHMMSS, and an extension that tells what stands there."""

import re
from datetime import UTC, datetime
from typing import NamedTuple

from homed.backups.records import Type
from homed.errors import NotFoundError

PLAIN, SEALED = ".tar.gz", ".age.tar"
STEM = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_NAME = re.compile(rf"({STEM})-(\d{{8}}-\d{{6}})(\.tar\.gz|\.age\.tar)?")


class Name(NamedTuple):
    """`extension` is empty for an incremental backup."""

    stem: str
    at: datetime
    extension: str

    def __str__(self) -> str:
        return f"{self.stem}-{self.at:%Y%m%d-%H%M%S}{self.extension}"


def parse(text: str) -> Name | None:
    match = _NAME.fullmatch(text)
    if match is None or not text.isascii():
        return None
    try:
        at = datetime.strptime(match[2], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return Name(match[1], at, match[3] or "")


def known(text: str) -> Name:
    """NotFoundError (BACKUP_NOT_FOUND) where it is no name that a backup can have."""
    name = parse(text)
    if name is None:
        raise NotFoundError(f"Backup '{text[:128]}' not found", code="BACKUP_NOT_FOUND")
    return name


def extension(kind: Type, *, encrypted: bool) -> str:
    if kind is Type.INCREMENTAL:
        return ""
    return SEALED if encrypted else PLAIN
