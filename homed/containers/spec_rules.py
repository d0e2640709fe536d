"""Rules for a new or changed service beyond the format of its fields (pure).

They do not apply to stored services: one that an earlier version accepted is kept.
"""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from homed.containers import image_reference
from homed.containers.mappings import PortMapping, flat, parse_device, parse_ports, parse_tmpfs, parse_volume
from homed.containers.spec import ServiceSpec
from homed.errors import FieldError

# The kernel's limit for one string of a program's environment, with the NUL at its end (MAX_ARG_STRLEN).
MAX_VARIABLE_BYTES = 131_072
_MAX_VARIABLES = 1024
_MAX_PORTS = 1024
# The only files in a container's /proc over which runc mounts something (lxcfs does).
_MOUNTABLE_IN_PROC = frozenset(
    f"/proc/{name}"
    for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "net/dev", "slabinfo", "stat", "swaps", "uptime")
)


def problems(spec: ServiceSpec) -> list[FieldError]:
    """Return an error for every field that breaks a rule."""
    return [*_image(spec), *_environment(spec), *_tmpfs(spec), *_ports(spec), *_targets(spec)]


def _image(spec: ServiceSpec) -> Iterator[FieldError]:
    try:
        image_reference.check(spec.image)
    except ValueError as error:
        yield FieldError("image", str(error))


def _environment(spec: ServiceSpec) -> Iterator[FieldError]:
    if len(spec.environment) > _MAX_VARIABLES:
        yield FieldError("environment", f"may have at most {_MAX_VARIABLES} variables")
    for name, value in spec.environment.items():
        if len(f"{name}={value}".encode()) + 1 > MAX_VARIABLE_BYTES:
            message = f"may have at most {MAX_VARIABLE_BYTES - 1} bytes with its name and '=': the kernel takes no more"
            yield FieldError(f"environment.{name[:64]}", message)


def _tmpfs(spec: ServiceSpec) -> Iterator[FieldError]:
    for i, text in enumerate(spec.tmpfs):
        try:
            parse_tmpfs(text)
        except ValueError as error:
            yield FieldError(f"tmpfs[{i}]", str(error))


def _ports(spec: ServiceSpec) -> Iterator[FieldError]:
    """Find duplicate host ports, also in overlapping ranges and with the wildcard address."""
    taken: dict[tuple[int, str], list[tuple[str, int]]] = {}
    count = 0
    for i, text in enumerate(spec.ports):
        for port in parse_ports(text):
            count += 1
            if port.host_port is None:
                continue
            others = taken.setdefault((port.host_port, port.protocol), [])
            clash = next((other for address, other in others if _overlap(address, port.address)), None)
            if clash is not None:
                yield FieldError(f"ports[{i}]", _twice(port, clash))
                break
            others.append((port.address, i))
    if count > _MAX_PORTS:
        yield FieldError("ports", f"may be at most {_MAX_PORTS} with all ranges")


def _twice(port: PortMapping, other: int) -> str:
    return f"the board's port {port.host_port}/{port.protocol} is taken by ports[{other}] already"


def _overlap(one: str, other: str) -> bool:
    if not one or not other:
        return True
    first, second = ip_address(one), ip_address(other)
    if first.version != second.version:
        return False
    return first == second or first.is_unspecified or second.is_unspecified


def _targets(spec: ServiceSpec) -> Iterator[FieldError]:
    """Find paths of the container with two mounts, or two devices."""
    mounts = [
        *((f"volumes[{i}]", parse_volume(text).target) for i, text in enumerate(spec.volumes)),
        *((f"tmpfs[{i}]", text.partition(":")[0]) for i, text in enumerate(spec.tmpfs)),
    ]
    yield from _in_proc(mounts)
    yield from _repeated(mounts)
    yield from _repeated((f"devices[{i}]", parse_device(text).target) for i, text in enumerate(spec.devices))


def _in_proc(targets: Iterable[tuple[str, str]]) -> Iterator[FieldError]:
    for field, target in targets:
        path = flat(target)
        if path == "/proc" or (path.startswith("/proc/") and path not in _MOUNTABLE_IN_PROC):
            yield FieldError(field, f"{path} is the container's own: nothing can be mounted there")


def _repeated(targets: Iterable[tuple[str, str]]) -> Iterator[FieldError]:
    seen: dict[str, str] = {}
    for field, target in targets:
        first = seen.setdefault(flat(target), field)
        if first != field:
            yield FieldError(field, f"{flat(target)} in the container is taken by {first} already")
