"""The interface of a store: records in buckets, each with a revision for compare-and-set."""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from homed.errors import HomedError

PAGE_BYTES = 1 << 20


class Record(NamedTuple):
    """A value under a key. `revision` grows with every write of the bucket's engine and is never used twice."""

    key: str
    value: bytes
    revision: int


class Change(NamedTuple):
    """One of several atomic writes. A `value` of None deletes; `revision` is as for `put`."""

    bucket: str
    key: str
    value: bytes | None
    revision: int | None = None


class RevisionError(HomedError):
    """A compare-and-set lost: the record is not at the revision that the writer has read."""

    code = "CONFLICT"
    status = 409
    grpc = "ABORTED"


class AuditEntry(NamedTuple):
    """One change: who, what, from where, outcome. `id` grows; 0 where it is not stored yet."""

    id: int
    at: datetime
    actor: str
    action: str
    target: str
    origin: str
    status: int
    code: str
    request_id: str


class Store(Protocol):
    """What every engine offers. Nothing returns before it is durable; StoreError where it cannot be."""

    async def get(self, bucket: str, key: str) -> Record | None: ...

    async def get_all(self, bucket: str, keys: Sequence[str], max_bytes: int) -> tuple[Sequence[Record], int]:
        """Read several records at once; return those that exist, and how many of the keys were processed.

        It stops after the record that reaches `max_bytes` of values: call again for the remaining keys.
        """
        ...

    async def list(
        self, bucket: str, after: str = "", limit: int | None = None, max_bytes: int | None = None
    ) -> Sequence[Record]:
        """The records in the order of their keys: those behind the key `after`, and at most `limit` of them.

        A page ends early with the record that brings its values to `max_bytes`, so no page holds much more than that.
        Whatever can grow is read by pages (`base.pages`).
        """
        ...

    async def put(self, bucket: str, key: str, value: bytes, revision: int | None) -> int:
        """Write where the record is at `revision` (0: where there is none; None: whatever is there).

        Returns the new revision; RevisionError where it lost.
        """
        ...

    async def put_all(self, bucket: str, records: Sequence[tuple[str, bytes, int | None]]) -> Sequence[int]:
        """Write several (key, value, revision), all of them or none."""
        ...

    async def write(self, changes: Sequence[Change]) -> Sequence[int]:
        """Write and delete in several buckets atomically. Return the revision of each change."""
        ...

    async def delete(self, bucket: str, key: str, revision: int | None) -> bool:
        """Delete likewise; False where there was nothing."""
        ...

    async def delete_all(self, bucket: str, keys: Iterable[str]) -> int:
        """Delete several, whatever is there: all of them or none. Returns how many there were."""
        ...

    async def give_back(self, max_bytes: int, spare: int = 0) -> int:
        """Release space of deleted records to the disk, except `spare` bytes.

        Return the number of free bytes left inside; 0 also if the engine cannot release any.
        """
        ...

    async def start_anew(self) -> None:
        """Make the replacement of a lost state durable; does nothing for an intact state.

        Raises: StoreError, without any change.
        """
        ...


async def pages(store: Store, bucket: str, max_bytes: int = PAGE_BYTES) -> AsyncIterator[Sequence[Record]]:
    """Read a whole bucket in pages of bounded bytes."""
    after = ""
    while page := await store.list(bucket, after=after, max_bytes=max_bytes):
        yield page
        after = page[-1].key


async def records(store: Store, bucket: str) -> AsyncIterator[Record]:
    """Read a whole bucket, with one bounded page of it in memory at a time."""
    async for page in pages(store, bucket):
        for record in page:
            yield record


class AuditLog(Protocol):
    """The board's own, append-only account of changes."""

    async def append(self, entry: AuditEntry) -> None: ...

    async def entries(self, limit: int, before: int | None) -> Sequence[AuditEntry]:
        """The newest first; `before` is the id that the page before ended with."""
        ...
