"""`homed doctor`: check a board for problems, and explain how to solve them.

What is asked of the board is here; what it means is decided in the modules beside, which are pure.
"""

import asyncio
import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from homed import clock
from homed.access.keys import BUCKET as KEYS
from homed.access.keys import Key, read_key
from homed.api import certificates
from homed.config import Config
from homed.doctor import access, machine, state, updates
from homed.doctor.findings import Finding as Finding
from homed.doctor.findings import Level as Level
from homed.doctor.machine import Disk
from homed.errors import ConfigError
from homed.host import addresses
from homed.settings import Settings
from homed.store import damage, standing
from homed.store.damage import Kept
from homed.store.standing import Seen, Standing

_DATABASE = "homed.db"
_COMMAND_TIMEOUT = 15.0
_CGROUP = "sys/fs/cgroup/system.slice/homed.service/memory.max"
_UNSYNCHRONIZED = 5
_TIMEX_BYTES = 512


async def examine(settings: Settings, state_directory: Path, root: Path = Path("/")) -> list[Finding]:
    """All findings, the good ones too."""
    board, seen, images, restic = await asyncio.gather(
        updates.ask(),
        asyncio.to_thread(standing.look, state_directory / _DATABASE, (KEYS, damage.BUCKET)),
        asyncio.to_thread(_said, "docker", "ps", "--format", "{{.Image}}"),
        asyncio.to_thread(_said, "restic", "version"),
    )
    config, now, keys = settings.current, clock.now(), keys_of(seen)
    return [
        *state.settings_findings(settings.trouble),
        *state.state_findings(seen, _kept(seen), state_directory),
        *access.exposure_findings(config, keys, now),
        *access.key_findings(keys or (), now),
        *_certificates(config, state_directory),
        *machine.disk_findings(_disks(config, state_directory)),
        *machine.memory_findings(config, _memory_limit(root), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        *machine.clock_findings(now, _synchronized()),
        *machine.log_findings(updates.read_text(root, "/etc/docker/daemon.json") or None),
        *machine.program_findings(config, restic, shutil.which("rclone") is not None),
        *machine.rival_findings(board.units, lambda path: updates.read_text(root, path), (images or "").split()),
        *updates.findings(board, config.updates, root),
    ]


def keys_of(seen: Seen) -> list[Key] | None:
    """The keys in a state; None if it could not be read."""
    if seen.standing is Standing.UNREADABLE:
        return None
    found: list[Key] = []
    for record in seen.records.get(KEYS, ()):
        with suppress(ValueError, RecursionError):
            found.append(read_key(record))
    return found


def exposure(settings: Settings, state_directory: Path) -> list[Finding]:
    """Say whether anybody could reach the board without a key."""
    seen = standing.look(state_directory / _DATABASE, (KEYS,))
    return access.exposure_findings(settings.current, keys_of(seen), clock.now())


def _kept(seen: Seen) -> Sequence[Kept]:
    return [Kept(*one.key.partition("/")[::2]) for one in seen.records.get(damage.BUCKET, ())]


def _certificates(config: Config, state_directory: Path) -> list[Finding]:
    if not config.api.tls.enabled:
        return []
    path, _ = certificates.files(config.api.tls, state_directory)
    if path.parent == state_directory / "tls" and not path.exists():
        return []  # made at the start
    try:
        found = certificates.describe(path)
    except (ConfigError, OSError) as error:
        return access.certificate_findings(None, (), clock.now(), f"{path} cannot be used: {error}")
    names = certificates.board_names(socket.gethostname(), config.api.hosts, addresses.read())
    return access.certificate_findings(found, names.needed, clock.now())


def _disks(config: Config, state_directory: Path) -> list[Disk]:
    found: dict[int, Disk] = {}
    for path in (state_directory, Path(config.backups.directory or state_directory), Path("/var/lib/docker")):
        with suppress(OSError):
            disk, device = os.statvfs(path), path.stat().st_dev
            found.setdefault(
                device,
                Disk(
                    str(path), disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize,
                    disk.f_favail, disk.f_files, bool(disk.f_flag & os.ST_RDONLY) and path == state_directory,
                ),
            )  # fmt: skip
    return list(found.values())


def _memory_limit(root: Path) -> int | None:
    text = updates.read_text(root, f"/{_CGROUP}").strip()
    return int(text) if text.isdecimal() else None


def _synchronized() -> bool | None:
    """Ask the kernel whether something keeps its clock."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _UNSYNCHRONIZED


def _said(*command: str) -> str | None:
    """Return a program's output; None if it is missing, fails or hangs."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=_COMMAND_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout
