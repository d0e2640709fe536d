"""What homed knows of each backup, and of each operation on one. Plain data: it says, and decides nothing."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec


class Type(StrEnum):
    """`full`: one archive that needs nothing else. `incremental`: a snapshot in the restic repository."""

    FULL = "full"
    INCREMENTAL = "incremental"


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One tree of a backup. `kind` is `state`, `volume` or `path`; `name` the volume's name or the path on the board.

    `prefix` is its path in the archive (`volumes/data`), `stored` its path on the board when it was read. `users` are
    the services that mount it; `single` is true if the path is a file. `changed` are files that changed during every
    attempt to read them (at most 100 names), `changed_count` their number. `cloned`: read from an instant clone. `size`
    in bytes excludes the holes of sparse files, `apparent_size` includes them (0: not known). `snapshot` is the restic
    snapshot that holds it, if it is not the backup's own. `offset` and `length`: the position of its members in the
    archive, in bytes of the tar before compression.
    """

    kind: str
    name: str
    prefix: str
    users: tuple[str, ...] = ()
    single: bool = False
    stored: str = ""
    members: int = 0
    size: int = 0
    apparent_size: int = 0
    capture: str = "live"
    cloned: bool = False
    snapshot: str | None = None
    changed: tuple[str, ...] = ()
    changed_count: int = 0
    offset: int = 0
    length: int = 0


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """One backup, as its record beside it (`NAME.json`) and the API tell. `size` in bytes, on the disk or added to the
    repository; `data_size` is what it holds. `digest` is the SHA-256 of a sealed archive: what lies there can be told
    from what was written without opening it.
    """

    name: str
    type: Type
    created_at: datetime
    size: int
    data_size: int = 0
    members: int = 0
    include_data: bool = True
    encrypted: bool = False
    homed: str = ""
    schema: int = 0
    board: str = ""
    architecture: str = ""
    services: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    schedule: str | None = None
    duration: float = 0.0
    snapshot: str | None = None
    repository: str | None = None
    verified_at: datetime | None = None
    damage: str | None = None
    copies: tuple[str, ...] = ()
    uploaded: bool = False
    digest: str | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is known to be wrong with it."""
        return self.damage is None


class OperationKind(StrEnum):
    CREATE = "create"
    RESTORE = "restore"
    VERIFY = "verify"
    COPY = "copy"
    RECEIVE = "receive"
    DELETE = "delete"
    PRUNE = "prune"
    RECOVER = "recover"
    UNLOCK = "unlock"


class State(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Failure(msgspec.Struct, frozen=True):
    """The failure of an operation: a stable code, and a message for people. `kind` is the error's class, or empty."""

    code: str
    message: str
    details: Mapping[str, object] = {}
    kind: str = ""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far an operation is. `service` is the one being captured; `remaining` an estimate in seconds."""

    phase: str = "preparing"
    bytes: int = 0
    bytes_total: int | None = None
    files: int = 0
    service: str | None = None
    percent: float | None = None
    remaining: float | None = None


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One run of something on a backup. `schedule` names the schedule that began it; `result` is what it tells."""

    id: str
    kind: OperationKind
    backup: str
    state: State = State.RUNNING
    progress: Progress = Progress()
    started_at: datetime
    finished_at: datetime | None = None
    schedule: str | None = None
    failure: Failure | None = None
    warnings: tuple[str, ...] = ()
    result: Mapping[str, object] = {}

    @property
    def ended(self) -> bool:
        return self.state is not State.RUNNING
