"""What homed asks of its backup worker, and what the worker says: JSON, one message a line, on a Unix socket.

homed sends a request first; then replies to what the worker asks, and perhaps `Cancel`. Secrets travel here only: not
in arguments, not in the environment of the unit, not in files.
"""

from collections.abc import Mapping

import msgspec

from homed.backups.records import Backup, Progress, Section


class Unlock(msgspec.Struct, frozen=True):
    """What opens a sealed archive: a passphrase, or an age identity (AGE-SECRET-KEY-1…)."""

    passphrase: str | None = None
    identity: str | None = None


class Seal(msgspec.Struct, frozen=True):
    """How to seal: to these recipients (age1…). `wrapped` is an identity of theirs, itself sealed by a passphrase."""

    recipients: tuple[str, ...]
    wrapped: str | None = None


class Repository(msgspec.Struct, frozen=True):
    """A restic repository: `url` as restic takes it, and what else restic wants in its environment."""

    url: str
    password: str
    environment: Mapping[str, str] = {}


class Group(msgspec.Struct, frozen=True):
    """Trees that are captured together, while `services` are paused, stopped or prepared by their hook.

    `asks` is whether homed has something to do before and after: where it is false nothing is asked.
    """

    sections: tuple[Section, ...]
    services: tuple[str, ...]
    asks: bool


class Create(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Make a backup. `draft` is its record without what is known only afterwards; `state` is the folder that holds
    homed's own state, in section form `state`. `work` is the operation's folder, `folder` that of the backups.
    `expected` is how many bytes the last one like it had: for the estimate.
    """

    draft: Backup
    folder: str
    work: str
    state: str
    groups: tuple[Group, ...]
    exclude: tuple[str, ...] = ()
    level: int = 2
    seal: Seal | None = None
    must_seal: bool = True
    repository: Repository | None = None
    parent: str | None = None
    expected: int = 0


class Verify(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Read a backup to its end. `upload` where it has no record yet: one is made. A sealed archive that nothing is
    given for is compared with its `digest`. `record` is what is known of an incremental backup.
    """

    name: str
    folder: str
    work: str
    path: str = ""
    unlock: Unlock | None = None
    repository: Repository | None = None
    record: Backup | None = None
    digest: str | None = None
    upload: bool = False


class Tree(msgspec.Struct, frozen=True):
    """A section that is to be put back, and the path on this board where it belongs."""

    section: Section
    target: str


class Plan(msgspec.Struct, frozen=True):
    """What is to be put back. `writable` are the paths that containers can write: there no link is to be trusted.
    `dry_run`: it is only said what would change.
    """

    trees: tuple[Tree, ...]
    dry_run: bool = False
    writable: tuple[str, ...] = ()


class Restore(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Put a backup back. It is verified first; then homed is asked what goes where (`plan`, answered by `Plan`).

    `record` is what is known of an incremental backup; a full one tells itself. `reserve` bytes stay free.
    """

    name: str
    folder: str
    work: str
    path: str = ""
    unlock: Unlock | None = None
    repository: Repository | None = None
    record: Backup | None = None
    reserve: int = 64 << 20


class Recover(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """End what a killed restore has left in its folder `work`; homed is asked to `apply` where all was swapped."""

    work: str


class Clean(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Remove the leftovers of an ended restore; `left` of the answer is the reason if that fails again."""

    work: str


class Copy(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Copy an archive to a target; `settings` are the target's, secrets read."""

    name: str
    path: str
    work: str
    settings: Mapping[str, str]
    record: Backup


class Forget(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Take snapshots out of the repository, and what only they held."""

    work: str
    repository: Repository
    snapshots: tuple[str, ...]


class Free(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Remove the locks of the repository; with `force`, also those held by processes on this board."""

    work: str
    repository: Repository
    force: bool = False


class Adopt(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Write down, in `folder`, the backups that the repository holds and this board does not know."""

    folder: str
    work: str
    repository: Repository


class Kill(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """End a hook that is past its deadline: `pid` in the container `container` (its full id)."""

    pid: int
    container: str


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Stop as soon as nothing is left half done."""


class Reply(msgspec.Struct, frozen=True, tag=True):
    """homed's answer to `Ask`: `error` where it could not, `data` as the question wants."""

    error: str | None = None
    data: Mapping[str, object] = {}
    code: str = "BACKUP_ERROR"
    details: Mapping[str, object] = {}


class Ask(msgspec.Struct, frozen=True, tag=True):
    """A callback request: the worker waits until homed has done `what`: `begin` and `end` of a group; `targets`
    (the part of the plan known before the backup is read), `plan`, `stop`, `apply` and `release` of a restore.
    """

    what: str
    data: Mapping[str, object] = {}


class Told(msgspec.Struct, frozen=True, tag=True):
    progress: Progress


class Warned(msgspec.Struct, frozen=True, tag=True):
    message: str


class Done(msgspec.Struct, frozen=True, tag=True):
    """`backup` is the record, where there is one to keep."""

    backup: Backup | None = None
    data: Mapping[str, object] = {}


class Failed(msgspec.Struct, frozen=True, tag=True):
    code: str
    message: str
    details: Mapping[str, object] = {}
    cancelled: bool = False


Request = Create | Verify | Restore | Recover | Clean | Copy | Forget | Free | Adopt
FromHomed = Create | Verify | Restore | Recover | Clean | Copy | Forget | Free | Adopt | Kill | Cancel | Reply
FromWorker = Ask | Told | Warned | Done | Failed
