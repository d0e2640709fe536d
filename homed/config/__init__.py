"""The configuration: its settings, defaults and limits, and the merging of files into one validated value.

Two layers are merged and then checked whole: the owner's TOML file, and over it the overlay (JSON) that holds
what was changed through the API; what comes over both is in `overrides.py`. Nothing here touches the running daemon:
see `settings.py`.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from homed import validation
from homed.config.address import NO_HOST, is_host
from homed.config.address import parse_address as parse_address
from homed.config.backups import Backups
from homed.config.containers import Containers as Containers
from homed.config.jobs import Jobs
from homed.config.section import Section
from homed.config.trees import changed_fields as changed_fields
from homed.config.trees import merge as merge
from homed.config.trees import paths_of as paths_of
from homed.config.trees import set_at
from homed.config.trees import under as under
from homed.config.trees import value_at as value_at
from homed.config.trees import without as without
from homed.errors import ConfigError, FieldError, ValidationError

Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(ge=0.1, le=86_400)]
PerMinute = Annotated[int, Meta(ge=1, le=1_000_000)]
PerHour = PerMinute
_DAY, _TIME = "(Mon|Tue|Wed|Thu|Fri|Sat|Sun)", "([01][0-9]|2[0-3]):[0-5][0-9]"
# Empty, or `02:00-04:00`, or `Sat,Sun 02:00-04:00`.
WINDOW = rf"^(({_DAY}(,{_DAY})* )?{_TIME}-{_TIME})?$(?!\n)"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LoggedRequests(StrEnum):
    """The requests that are logged. `changes` are changes, internal errors (5xx) and slow answers."""

    ALL = "all"
    CHANGES = "changes"
    NONE = "none"


class Tls(Section, frozen=True):
    """With `enabled` and no files named, a self-signed certificate is made in the state directory."""

    enabled: bool = False
    certificate: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValidationError([FieldError("certificate" if self.key else "key", "goes with the other file")])


class Limits(Section, frozen=True):
    """Requests a minute and client, by class; `clients` bounds the memory: how many clients are remembered."""

    enabled: bool = True
    health: PerMinute = 60
    services: PerMinute = 30
    containers: PerMinute = 20
    backups: PerMinute = 10
    updates: PerMinute = 5
    system: PerMinute = 60
    metrics: PerMinute = 120
    docs: PerMinute = 120
    jobs: PerMinute = 100
    submissions: PerHour = 1000
    tasks: PerMinute = 60
    tasks_hour: PerHour = 1000
    tasks_burst: PerMinute = 10
    tasks_poll_burst: PerMinute = 30
    workers: PerMinute = 6000
    failures: PerMinute = 30
    clients: Annotated[int, Meta(ge=16, le=1_000_000)] = 4096


class Api(Section, frozen=True):
    """`listen` adds addresses (`127.0.0.1:8081`, `[::1]:3000`, `unix:/run/homed/api.sock`) to `host` and `port`."""

    host: str = "127.0.0.1"
    port: Port = 8080
    listen: tuple[str, ...] = ()
    tls: Tls = Tls()
    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    require_key: bool = False
    token_lifetime: Annotated[int, Meta(ge=10, le=86_400)] = 900
    connections: Annotated[int, Meta(ge=8, le=65_536)] = 256
    connections_per_client: Annotated[int, Meta(ge=1, le=65_536)] = 64
    sockets: Annotated[int, Meta(ge=1, le=65_536)] = 64
    body_limit: Annotated[int, Meta(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    memory_budget: Annotated[int, Meta(ge=8 * 1024 * 1024, le=1 << 40)] = 24 * 1024 * 1024
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        errors = self.partial_errors({"host": self.host, "cors_origins": self.cors_origins, "listen": self.listen})
        if errors:
            raise ValidationError(errors)

    @classmethod
    def partial_errors(cls, values: Mapping[str, Any]) -> list[FieldError]:
        """What is wrong with some of the fields, where others are wrong already (`validation.convert`)."""
        errors = [
            FieldError(f"cors_origins[{i}]", "must be like https://host or https://host:port, without a path")
            for i, origin in enumerate(values.get("cors_origins", ()))
            if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", origin)
        ]
        for i, address in enumerate(values.get("listen", ())):
            try:
                parse_address(address)
            except ValueError as error:
                errors.append(FieldError(f"listen[{i}]", str(error)))
        if "host" in values and not is_host(values["host"]):
            errors.append(FieldError("host", NO_HOST))
        return errors


class Monitoring(Section, frozen=True):
    """`health_check_interval` is how often (seconds) the engine is asked for what its events may have missed.

    `metrics_port` serves `/metrics` alone; 0 is none.
    """

    enabled: bool = True
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Meta(ge=0, le=65_535)] = 9090
    health_check_interval: Annotated[float, Meta(ge=1, le=3600)] = 30
    stats_interval: Annotated[float, Meta(ge=1, le=3600)] = 30

    def __post_init__(self) -> None:
        if not is_host(self.metrics_host):
            raise ValidationError([FieldError("metrics_host", NO_HOST)])


class UpdateCheck(Section, frozen=True):
    """One check of the owner's own, asked when a new system is judged: a command, or an HTTP address."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$(?!\n)",
            description="up to 64 lower-case letters, digits, _, . and -, the first one a letter or digit",
        ),
    ]
    command: tuple[str, ...] = ()
    url: str | None = None
    timeout: Seconds = 10

    def __post_init__(self) -> None:
        if bool(self.command) == (self.url is not None):
            raise ValidationError([FieldError("command", "either a command or a url must be given")])
        if self.url is not None and not re.match(r"https?://[^/\s]+", self.url):
            raise ValidationError([FieldError("url", "must be like http://host/path")])


class Updates(Section, frozen=True):
    """How updates are fetched, when the board reboots, and how long the new system has to be well."""

    directory: str = ""
    max_bundle_size: Annotated[int, Meta(ge=1024, le=1 << 42)] = 4 << 30
    download_rate: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    reboot: Literal["now", "never", "window"] = "never"
    window: Annotated[
        str, Meta(pattern=WINDOW, description="empty, HH:MM-HH:MM, or days before it: Sat,Sun 02:00-04:00")
    ] = ""
    require_confirmation: bool = False
    allow_downgrade: bool = False
    deadline: Annotated[float, Meta(ge=1, le=86_400)] = 600
    soak: Annotated[float, Meta(ge=0, le=86_400)] = 60
    kept: Annotated[int, Meta(ge=1, le=1000)] = 20
    checks: tuple[UpdateCheck, ...] = ()

    def __post_init__(self) -> None:
        if self.directory and not self.directory.startswith("/"):
            raise ValidationError([FieldError("directory", "must be an absolute path")])
        if self.window and self.window[-11:-6] == self.window[-5:]:
            raise ValidationError([FieldError("window", "begins when it ends")])
        if self.reboot == "window" and not self.window:
            raise ValidationError([FieldError("window", "must be set where reboot is window")])


class Log(Section, frozen=True):
    level: LogLevel = LogLevel.INFO
    requests: LoggedRequests = LoggedRequests.CHANGES


class Config(Section, frozen=True):
    """All of it; the API shows it under `orchestrator`."""

    name: Annotated[str, Meta(min_length=1, max_length=100)] = "homed"
    api: Api = Api()
    monitoring: Monitoring = Monitoring()
    containers: Containers = Containers()
    updates: Updates = Updates()
    backups: Backups = Backups()
    jobs: Jobs = Jobs()
    log: Log = Log()


# What takes effect only when the sockets and connections are made anew.
NEEDS_RESTART = (
    "api.host",
    "api.port",
    "api.listen",
    "api.tls",
    "api.connections",
    "api.connections_per_client",
    "monitoring.metrics_host",
    "monitoring.metrics_port",
    "containers.engine",
    "backups.directory",
    "jobs.enabled",
)
# What gives power over the board itself is for who can write the file, not for who holds a key.
FILE_ONLY = (
    "containers.allow_privileged",
    "containers.allow_host_root",
    "containers.allow_docker_socket",
    "containers.engine",
    "containers.data_roots",
    "containers.devices",
    "containers.capabilities",
    "updates.directory",
    "updates.checks",
    "backups.directory",
    "backups.encryption",
    "backups.recipients",
    "backups.repository",
    "backups.targets",
    "jobs.enabled",
    "jobs.task_types",
    "jobs.user",
    "jobs.users",
    "jobs.limits",
    "jobs.private_network",
    "jobs.http",
)


def check(data: Mapping[str, Any]) -> Config:
    """Plain data into a Config; ValidationError names every wrong field."""
    return validation.convert(data, Config)


def read_file(path: Path, *, must_exist: bool = False) -> dict[str, Any]:
    """Read the owner's file; a missing one is empty unless it `must_exist`. ConfigError names the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if must_exist:
            raise ConfigError(
                f"{path} does not exist: name the file that holds the configuration, or leave --config out"
            ) from error
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        check(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "; ".join(_located(text, error))) from error
    return data


def read_overlay(path: Path) -> dict[str, Any]:
    """What was changed through the API. ConfigError says the line and what is wrong."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: line 1: must be a JSON object")
    return data


def load(file: Path, overlay_file: Path) -> tuple[Config, dict[str, Any], dict[str, Any]]:
    """Both layers, checked alone and merged: (the configuration, the file's data, the overlay's data)."""
    base = read_file(file)
    over = without(read_overlay(overlay_file), FILE_ONLY)
    try:
        return check(merge(base, over)), base, over
    except ValidationError as error:
        text = overlay_file.read_text(encoding="utf-8")
        raise ConfigError(f"{overlay_file} over {file}: " + "; ".join(_located(text, error))) from error


def usable(base: Mapping[str, Any], over: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the part of an overlay that is valid over the file, and the paths of the fields that are not.

    A value may be wrong only beside another one: then its whole section goes, and last of all the whole overlay.
    """
    kept, dropped = dict(over), list[str]()
    for depth in (None, 1):
        try:
            check(merge(base, kept))
        except ValidationError as error:
            named = {re.sub(r"\[.*", "", wrong.field) for wrong in error.errors if wrong.field}
            paths = {path if depth is None else path.split(".")[0] for path in named}
            kept = without(kept, tuple(paths))
            dropped += sorted(paths)
        else:
            return kept, dropped
    try:
        check(merge(base, kept))
    except ValidationError:
        return {}, sorted(over)
    return kept, dropped


def file_only_changes(current: Mapping[str, Any], restored: Mapping[str, Any]) -> list[str]:
    """List the settings, settable in the file only, that another file would change. ValidationError."""
    changed = changed_fields(check(current), check(restored))
    return sorted(path for path in changed if under(path, FILE_ONLY))


def carried_over(current: Mapping[str, Any], restored: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overlay that gives, over the current file, what a restored file and its overlay say.

    Settings that only the file may hold are left out: they keep their present value. ValidationError.
    """
    wanted = check(merge(restored, without(over, FILE_ONLY)))
    found: dict[str, Any] = {}
    for path in changed_fields(check(current), wanted):
        if not under(path, FILE_ONLY):
            set_at(found, path, msgspec.to_builtins(value_at(wanted, path)))
    return found


def _located(text: str, error: ValidationError) -> Iterator[str]:
    for wrong in error.errors:
        line = line_of(text, wrong.field)
        where = f"line {line}: " if line else ""
        yield f"{where}{wrong.field or 'the file'}: {wrong.message}"


def line_of(text: str, field: str) -> int | None:
    """The line (from 1) that sets `field` (`api.limits.health`) in TOML or indented JSON, as well as it can be told.

    Neither tomllib nor json keep positions. A path is followed through `[tables]` and `"nested": {`
    by its own segments, and the line of the longest part found is given.
    """
    segments = re.sub(r"\[\d+\]", "", field).split(".")
    table: list[str] = []
    best: tuple[int, int] | None = None
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+\s*(#.*)?$", line)
        key = re.match(r"""\s*["']?([A-Za-z0-9_.\-]+)["']?\s*[=:]""", line)
        if header:
            table = [part.strip(" \"'") for part in header[1].split(".")]
            found = table
        elif key:
            found = table + key[1].split(".")
            if re.search(r":\s*\{\s*$", line):  # JSON: what follows is inside
                table = found
        else:
            if re.match(r"\s*\}", line):
                table = table[:-1]
            continue
        depth = len(found) if segments[: len(found)] == found else 0
        if depth and (best is None or depth > best[0]):
            best = (depth, number)
    if best is None and len(lines) == 1:
        return 1
    return best[1] if best else None
