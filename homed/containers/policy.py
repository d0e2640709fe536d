"""What a container may be given of the board: what the configuration does not allow is refused, field by field.

Asked when a service is stored, and again when its container is made: a path may have become a link meanwhile.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from homed.config import Containers
from homed.containers.spec import ServiceSpec, parse_device, parse_volume
from homed.errors import FieldError

# Mounting one of these, or a folder above one, hands over the board.
_SYSTEM = (
    "/bin", "/boot", "/efi", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/snap", "/sys",
    "/usr", "/var/backups", "/var/lib/containerd", "/var/lib/docker", "/var/lib/dpkg", "/var/lib/homed",
    "/var/lib/lxd", "/var/lib/NetworkManager", "/var/lib/snapd", "/var/lib/systemd", "/var/log", "/var/run",
    "/var/snap", "/var/spool",
)  # fmt: skip
# A user's folder itself, and what is hidden in it (.ssh, .profile), is a way to log in: often with sudo.
_HOME = re.compile(r"/home(/[^/]+(/\..*)?)?")
# Harmless to read, and asked for by many images. Not all of /run/udev: it holds the socket that commands udev, and a
# socket takes orders on a read-only mount too.
_READABLE = ("/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo", "/run/udev/data", "/etc/ssl/certs")
# Character devices that reach memory, flash or disks; disks themselves are told by their kind.
_RAW = re.compile(r"/dev/(mem|kmem|port|kmsg|nvram|vc-mem|(mtd|sg|bsg|ubi|nvme|ng\d|mmcblk|raw/|cpu/).*)")


def real_path(path: str) -> str:
    """Where a path leads. What may not be looked into may lead anywhere: it counts as the root."""
    try:
        return os.path.realpath(path, strict=True)
    except PermissionError:
        return "/"
    except OSError:  # it is not there yet, or its links go round
        return os.path.realpath(path)


def violations(
    spec: ServiceSpec, allowed: Containers, state: Path, resolve: Callable[[str], str] = real_path
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
        # What is in /proc leads elsewhere for each process that looks: where to, cannot be told for the engine.
        if inside(os.path.normpath(f"/{volume.source.lstrip('/')}"), "/proc") and not allowed.allow_host_root:
            yield FieldError(f"volumes[{i}]", f"{volume.source} is the system's: containers.allow_host_root is off")
            continue
        try:
            real = resolve(volume.source)
        except OSError as error:  # such as /proc/1/root
            yield FieldError(f"volumes[{i}]", f"cannot be looked at: {error.strerror}")
            continue
        if _holds_socket(real, resolve(engine), volume.source, engine) and not allowed.allow_docker_socket:
            yield FieldError(f"volumes[{i}]", "holds Docker's socket: containers.allow_docker_socket is off")
        elif _is_system(real, volume.read_only, resolve(str(state))) and not (
            allowed.allow_host_root or real == resolve(engine)
        ):
            yield FieldError(f"volumes[{i}]", f"{real} is the system's: containers.allow_host_root is off")
    for i, text in enumerate(spec.devices):
        if not allowed.allow_privileged and _is_raw(parse_device(text).source, resolve):
            yield FieldError(f"devices[{i}]", "is raw memory or a disk: containers.allow_privileged is off")


def is_the_systems(real: str, state: Path, resolve: Callable[[str], str] = real_path) -> bool:
    """Whether a path, links followed, is the system's or homed's own, or holds some of it: whatever is allowed."""
    return _is_system(real, read_only=False, state=resolve(str(state)))


def _holds_socket(real: str, engine: str, *others: str) -> bool:
    return inside(engine, real) or inside(others[1], others[0])


def _is_system(real: str, read_only: bool, state: str) -> bool:
    if read_only and any(inside(real, path) for path in _READABLE):
        return False
    if _HOME.fullmatch(real):
        return True
    return any(inside(path, real) or inside(real, path) for path in (*_SYSTEM, state))


def inside(path: str, folder: str) -> bool:
    folder = folder.rstrip("/")
    return not folder or path == folder or path.startswith(f"{folder}/")


def _is_raw(device: str, resolve: Callable[[str], str]) -> bool:
    """Whether a device is raw memory or a disk, or a folder that holds one: the engine hands over all that is in it."""
    try:
        path = resolve(device)
        if path == "/dev" or _RAW.fullmatch(path):
            return True
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            inside = (f"{folder}/{name}" for folder, _, names in os.walk(path) for name in names)
            return any(_RAW.fullmatch(one) or stat.S_ISBLK(os.lstat(one).st_mode) for one in inside)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return stat.S_ISBLK(mode)
