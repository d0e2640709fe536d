"""Damaged records: set aside, kept and reported, so that the other records stay readable."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

from homed.errors import HomedError
from homed.health import Component, Level
from homed.store.base import Change, Record, Store

log = logging.getLogger(__name__)
T = TypeVar("T")
BUCKET: Final = "damaged"
_MAX_REASON_LENGTH: Final = 200
_MAX_NAMED: Final = 5
_MAX_LISTED: Final = 1000
_PAGE_BYTES: Final = 1 << 20


class Kept(NamedTuple):
    """A record that was set aside, with its bucket and key."""

    bucket: str
    key: str


async def read_all(store: Store, bucket: str, decode: Callable[[Record], T]) -> list[tuple[Record, T]]:
    """Read a bucket page by page, and set aside the records that `decode` refuses. Raises: StoreError."""
    found: list[tuple[Record, T]] = []
    after = ""
    while page := await store.list(bucket, after=after, max_bytes=_PAGE_BYTES):
        for record in page:
            value = await decoded(store, bucket, record, decode)
            if value is not None:
                found.append((record, value))
        after = page[-1].key
    return found


async def decoded(store: Store, bucket: str, record: Record, decode: Callable[[Record], T]) -> T | None:
    """Decode a record; set it aside and return None if that fails."""
    try:
        return decode(record)
    except Exception as error:  # noqa: BLE001  whatever its bytes cause, the other records must be read
        await set_aside(store, bucket, record, error)
        return None


async def set_aside(store: Store, bucket: str, record: Record, error: Exception) -> None:
    """Move a record unchanged out of its bucket, so that no reader meets it again. Log and count it."""
    why = " ".join(str(error).split())[:_MAX_REASON_LENGTH]
    log.error("Cannot read the record %s/%s, which is set aside: %s", bucket, record.key, why)
    kept = Change(BUCKET, f"{bucket}/{record.key}", record.value)
    try:
        await store.write([kept, Change(bucket, record.key, None, record.revision)])
    except HomedError as failure:
        # It stays in place, and is found again at the next start.
        log.warning("Cannot set the record %s/%s aside: %s", bucket, record.key, failure.message)


async def kept(store: Store) -> list[Kept]:
    """Return the records that were set aside, up to a limit. Raises: StoreError."""
    found: list[Kept] = []
    after = ""
    while len(found) < _MAX_LISTED and (page := await store.list(BUCKET, after=after, max_bytes=_PAGE_BYTES)):
        found += [Kept(*one.key.partition("/")[::2]) for one in page]
        after = page[-1].key
    return found[:_MAX_LISTED]


def component(found: Sequence[Kept]) -> Component:
    """Return the report for /health: degraded, not unhealthy, if records are set aside: the others are intact."""
    if not found:
        return Component(Level.HEALTHY, needed=False)
    names = [f"{one.bucket}/{one.key}" for one in found]
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    said = f"damaged records were set aside: {', '.join(names[:_MAX_NAMED])}{more} (homed state damaged)"
    return Component(Level.DEGRADED, said, needed=False)


def counts(found: Sequence[Kept]) -> Counter[str]:
    return Counter(one.bucket for one in found)
