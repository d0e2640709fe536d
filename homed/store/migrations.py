"""Bringing a database to the newest schema: `schema_vN.sql` takes it from version N-1 to N."""

import re
import sqlite3
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from homed.errors import StoreError

# No board skips so many versions: a larger number means damage.
MAX_AHEAD: Final = 50


def steps() -> dict[int, str]:
    """Every migration of this version of homed, by the version that it leads to."""
    found = {}
    for file in files("homed.store").iterdir():
        match = re.fullmatch(r"schema_v(\d+)\.sql", file.name)
        if match:
            found[int(match[1])] = file.read_text(encoding="utf-8")
    return dict(sorted(found.items()))


def migrate(connection: sqlite3.Connection, known: Mapping[int, str]) -> int:
    """Apply what is missing, each step whole or not at all. Returns the version.

    StoreError where a newer homed has written the database: reading it could misread what it holds.
    """
    newest = max(known)
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > newest:
        raise StoreError(
            f"the state was written by a newer homed (schema {version}, this one knows {newest}); "
            "install that version again, or restore the state that was kept from before its update",
            code="STATE_TOO_NEW",
        )
    for number in range(version + 1, newest + 1):
        try:
            # executescript commits what is open first, so the transaction has to stand inside the script.
            connection.executescript(f"BEGIN IMMEDIATE;\n{known[number]}\nPRAGMA user_version = {number};\nCOMMIT;")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if connection.execute("PRAGMA user_version").fetchone()[0] >= number:
                continue  # another process was first
            raise StoreError(f"the state cannot be brought to schema {number}: {error}") from error
    return newest
