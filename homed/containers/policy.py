"""What a container may be given of the board: what the configuration does not allow is refused, field by field.

Asked when a service is stored, and again when its container is made: a path may have become a link meanwhile.
"""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from homed.config import Containers
from homed.containers.spec import ServiceSpec, parse_device, parse_volume
from homed.errors import FieldError

# Mounting one of these, or a folder above one, hands over the board.
_SYSTEM = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr",
    "/var/lib/containerd", "/var/lib/docker", "/var/lib/homed", "/var/lib/systemd", "/var/run", "/var/spool/cron",
)  # fmt: skip
# Harmless to read, and asked for by many images.
_READABLE = ("/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo", "/run/udev", "/etc/ssl/certs")
_MEMORY_DEVICES = ("/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg")


def violations(
    spec: ServiceSpec, allowed: Containers, state: Path, resolve: Callable[[str], str] = os.path.realpath
) -> list[FieldError]:
    """Every field that asks for more than is allowed."""
    return list(_violations(spec, allowed, state, resolve))


def _violations(
    spec: ServiceSpec, allowed: Containers, state: Path, resolve: Callable[[str], str]
) -> Iterator[FieldError]:
    if spec.privileged and not allowed.allow_privileged:
        yield FieldError("privileged", "is not allowed here: containers.allow_privileged is off")
    engine = allowed.engine.removeprefix("unix://")
    for i, text in enumerate(spec.volumes):
        volume = parse_volume(text)
        if not volume.is_path:
            continue
        real = resolve(volume.source)
        if _holds_socket(real, resolve(engine), volume.source, engine) and not allowed.allow_docker_socket:
            yield FieldError(f"volumes[{i}]", "holds Docker's socket: containers.allow_docker_socket is off")
        elif _is_system(real, volume.read_only, resolve(str(state))) and not (
            allowed.allow_host_root or real == resolve(engine)
        ):
            yield FieldError(f"volumes[{i}]", f"{real} is the system's: containers.allow_host_root is off")
    for i, text in enumerate(spec.devices):
        if not allowed.allow_privileged and _is_raw(resolve(parse_device(text).source)):
            yield FieldError(f"devices[{i}]", "is raw memory or a disk: containers.allow_privileged is off")


def _holds_socket(real: str, engine: str, *others: str) -> bool:
    return _inside(engine, real) or _inside(others[1], others[0])


def _is_system(real: str, read_only: bool, state: str) -> bool:
    if read_only and any(_inside(real, path) for path in _READABLE):
        return False
    return any(_inside(path, real) or _inside(real, path) for path in (*_SYSTEM, state))


def _inside(path: str, folder: str) -> bool:
    folder = folder.rstrip("/")
    return not folder or path == folder or path.startswith(f"{folder}/")


def _is_raw(path: str) -> bool:
    if path in _MEMORY_DEVICES:
        return True
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False
