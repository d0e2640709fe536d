"""What a container may be given of the board: what the configuration does not allow is refused, field by field.

Asked when a service is stored, and again when its container is made: a path may have become a link meanwhile.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from posixpath import normpath

from homed.config import Containers
from homed.containers import device_policy
from homed.containers.mappings import capability, parse_device, parse_volume
from homed.containers.protected import MountTable, Protected, inside, overlapping
from homed.containers.spec import ServiceSpec
from homed.errors import FieldError

# Paths that are not data of a service: not backed up and not replaced by a restore.
_SYSTEM = (
    "/bin", "/boot", "/efi", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/snap", "/sys",
    "/usr", "/var/backups", "/var/lib/containerd", "/var/lib/docker", "/var/lib/dpkg", "/var/lib/homed",
    "/var/lib/lxd", "/var/lib/NetworkManager", "/var/lib/snapd", "/var/lib/systemd", "/var/log", "/var/run",
    "/var/snap", "/var/spool",
)  # fmt: skip
# A user's folder itself, and what is hidden in it (.ssh, .profile), is a way to log in: often with sudo.
_HIDDEN = re.compile(r"(/[^/]+(/\..*)?)?")
_NO_LOGIN = ("nologin", "false", "sync", "halt", "shutdown")
# Harmless to read, and asked for by many images. Not all of /run/udev: it holds the socket that commands udev, and a
# socket takes orders on a read-only mount too.
_READABLE = (
    "/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo", "/run/udev/data", "/etc/ssl/certs",
    "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/etc/nv_tegra_release",
    "/sys/firmware/devicetree/base",
)  # fmt: skip
# A process's root, files and working directory: they differ for each reader, so they cannot be checked.
_PROCESS = re.compile(r"/proc/(self|thread-self|\d+)(/.*)?")


def real_path(path: str) -> str:
    """Where a path leads. What may not be looked into may lead anywhere: it counts as the root."""
    try:
        return os.path.realpath(path, strict=True)
    except PermissionError:
        return "/"
    except OSError:  # it is not there yet, or its links go round
        return os.path.realpath(path)


def violations(
    spec: ServiceSpec, allowed: Containers, protected: Protected, resolve: Callable[[str], str] = real_path
) -> list[FieldError]:
    """Every field that asks for more than is allowed."""
    return list(_violations(spec, allowed, protected, resolve))


def _violations(
    spec: ServiceSpec, allowed: Containers, protected: Protected, resolve: Callable[[str], str]
) -> Iterator[FieldError]:
    if spec.privileged and not allowed.allow_privileged:
        yield FieldError("privileged", "is not allowed here: containers.allow_privileged is off")
    table = MountTable() if spec.volumes else None
    for i, text in enumerate(spec.volumes):
        volume = parse_volume(text)
        if not volume.is_path:
            continue
        try:
            refused = _mount_refusal(volume.source, volume.read_only, allowed, protected, table, resolve)
        except OSError as error:  # such as /proc/1/root
            refused = f"cannot be looked at: {error.strerror}"
        if refused is not None:
            yield FieldError(f"volumes[{i}]", refused)
    if allowed.allow_privileged:  # it includes these
        return
    for i, text in enumerate(spec.cap_add):
        if capability(text) not in allowed.capabilities:
            message = f"{capability(text)} is not in containers.capabilities, and containers.allow_privileged is off"
            yield FieldError(f"cap_add[{i}]", message)
    for i, text in enumerate(spec.devices):
        refused = device_policy.refusal(parse_device(text).source, allowed.devices, resolve)
        if refused is not None:
            yield FieldError(f"devices[{i}]", f"{refused}, and containers.allow_privileged is off")


def _mount_refusal(
    source: str,
    read_only: bool,
    allowed: Containers,
    protected: Protected,
    table: MountTable | None,
    resolve: Callable[[str], str],
) -> str | None:
    written = normpath(f"/{source.lstrip('/')}")
    if _PROCESS.fullmatch(written):
        return f"{source} leads into a process: it can never be mounted"
    if inside(written, "/proc") and not allowed.allow_host_root:
        return f"{source} belongs to the system, and containers.allow_host_root is off"
    real = resolve(source)
    engine = allowed.engine.removeprefix("unix://")
    if engine.startswith("/"):
        socket = resolve(engine)
        if inside(engine, written) or overlapping(real, (socket,), table):
            if not allowed.allow_docker_socket:
                return "holds Docker's socket: containers.allow_docker_socket is off"
            if real == socket:
                return None
    readable = read_only and any(inside(real, path) for path in _READABLE)
    held = protected.conflict(real, table, code=not readable)
    if held is not None:
        return f"{real} is homed's own, or holds or lies in it ({held}): it can never be mounted"
    if readable or allowed.allow_host_root:
        return None
    return _outside(real, [resolve(root) for root in allowed.data_roots], resolve)


def _outside(real: str, roots: list[str], resolve: Callable[[str], str]) -> str | None:
    """Return why a path is not allowed as data: it lies in no data root, or is a user's own."""
    within = [root for root in roots if inside(real, root)]
    if not within:
        return (
            f"{real} lies in none of containers.data_roots ({', '.join(roots)}), and containers.allow_host_root is off:"
            " use a folder in one of them, or a named volume"
        )
    home = resolve("/home")
    # A root at or below a user's home directory is intentional.
    if any(inside(root, home) and root != home for root in within):
        return None
    if inside(real, home) and _HIDDEN.fullmatch(real[len(home.rstrip("/")) :]):
        return f"{real} is a user's own, or hidden in his folder: containers.data_roots does not name it"
    for user in login_homes(resolve):
        is_own = inside(user, real) or (inside(real, user) and real[len(user) :].startswith("/."))
        if is_own and not any(inside(root, user) for root in within):
            return f"{real} is a user's own, or hidden in his folder: containers.data_roots does not name it"
    return None


def login_homes(resolve: Callable[[str], str], accounts: str = "/etc/passwd") -> list[str]:
    """Return the home directories of users who may log in."""
    found = []
    try:
        with open(accounts, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                fields = line.rstrip("\n").split(":")
                if len(fields) == 7 and fields[6].rpartition("/")[2] not in _NO_LOGIN and fields[5].startswith("/"):
                    found.append(resolve(fields[5]))
    except OSError:
        return []
    return [home for home in dict.fromkeys(found) if home != "/"]


def is_the_systems(real: str, protected: Protected, resolve: Callable[[str], str] = real_path) -> bool:
    """Whether a path, links followed, is the system's or homed's own, or holds some of it: whatever is allowed."""
    if _touches(real, _SYSTEM) or protected.conflict(real) is not None:
        return True
    home = resolve("/home")
    return inside(real, home) and bool(_HIDDEN.fullmatch(real[len(home.rstrip("/")) :]))


def _touches(real: str, paths: Iterable[str]) -> bool:
    return any(inside(path, real) or inside(real, path) for path in paths)
