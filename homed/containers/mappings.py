"""The short forms of a service's fields (ports, volumes, devices, tmpfs, hosts, capabilities), parsed (pure).

Each function raises ValueError with the reason.
"""

import re
from ipaddress import ip_address
from posixpath import normpath
from typing import NamedTuple

_MAX_RANGE = 256
_NUMBERS = r"\d{1,5}(?:-\d{1,5})?"
_PORT = re.compile(
    rf"(?:(?:(?P<ip>\d{{1,3}}(?:\.\d{{1,3}}){{3}}|\[[0-9a-fA-F:.]+\]):)?(?P<host>(?:{_NUMBERS})?):)?"
    rf"(?P<port>{_NUMBERS})(?:/(?P<protocol>tcp|udp|sctp))?"
)
_TMPFS_FLAGS = frozenset(
    {"rw", "ro", "exec", "noexec", "suid", "nosuid", "nodev", "noatime", "nodiratime", "relatime", "strictatime"}
)
_TMPFS_VALUES = {
    "size": (r"[1-9]\d{0,14}[kKmMgG]?|[1-9]\d?%|100%", "bytes, 64m, 1g or 10%"),
    "mode": (r"[0-7]{3,4}", "octal, as 1777"),
    "uid": (r"\d{1,10}", "a number"),
    "gid": (r"\d{1,10}", "a number"),
    "nr_inodes": (r"[1-9]\d{0,12}[kKmMgG]?", "a number"),
    "nr_blocks": (r"[1-9]\d{0,12}[kKmMgG]?", "a number"),
}
_HOST = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,251}[a-zA-Z0-9_])?")
HOST_GATEWAY = "host-gateway"


class PortMapping(NamedTuple):
    """A published port. With `host_port` None the engine chooses one; an empty `address` means all."""

    address: str
    host_port: int | None
    port: int
    protocol: str


class VolumeMapping(NamedTuple):
    """A mount. `source` is a path on the board, or the name of a volume."""

    source: str
    target: str
    read_only: bool

    @property
    def is_path(self) -> bool:
        return self.source.startswith("/")

    @property
    def name(self) -> str:
        """The source in normalized form."""
        return flat(self.source) if self.is_path else self.source


class DeviceMapping(NamedTuple):
    source: str
    target: str
    permissions: str


class Tmpfs(NamedTuple):
    """A tmpfs mount. `options` are those of mount(8); empty for the engine's defaults."""

    target: str
    options: str


def flat(path: str) -> str:
    """Normalize an absolute path: without `.`, doubled and trailing slashes."""
    return normpath(f"/{path.lstrip('/')}")


def parse_ports(text: str) -> list[PortMapping]:
    """`80`, `8080:80`, `127.0.0.1:8080:80`, `[::1]:8080:80`, `8000-8010:9000-9010`, each with `/tcp`, `/udp`, `/sctp`.

    A range is as many mappings.
    """
    match = _PORT.fullmatch(text)
    if not match:
        raise ValueError("must be like 8080:80, 127.0.0.1:8080:80, 8000-8010:9000-9010 or 5353:5353/udp")
    hosts = _numbers(match["host"]) if match["host"] else None
    ports = _numbers(match["port"])
    if hosts is not None and len(hosts) != len(ports):
        raise ValueError("the two ranges of ports must be equally long")
    address = (match["ip"] or "").strip("[]")
    if address:
        try:
            ip_address(address)
        except ValueError as error:
            raise ValueError("is not an address of this board") from error
    protocol = match["protocol"] or "tcp"
    return [
        PortMapping(address, None if hosts is None else host, port, protocol)
        for host, port in zip(hosts or ports, ports, strict=True)
    ]


def parse_port(text: str) -> PortMapping:
    """Parse a single mapping without ranges."""
    found = parse_ports(text)
    if len(found) != 1:
        raise ValueError("is a range of ports")
    return found[0]


def _numbers(text: str) -> range:
    first, _, last = text.partition("-")
    numbers = range(int(first), int(last or first) + 1)
    if not numbers:
        raise ValueError("a range of ports begins with the lower one")
    if numbers[0] < 1 or numbers[-1] > 65535:
        raise ValueError("a port is between 1 and 65535")
    if len(numbers) > _MAX_RANGE:
        raise ValueError(f"a range may have at most {_MAX_RANGE} ports")
    return numbers


def parse_volume(text: str) -> VolumeMapping:
    """`/path/on/board:/path/in/container` or `volume:/path`, each with `:ro` or `:rw`; there are no other options."""
    parts = text.split(":")
    mode = parts.pop() if len(parts) == 3 else "rw"
    if len(parts) != 2 or mode not in ("ro", "rw") or "\0" in text:
        raise ValueError("must be like /data/app:/data, volume:/data or /data/app:/data:ro")
    source, target = parts
    if not target.startswith("/") or ".." in target.split("/") or target.rstrip("/") == "":
        raise ValueError("the path in the container must be absolute and not /")
    if source.startswith("/"):
        if ".." in source.split("/"):
            raise ValueError("the path on the board must not hold '..'")
    elif not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}", source):
        raise ValueError("must begin with an absolute path of the board or a volume's name")
    return VolumeMapping(source, target, mode == "ro")


def parse_device(text: str) -> DeviceMapping:
    """`/dev/ttyUSB0`, `/dev/ttyUSB0:/dev/modem`, `/dev/ttyUSB0:/dev/modem:rw`."""
    parts = text.split(":")
    permissions = parts[2] if len(parts) == 3 else "rwm"
    if not 1 <= len(parts) <= 3 or not re.fullmatch("r?w?m?", permissions) or not permissions:
        raise ValueError("must be like /dev/ttyUSB0 or /dev/ttyUSB0:/dev/modem:rwm")
    target = parts[1] if len(parts) > 1 else parts[0]
    if any(not path.startswith("/dev/") or ".." in path.split("/") or "\0" in path for path in (parts[0], target)):
        raise ValueError("a device's path must begin with /dev/")
    return DeviceMapping(parts[0], target, permissions)


def split_tmpfs(text: str) -> Tmpfs:
    """Split into the path and the options, without validating them."""
    target, _, options = text.partition(":")
    if not target.startswith("/") or ".." in target.split("/") or "\0" in text:
        raise ValueError("must be an absolute path in the container")
    return Tmpfs(target, options)


def parse_tmpfs(text: str) -> Tmpfs:
    """`/tmp`, `/run:size=16m,mode=1777,noexec`."""
    tmpfs = split_tmpfs(text)
    if flat(tmpfs.target) == "/":
        raise ValueError("the path in the container must not be /")
    if not tmpfs.options:
        if text.endswith(":"):
            raise ValueError("has no options after its colon")
        return tmpfs
    seen = set()
    for option in tmpfs.options.split(","):
        name, equals, value = option.partition("=")
        if name in seen:
            raise ValueError(f"has the option {name} twice")
        seen.add(name)
        if name in _TMPFS_VALUES and equals:
            pattern, form = _TMPFS_VALUES[name]
            if not re.fullmatch(pattern, value, re.ASCII):
                raise ValueError(f"{name} must be {form}")
        elif equals or name not in _TMPFS_FLAGS:
            known = ", ".join([*(f"{one}=" for one in _TMPFS_VALUES), *sorted(_TMPFS_FLAGS)])
            raise ValueError(f"'{option[:64]}' is no option of a tmpfs: use {known}")
    return tmpfs


def parse_extra_host(text: str) -> tuple[str, str]:
    """`name:address`, or `name:host-gateway` for the board as the container reaches it."""
    name, separator, address = text.partition(":")
    if not separator or not _HOST.fullmatch(name):
        raise ValueError("must be like db:10.0.0.5 or board:host-gateway")
    address = address.removeprefix("[").removesuffix("]")
    if address != HOST_GATEWAY:
        try:
            ip_address(address)
        except ValueError as error:
            raise ValueError(f"must end with an address or {HOST_GATEWAY}") from error
    return name, address


def capability(text: str) -> str:
    """Return a Linux capability's name in capitals, without CAP_."""
    name = text.upper().removeprefix("CAP_")
    if not re.fullmatch("[A-Z][A-Z_]{1,30}", name):
        raise ValueError("must be like NET_BIND_SERVICE")
    return name
