"""The interface of a store: records in buckets, each with a revision for compare-and-set."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from homed.errors import HomedError


class Record(NamedTuple):
    """A value under a key. `revision` grows with every write of the bucket's engine and is never used twice."""

    key: str
    value: bytes
    revision: int


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

    async def list(self, bucket: str, after: str = "", limit: int | None = None) -> Sequence[Record]:
        """The records in the order of their keys: those behind the key `after`, and at most `limit` of them.

        Large buckets are read in pages.
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

    async def delete(self, bucket: str, key: str, revision: int | None) -> bool:
        """Delete likewise; False where there was nothing."""
        ...

    async def delete_all(self, bucket: str, keys: Iterable[str]) -> int:
        """Delete several, whatever is there: all of them or none. Returns how many there were."""
        ...


class AuditLog(Protocol):
    """The board's own, append-only account of changes."""

    async def append(self, entry: AuditEntry) -> None: ...

    async def entries(self, limit: int, before: int | None) -> Sequence[AuditEntry]:
        """The newest first; `before` is the id that the page before ended with."""
        ...
