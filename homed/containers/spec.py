"""What a service is to be: the fields that its owner gives, checked one by one."""

import re
import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from homed.containers import backup_labels
from homed.containers.mappings import (
    capability,
    parse_device,
    parse_extra_host,
    parse_ports,
    parse_volume,
    split_tmpfs,
)
from homed.errors import FieldError, ValidationError

# As Docker Engine names containers: of two characters at least.
ServiceName = Annotated[
    str,
    Meta(
        min_length=2,
        max_length=63,
        pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]+$(?!\n)",
        description="letters, digits, _, . and -, the first one a letter or digit",
    ),
]
Image = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=512,
        pattern=r"^[a-zA-Z0-9\[][a-zA-Z0-9._/:@\[\]-]*$(?!\n)",
        description="an image reference: [HOST[:PORT]/]NAME[:TAG][@DIGEST]",
    ),
]
RestartPolicy = Annotated[
    str,
    Meta(
        pattern=r"^(no|always|unless-stopped|on-failure(:[1-9][0-9]{0,3})?)$(?!\n)",
        description="no, always, unless-stopped, on-failure or on-failure:COUNT",
    ),
]
Text = Annotated[str, Meta(max_length=4096, pattern=r"^[^\u0000]*$", description="text without null characters")]
# In characters; the kernel's limit in bytes is in `spec_rules`.
Value = Annotated[str, Meta(max_length=131_072, pattern=r"^[^\u0000]*$", description="text without null characters")]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
# A string is taken apart at each look, which costs; the arguments of a list are taken as they are.
Argument = Annotated[str, Meta(max_length=32_768, pattern=r"^[^\u0000]*$", description="text without null characters")]
Command = Annotated[str, Meta(max_length=8192)] | tuple[Argument, ...]

_VARIABLE = re.compile(r"[^=\x00]+")
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_MOST_ENTRIES = 256  # of a list: each is looked at on the board or by the engine
_SMALLEST_MEMORY = 6 * 1024 * 1024  # Docker Engine refuses less
MANAGED_LABEL = "io.homei.managed"
LOCKED = "the password of its registry cannot be opened any more: it must be given again"
SERVICE_LABEL = "io.homed.service"
DIGEST_LABEL = "io.homed.spec"


class HealthCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command run in the container: a string by its shell, a list as it is. Times in seconds."""

    command: Command
    interval: Seconds = 30
    timeout: Seconds = 10
    retries: Annotated[int, Meta(ge=1, le=100)] = 3
    start_period: Annotated[float, Meta(ge=0, le=86_400)] = 0

    def __post_init__(self) -> None:
        if not self.command:
            raise ValidationError([FieldError("command", "must not be empty")])
        if "\0" in self.command:
            raise ValidationError([FieldError("command", "must not hold a NUL")])


class Registry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a private registry asks for. Never shown again."""

    username: Annotated[str, Meta(min_length=1, max_length=255)]
    password: Annotated[str, Meta(min_length=1, max_length=8192)]

    def __repr__(self) -> str:
        return f"Registry({self.username!r})"


class LockedRegistry(Registry, frozen=True):
    """One whose password cannot be opened any more, as it was `sealed`: it must be given again."""

    sealed: str

    def __repr__(self) -> str:
        return f"LockedRegistry({self.username!r})"


class Condition(StrEnum):
    """The condition of a dependency: the other service runs, its health check passes, or it has exited with 0."""

    STARTED = "started"
    HEALTHY = "healthy"
    COMPLETED = "completed"


class ServiceSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that decides how a service's container is made and kept."""

    image: Image
    restart_policy: RestartPolicy = "unless-stopped"
    environment: dict[str, Value] = {}
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    depends_on: tuple[ServiceName, ...] | dict[ServiceName, Condition] = ()
    labels: dict[str, Text] = {}
    command: Command | None = None
    entrypoint: Command | None = None
    network: Annotated[
        str,
        Meta(
            max_length=128,
            pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$(?!\n)",
            description="letters, digits, _, . and -, the first one a letter or digit",
        ),
    ] = "bridge"
    devices: tuple[str, ...] = ()
    user: (
        Annotated[
            str,
            Meta(
                max_length=64,
                pattern=r"^[a-z0-9_][a-z0-9_.-]*(:[a-z0-9_][a-z0-9_.-]*)?$(?!\n)",
                description="USER or USER:GROUP, each a name in lower case or a number",
            ),
        ]
        | None
    ) = None
    read_only: bool = False
    tmpfs: tuple[str, ...] = ()
    memory: Annotated[int, Meta(ge=1, le=2**50)] | Annotated[str, Meta(max_length=32)] | None = None
    cpus: Annotated[float, Meta(ge=0.01, le=1024)] | None = None
    health_check: HealthCheck | None = None
    registry: Registry | None = None
    privileged: bool = False
    stop_timeout: Annotated[int, Meta(ge=0, le=3600)] = 10
    init: bool = False
    cap_add: tuple[Annotated[str, Meta(max_length=64)], ...] = ()
    extra_hosts: tuple[Annotated[str, Meta(max_length=320)], ...] = ()
    create_missing: bool | None = None

    def __post_init__(self) -> None:
        errors = field_errors({name: getattr(self, name) for name in self.__struct_fields__})
        if errors:
            raise ValidationError(errors)

    @classmethod
    def partial_errors(cls, values: Mapping[str, Any]) -> list[FieldError]:
        """What is wrong with some of the fields, where others are wrong already (`validation.convert`)."""
        return field_errors(values)


def field_errors(values: Mapping[str, Any]) -> list[FieldError]:
    """What is wrong with these fields of a spec beyond their types; fields that are left out are not looked at."""
    errors: list[FieldError] = []
    for field, parse in (
        ("ports", parse_ports),
        ("volumes", parse_volume),
        ("devices", parse_device),
        ("tmpfs", split_tmpfs),
        ("extra_hosts", parse_extra_host),
        ("cap_add", capability),
    ):
        if len(values.get(field, ())) > _MOST_ENTRIES:
            errors.append(FieldError(field, f"may have at most {_MOST_ENTRIES} entries"))
            continue
        for i, text in enumerate(values.get(field, ())):
            _note(errors, f"{field}[{i}]", parse, text)
    for field, check in (("command", arguments), ("entrypoint", arguments), ("memory", memory_bytes)):
        if values.get(field) is not None:
            _note(errors, field, check, values[field])
    errors += [
        FieldError(f"environment.{name}", "the name must not be empty nor hold '='")
        for name in values.get("environment", {})
        if not _VARIABLE.fullmatch(name)
    ]
    errors += _label_errors(values.get("labels", {}))
    errors += backup_labels.errors(values.get("labels", {}), _mounted(values.get("volumes")))
    depends_on = values.get("depends_on", ())
    if len(set(depends_on)) != len(depends_on):
        errors.append(FieldError("depends_on", "names a service twice"))
    if values.get("network") in ("host", "none") and values.get("ports"):
        errors.append(FieldError("ports", f"cannot be published with network '{values['network']}'"))
    return errors


def memory_bytes(value: int | str) -> int:
    """`268435456`, `"256m"`, `"1.5g"`, in bytes. ValueError where it is neither, or too small."""
    if isinstance(value, str):
        match = _BYTES.fullmatch(value.strip())
        if not match:
            raise ValueError("must be bytes, or like 256m or 1.5g")
        value = int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))
    if not _SMALLEST_MEMORY <= value <= 2**50:
        raise ValueError("must be at least 6m")
    return value


def arguments(command: Command) -> list[str]:
    """A command's arguments: a string is split as a shell would. ValueError where its quotes do not match."""
    if isinstance(command, str):
        if "\0" in command:
            raise ValueError("must not hold a NUL")
        return shlex.split(command)
    return list(command)


def _label_errors(labels: dict[str, str]) -> list[FieldError]:
    errors = []
    for name, value in labels.items():
        if not name or "\0" in name:
            errors.append(FieldError("labels", "a name must not be empty"))
        elif name.startswith("io.homed.") and name not in backup_labels.LABELS:
            errors.append(FieldError(f"labels.{name}", "begins with io.homed., which is homed's own"))
        elif name == MANAGED_LABEL and value != "true":
            errors.append(FieldError(f"labels.{name}", "is homed's own and always 'true'"))
    return errors


def _mounted(volumes: Sequence[str] | None) -> list[str] | None:
    """What a service mounts, by name or path; None where not all of it is known to be right."""
    try:
        return None if volumes is None else [parse_volume(text).name for text in volumes[:_MOST_ENTRIES]]
    except ValueError:
        return None


def _note(errors: list[FieldError], field: str, parse: Any, value: object) -> None:
    try:
        parse(value)
    except ValueError as error:
        errors.append(FieldError(field, str(error)))


# A change names the fields that it changes, and only them.
ServiceChange = msgspec.defstruct(
    "ServiceChange",
    [(f.name, f.type | UnsetType, UNSET) for f in msgspec.structs.fields(ServiceSpec)]
    + [("enabled", bool | UnsetType, UNSET)],
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    module=__name__,
)
ServiceChange.__doc__ = (
    "The fields of a service that are to change; those left out stay as they are. What a service shows beside these "
    "may be sent as it was read."
)
