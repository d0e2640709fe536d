"""The machine beneath homed: disk, memory, clock, Docker's logs, programs, and units that fight it. Pure decisions."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from homed.bus.systemd1 import UnitFile
from homed.config import Config
from homed.doctor.findings import Finding, Level
from homed.doctor.updates import STARTS

# No board that runs this homed is older.
BUILT: Final = datetime(2026, 1, 1, tzinfo=UTC)
_MIB: Final = 1 << 20
# homed's memory when idle, with much data, and while it reads its state.
_NEEDED_BYTES: Final = 128 * _MIB
_LITTLE, _LITTLE_BYTES = 0.05, 256 * _MIB
_NOTHING, _NOTHING_BYTES = 0.01, 32 * _MIB
# It restores holes as holes, and says by its exit code what is wrong.
_RESTIC_SPARSE, _RESTIC_CODES = (0, 15), (0, 17)
_FIGHTS = re.compile(
    r"^\s*Exec\w+=.*\b(watchtower|ouroboros|docker-compose|docker\s+compose|docker\s+(run|start)|podman\s+auto-update)\b",
    re.MULTILINE,
)
_SERVES = re.compile(r"^\s*ExecStart=.*\bhomed\s+serve\b", re.MULTILINE)
_UPDATERS = ("watchtower", "ouroboros", "diun-update")


class Disk(NamedTuple):
    """A filesystem: what is free of how much, in bytes and inodes (0 in all: it counts none)."""

    path: str
    free: int
    size: int
    free_inodes: int = 0
    inodes: int = 0
    read_only: bool = False


def disk_findings(disks: Iterable[Disk]) -> list[Finding]:
    return [_disk(disk) for disk in disks]


def _disk(disk: Disk) -> Finding:
    if disk.read_only:
        return Finding(Level.BAD, disk.path, "is on a read-only filesystem: changes are refused until it is writable")
    inodes = disk.free_inodes / disk.inodes if disk.inodes else 1.0
    free = disk.free / disk.size if disk.size else 0.0
    said = f"{disk.free // _MIB} MiB ({free:.0%}) free, {inodes:.0%} of the inodes"
    if (free < _NOTHING and disk.free < _LITTLE_BYTES) or disk.free < _NOTHING_BYTES or inodes < _NOTHING:
        return Finding(Level.BAD, disk.path, f"{said}: nothing can be changed any more; remove what is not needed")
    if (free < _LITTLE and disk.free < 4 * _LITTLE_BYTES) or disk.free < _LITTLE_BYTES or inodes < _LITTLE:
        return Finding(Level.WARNING, disk.path, f"{said}: little is left")
    return Finding(Level.OK, disk.path, said)


def memory_findings(config: Config, limit: int | None, installed: int) -> list[Finding]:
    """`limit` is the unit's MemoryMax= in bytes; None: there is none, or it does not run as a unit."""
    needed = _NEEDED_BYTES + config.api.memory_budget
    said = f"homed may need {needed // _MIB} MiB (api.memory_budget is {config.api.memory_budget // _MIB} MiB)"
    if limit is not None and limit < needed:
        what = f"{said}, and MemoryMax= is {limit // _MIB} MiB: raise it (systemctl edit homed), or lower the budget"
        return [Finding(Level.WARNING, "memory", what)]
    if installed < 2 * needed:
        return [Finding(Level.WARNING, "memory", f"{said}, and the board has {installed // _MIB} MiB in all")]
    return [Finding(Level.OK, "memory", said)]


def clock_findings(now: datetime, synchronized: bool | None) -> list[Finding]:
    """`synchronized` None: the kernel does not tell."""
    if now < BUILT:
        what = f"says {now:%Y-%m-%d}, before this homed was made: certificates and keys are not valid yet; set it"
        return [Finding(Level.BAD, "clock", what)]
    if synchronized is False:
        what = "is not synchronized: enable an NTP client (systemctl enable --now systemd-timesyncd)"
        return [Finding(Level.WARNING, "clock", what)]
    return [Finding(Level.OK, "clock", "is synchronized" if synchronized else "is set")]


def log_findings(daemon_json: str | None) -> list[Finding]:
    """Check that Docker limits containers' logs; None: /etc/docker/daemon.json does not exist."""
    about = "Docker's logs"
    try:
        found = json.loads(daemon_json) if daemon_json else {}
        driver, options = found.get("log-driver", "json-file"), found.get("log-opts") or {}
        bounded = driver != "json-file" or "max-size" in options
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        return [Finding(Level.BAD, about, f"/etc/docker/daemon.json cannot be read ({error}): Docker will not start")]
    if not bounded:
        what = (
            "grow until the disk is full: put "
            '{"log-driver": "local", "log-opts": {"max-size": "10m", "max-file": "3"}} into /etc/docker/daemon.json, '
            "then systemctl restart docker; it holds for containers that are made from then on"
        )
        return [Finding(Level.WARNING, about, what)]
    return [Finding(Level.OK, about, f"are bounded ({driver})")]


def program_findings(config: Config, restic: str | None, rclone: bool) -> list[Finding]:
    """The programs that backups need. `restic` is what `restic version` says; None: it is not installed."""
    found = []
    if config.backups.repository.url:
        found.append(_restic(restic))
    remote = [target.name for target in config.backups.targets if target.url.startswith(("sftp:", "s3:"))]
    if remote and not rclone:
        found.append(Finding(Level.BAD, "rclone", f"is missing: {', '.join(remote)} cannot be copied to"))
    return found


def _restic(said: str | None) -> Finding:
    if said is None:
        return Finding(Level.BAD, "restic", "is missing: there are no incremental backups without it")
    match = re.search(r"restic (\d+)\.(\d+)", said)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    shown = ".".join(map(str, version))
    if version < _RESTIC_SPARSE:
        what = f"{shown} fills holes when it restores, so files take their full length: 0.17 or newer does not"
        return Finding(Level.WARNING, "restic", what)
    if version < _RESTIC_CODES:
        return Finding(Level.OK, "restic", f"{shown}; from 0.17 on it tells better what is wrong")
    return Finding(Level.OK, "restic", shown)


def rival_findings(
    units: Sequence[UnitFile] | None, read: Callable[[str], str], images: Iterable[str]
) -> list[Finding]:
    """Units that keep containers too, other homeds, and containers that update others. `images` are those that run."""
    found = []
    for unit in units or ():
        if unit.state not in STARTS or unit.name.startswith("homed"):
            continue
        text = read(unit.path)
        if _SERVES.search(text):
            found.append(Finding(Level.BAD, unit.name, f"is another homed ({unit.path}): systemctl mask {unit.name}"))
        elif _FIGHTS.search(text):
            what = f"starts or updates containers too ({unit.path}): it must not touch services of homed's"
            found.append(Finding(Level.WARNING, unit.name, what))
    for image in sorted(set(images)):
        if any(name in image.lower() for name in _UPDATERS):
            what = "replaces containers, which homed then puts back: homed updates services itself; remove it"
            found.append(Finding(Level.WARNING, image, what))
    return found
