"""What `/api/v1/backups` is asked and answers: the fields of the Homei API first, then homed's own."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from homed.backups.names import STEM
from homed.backups.records import Backup, Operation, OperationKind, Progress, State, Type
from homed.backups.worker.messages import Unlock
from homed.errors import FieldError, ValidationError

Secret = Annotated[str, Meta(min_length=1, max_length=4096)]
Chosen = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=4096)], ...], Meta(min_length=1, max_length=512)]


class Waiting(msgspec.Struct, frozen=True):
    """With `wait=false` the answer is 202 at once; else it comes when the operation has ended."""

    wait: bool = True


class NewBackup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is not given is as here. The backup's name is `name` with the time, and what kind of archive it is."""

    name: Annotated[
        str,
        Meta(pattern=rf"^{STEM}$(?!\n)", description="letters, digits, _, . and -, the first one a letter or digit"),
    ] = "backup"
    type: Type = Type.FULL
    include_data: bool = True


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What opens a sealed archive: the passphrase, or an age identity (AGE-SECRET-KEY-1…)."""

    passphrase: Secret | None = None
    identity: Secret | None = None

    def __post_init__(self) -> None:
        if self.passphrase is not None and self.identity is not None:
            raise ValidationError([FieldError("identity", "either it or the passphrase may be given")])

    @property
    def unlock(self) -> Unlock | None:
        if self.passphrase is None and self.identity is None:
            return None
        return Unlock(self.passphrase, self.identity)


class Restoring(Opening, frozen=True, forbid_unknown_fields=True):
    """The extent of a restore: `services` and `volumes` are all, none, or a list of names (bind mounts by path).

    If only services are named, the volumes are the ones that those services use. `keys` adds the backup's API keys to
    the existing ones; `dry_run` reports the changes without making them. Settings that only the owner's file may hold
    stay unchanged, and are listed as `settings_kept`; `file_settings` restores the file too, and only root on the board
    may use it (`homed backup restore --file-settings`).
    """

    services: bool | Chosen = True
    volumes: bool | Chosen = True
    config: bool = True
    keys: bool = False
    file_settings: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        Opening.__post_init__(self)
        if not (self.services or self.volumes or self.config or self.keys):
            raise ValidationError([FieldError("services", "nothing of the backup is chosen")])


class Copying(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A target of `backups.targets`."""

    target: Annotated[str, Meta(min_length=1, max_length=64)]


class Pruning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dry_run: bool = False


class Unlocking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The removal of repository locks; `force` also removes those of a running restic on this board."""

    force: bool = False


class BackupSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One backup. `size` in bytes, as it lies there; `data_size` is what it holds.

    `verified_at` is when it was last read to its end and found whole, `damage` what was found wrong then. `schedule`
    made it, `copies` are the targets that have it; `duration` in seconds.
    """

    name: str
    created_at: datetime
    size: int
    type: Type
    encrypted: bool
    include_data: bool
    data_size: int
    members: int
    services: Sequence[str]
    schedule: str | None
    duration: float
    verified_at: datetime | None
    damage: str | None
    copies: Sequence[str]
    uploaded: bool


class SectionShown(msgspec.Struct, frozen=True, kw_only=True):
    """One tree of a backup. `kind` is `state`, `volume` or `path`; `name` the volume's name or the path on the board.

    `prefix` is where it stands in the archive; `users` are the services that mount it; `capture` is how it was taken;
    `changed` are files (at most 100 of `changed_count`) that did not hold still while they were read.
    """

    kind: str
    name: str
    prefix: str
    users: Sequence[str]
    single: bool
    members: int
    size: int
    capture: str
    cloned: bool
    changed: Sequence[str]
    changed_count: int


class BackupDetails(BackupSummary, frozen=True, kw_only=True):
    """`homed`, `schema`, `board` and `architecture` are of the board that made it; `sections` are what is in it."""

    homed: str
    schema: int
    board: str
    architecture: str
    snapshot: str | None
    sections: Sequence[SectionShown]


class BackupList(msgspec.Struct, frozen=True):
    """The newest first."""

    backups: Sequence[BackupSummary]


class Created(msgspec.Struct, frozen=True, kw_only=True):
    """`created`; or `creating`, where it was not waited for. `warnings` say what is not as one might think."""

    name: str
    status: str
    message: str
    operation_id: str
    warnings: Sequence[str] = ()


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What was done; or is being done, where it was not waited for. `result` is what the operation tells."""

    status: str
    message: str
    operation_id: str
    warnings: Sequence[str] = ()
    result: Mapping[str, Any] | UnsetType = UNSET
    plan: Mapping[str, Any] | UnsetType = UNSET


class Deleted(msgspec.Struct, frozen=True):
    status: str
    message: str


class Verdict(msgspec.Struct, frozen=True):
    name: str
    reason: str


class Pruned(msgspec.Struct, frozen=True):
    """What retention keeps and what it removed, or (`dry_run`) would remove, and why."""

    kept: Sequence[Verdict]
    removed: Sequence[Verdict]
    dry_run: bool


class OperationFailure(msgspec.Struct, frozen=True):
    """As an error tells it, had somebody waited."""

    code: str
    message: str
    details: Mapping[str, Any]


class OperationShown(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is or was done with a backup. `result` is what it tells where it succeeded."""

    id: str
    kind: OperationKind
    backup: str
    state: State
    progress: Progress
    started_at: datetime
    finished_at: datetime | None
    schedule: str | None
    failure: OperationFailure | None
    warnings: Sequence[str]
    result: Mapping[str, Any]


class OperationList(msgspec.Struct, frozen=True):
    """The newest first."""

    operations: Sequence[OperationShown]


class ScheduleShown(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule and its timer. `problem` says why it does not run; `last_operation` is what came of its last run."""

    name: str
    calendar: str
    action: str
    type: str
    include_data: bool
    copy_to: Sequence[str]
    next_run: datetime | None
    last_run: datetime | None
    problem: str | None
    last_operation: OperationShown | None


class ScheduleList(msgspec.Struct, frozen=True):
    schedules: Sequence[ScheduleShown]


class ScheduleRun(msgspec.Struct, frozen=True, kw_only=True):
    """As the making or the verifying of a backup answers; `nothing` where there was nothing to do."""

    status: str
    message: str
    name: str | UnsetType = UNSET
    operation_id: str | UnsetType = UNSET
    warnings: Sequence[str] = ()


def summary(backup: Backup) -> BackupSummary:
    return BackupSummary(**_fields(backup, BackupSummary))


def shown(operation: Operation) -> OperationShown:
    failed = operation.failure
    failure = None if failed is None else OperationFailure(failed.code, failed.message, failed.details)
    return OperationShown(**{**_fields(operation, OperationShown), "failure": failure})


def details(backup: Backup) -> BackupDetails:
    sections = [SectionShown(**_fields(section, SectionShown)) for section in backup.sections]
    return BackupDetails(**{**_fields(backup, BackupDetails), "sections": sections})


def _fields(record: msgspec.Struct, kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in msgspec.structs.fields(kind)}
