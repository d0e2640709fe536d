"""Private keys that were uploaded as files, kept sealed for hosts that name them. Nothing serves them back."""

import asyncio
import re
from collections.abc import Container
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from homed.clock import now
from homed.errors import NotFoundError, SecretError
from homed.jobs.ssh import keys
from homed.store import damage
from homed.store.base import Store
from homed.vault import Vault

BUCKET: Final = "pem-files"
_URL: Final = "/pem-files/"
_MOST: Final = 256
_LONGEST_NAME: Final = 100


class PemFile(NamedTuple):
    """An upload: `size` in bytes."""

    name: str
    url: str
    size: int
    uploaded_at: datetime


class _Record(msgspec.Struct, frozen=True):
    secret: str
    size: int
    uploaded_at: datetime

    def __repr__(self) -> str:
        return f"_Record({self.size} bytes)"


class PemFiles:
    """The newest are kept: a host that was made with one holds the key itself, and needs the upload no more."""

    def __init__(self, store: Store, vault: Vault):
        self._store = store
        self._vault = vault
        self._lock = asyncio.Lock()

    async def put(self, filename: str, data: bytes) -> PemFile:
        """Under its own name, or one like it where another key has that. ValidationError unless it is a private key."""
        text = await keys.checked(data, "pem_file")
        async with self._lock:
            found = await damage.read_all(self._store, BUCKET, lambda record: _decode(record.value))
            known = {record.key: pem for record, pem in found}
            name = free_name(sanitised(filename), known)
            record = _Record(self._vault.seal(text, _about(name)), len(data), now())
            await self._store.put(BUCKET, name, msgspec.json.encode(record), 0)
            oldest = sorted(known, key=lambda one: known[one].uploaded_at)
            for one in oldest[: max(0, len(known) + 1 - _MOST)]:
                await self._store.delete(BUCKET, one, None)
        return PemFile(name, f"{_URL}{name}", record.size, record.uploaded_at)

    async def text(self, url: str) -> str:
        """The key itself. NotFoundError (UPLOAD_NOT_FOUND), SecretError."""
        name = url.removeprefix(_URL)
        found = await self._store.get(BUCKET, name) if url.startswith(_URL) else None
        if found is None:
            raise NotFoundError("no PEM file of this URL was uploaded", code="UPLOAD_NOT_FOUND")
        try:
            secret = _decode(found.value).secret
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SecretError(f"the PEM file {name} is damaged: upload it again") from error
        return self._vault.open(secret, _about(name))


def sanitised(filename: str) -> str:
    """A name without folders, and of letters, digits, dots, dashes and underscores."""
    base = re.split(r"[/\\]", filename)[-1]
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", base).lstrip(".-")[-_LONGEST_NAME:].lstrip(".-")
    return name or "key.pem"


def free_name(name: str, known: Container[str]) -> str:
    """The name, or with a number before its ending where it is taken."""
    stem, dot, ending = name.rpartition(".")
    stem, ending = (stem, dot + ending) if stem else (name, "")
    number, free = 1, name
    while free in known:
        number += 1
        free = f"{stem}-{number}{ending}"
    return free


def _decode(value: bytes) -> _Record:
    return msgspec.json.decode(value, type=_Record)


def _about(name: str) -> str:
    return f"{BUCKET}/{name}"
