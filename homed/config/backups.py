"""The tables of the configuration that say how the board is backed up."""

from typing import Annotated, Literal

from msgspec import Meta

from homed.config.section import Section
from homed.errors import FieldError, ValidationError


class Retention(Section, frozen=True):
    """Which backups of one name and type are kept: the newest of each generation. All 0: every one.

    `max_size` (bytes) bounds what all of them take, the oldest going first; the newest good one is never removed.
    """

    last: Annotated[int, Meta(ge=0, le=10_000)] = 0
    daily: Annotated[int, Meta(ge=0, le=10_000)] = 0
    weekly: Annotated[int, Meta(ge=0, le=10_000)] = 0
    monthly: Annotated[int, Meta(ge=0, le=10_000)] = 0
    max_size: Annotated[int, Meta(ge=0, le=1 << 50)] = 0


class BackupSchedule(Section, frozen=True):
    """One systemd timer: `calendar` is an OnCalendar= expression. `verify` reads what was not verified for longest."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9][a-z0-9-]{0,31}$(?!\n)",
            description="up to 32 lower-case letters, digits and -, the first one a letter or digit",
        ),
    ]
    calendar: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=200,
            pattern=r"^[\x20-\x7e]+$(?!\n)",
            description="one line of ASCII, as systemd.time(7) has it",
        ),
    ]
    action: Literal["create", "verify"] = "create"
    type: Literal["full", "incremental"] = "full"
    include_data: bool = True
    copy_to: tuple[str, ...] = ()
    retention: Retention = Retention()


class BackupTarget(Section, frozen=True):
    """Where archives are copied to: sftp://user@host:port/path, s3://bucket/prefix, or another board's https://host:port.

    Secrets lie in files. `key_file`: an SSH key, or the other board's API key; `known_hosts_file` for sftp;
    `credentials_file` for s3 (ACCESS_KEY_ID=… and SECRET_ACCESS_KEY=… on lines of their own); `ca_file` for a board.
    """

    name: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9][a-z0-9-]{0,31}$(?!\n)",
            description="up to 32 lower-case letters, digits and -, the first one a letter or digit",
        ),
    ]
    url: Annotated[
        str,
        Meta(
            max_length=1024,
            pattern=r"^(sftp|s3|https?)://[^\s\x00-\x1f]+$(?!\n)",
            description="an address that begins with sftp://, s3://, http:// or https://",
        ),
    ]
    key_file: str = ""
    known_hosts_file: str = ""
    credentials_file: str = ""
    endpoint: str = ""
    region: str = ""
    ca_file: str = ""
    tries: Annotated[int, Meta(ge=1, le=20)] = 5


class BackupRepository(Section, frozen=True):
    """The restic repository of incremental backups; empty: there are none.

    `environment_file` holds what restic wants for it (AWS_ACCESS_KEY_ID=…), `password_file` its password; without one,
    homed makes a password in the state directory.
    """

    url: Annotated[
        str, Meta(max_length=1024, pattern=r"^[^\x00-\x1f]*$(?!\n)", description="one line without control characters")
    ] = ""
    password_file: str = ""
    environment_file: str = ""


class Backups(Section, frozen=True):
    """Where backups lie, whether they are sealed and for whom, when they are made, and which are kept."""

    directory: str = ""
    encryption: Literal["off", "passphrase", "recipients"] = "off"
    recipients: tuple[
        Annotated[
            str,
            Meta(
                pattern=r"^age1[0-9a-z]{58}$(?!\n)",
                description="a recipient of age: age1 and 58 lower-case letters and digits",
            ),
        ],
        ...,
    ] = ()
    compression: Annotated[int, Meta(ge=0, le=3)] = 2
    max_age: Annotated[float, Meta(ge=0, le=366 * 86_400)] = 0
    max_upload: Annotated[int, Meta(ge=1024, le=1 << 44)] = 256 << 30
    repository: BackupRepository = BackupRepository()
    schedules: tuple[BackupSchedule, ...] = ()
    targets: tuple[BackupTarget, ...] = ()

    def __post_init__(self) -> None:
        errors = []
        if self.directory and not self.directory.startswith("/"):
            errors.append(FieldError("directory", "must be an absolute path"))
        if self.encryption == "recipients" and not self.recipients:
            errors.append(FieldError("recipients", "must be given where encryption is recipients"))
        for field, named in (("schedules", self.schedules), ("targets", self.targets)):
            names = [one.name for one in named]
            if len(set(names)) != len(names):
                errors.append(FieldError(field, "names one twice"))
        targets = {target.name for target in self.targets}
        for i, schedule in enumerate(self.schedules):
            missing = [name for name in schedule.copy_to if name not in targets]
            if missing:
                errors.append(FieldError(f"schedules[{i}].copy_to", f"there is no target '{missing[0]}'"))
            if schedule.copy_to and schedule.type == "incremental":
                errors.append(FieldError(f"schedules[{i}].copy_to", "is for full backups"))
            if schedule.action == "create" and schedule.type == "incremental" and not self.repository.url:
                errors.append(FieldError(f"schedules[{i}].type", "needs backups.repository.url"))
        if errors:
            raise ValidationError(errors)
