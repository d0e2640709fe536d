"""The board's interfaces, addresses and default routes, asked of the kernel over netlink.

The only place that imports pyroute2, and only inside the function that needs it: the import costs 8.6 MB,
which a daemon that nobody asks for them need not hold. Both functions block for some milliseconds (the first
call for more), and pyroute2 runs an event loop of its own inside: call them from a worker thread only.
"""

import logging
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

T = TypeVar("T")

ROOT = Path("/")

_FAMILIES: dict[int, Literal["inet", "inet6"]] = {2: "inet", 10: "inet6"}
_SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
_LOOPBACK_TYPE = 772
_RUNNING_FLAG = 0x40
_MAIN_TABLE = 254
_UNICAST = 1
_ATTEMPTS = 5


class Address(msgspec.Struct, frozen=True):
    address: str
    prefix: int
    family: Literal["inet", "inet6"]
    scope: str


class Traffic(msgspec.Struct, frozen=True):
    """One direction's counters since the interface came to be."""

    bytes: int
    packets: int
    errors: int


class Interface(msgspec.Struct, frozen=True):
    """One network interface.

    `state` is whether it can carry traffic (a cable that is unplugged is `down`). `kind` is the kernel's word
    for an interface made of software (`bridge`, `veth`, `vlan`, `loopback`), None for hardware. `speed` is in
    Mbit/s, None where the driver does not know (Wi-Fi, no link).
    """

    name: str
    mac: str | None
    state: Literal["up", "down"]
    mtu: int
    kind: str | None
    speed: int | None
    addresses: tuple[Address, ...]
    rx: Traffic
    tx: Traffic


class Route(msgspec.Struct, frozen=True):
    """A default route. `gateway` is None on a point-to-point link; `metric`: the lowest is taken first."""

    gateway: str | None
    interface: str
    family: Literal["inet", "inet6"]
    metric: int


def interfaces(*, include_virtual: bool = False, root: Path = ROOT) -> tuple[Interface, ...]:
    """All interfaces by kernel index; containers' ends of veth pairs only with `include_virtual`.

    Raises OSError where the kernel refuses netlink (AF_NETLINK not among a unit's RestrictAddressFamilies=).
    """
    links, messages = _ask(lambda netlink: (list(netlink.get_links()), list(netlink.get_addr())))
    return tuple(
        _interface(link, _addresses(messages, link["index"]), root)
        for link in sorted(links, key=lambda link: int(link["index"]))
        if include_virtual or not _is_container_end(link)
    )


def default_routes() -> tuple[Route, ...]:
    """The main table's default routes, the preferred of each family first. OSError as `interfaces`."""
    messages = _ask(lambda netlink: list(netlink.get_routes()))
    routes = [route for message in messages if _is_default(message) for route in _routes(message)]
    return tuple(sorted(routes, key=lambda route: (route.family, route.metric)))


def _ask(question: Callable[[Any], T]) -> T:
    from pyroute2 import IPRoute  # 8.6 MB: see the module's docstring
    from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

    # At homed's own level debug it would tell of each message of the kernel's.
    logging.getLogger("pyroute2").setLevel(logging.INFO)
    try:
        with IPRoute() as netlink:
            for attempt in range(_ATTEMPTS):
                try:
                    return question(netlink)
                except NetlinkDumpInterrupted:
                    # Something changed while the kernel listed it (Docker starts a container): list again.
                    if attempt == _ATTEMPTS - 1:
                        raise
    except NetlinkError as error:
        raise OSError(error.code, f"netlink refused: {error}") from error
    raise AssertionError("the loop above returns or raises")


def _is_container_end(link: Any) -> bool:
    # Not every veth: a board that is itself a container has its own uplink (`host0`) as one.
    is_named_by_docker = str(link.get_attr("IFLA_IFNAME")).startswith("veth")
    return _kind(link) == "veth" and (is_named_by_docker or link.get_attr("IFLA_MASTER") is not None)


def _interface(link: Any, addresses: tuple[Address, ...], root: Path) -> Interface:
    name = str(link.get_attr("IFLA_IFNAME"))
    counters: dict[str, int] = link.get_attr("IFLA_STATS64") or link.get_attr("IFLA_STATS") or {}
    return Interface(
        name=name,
        mac=link.get_attr("IFLA_ADDRESS"),
        state=_state(link),
        mtu=int(link.get_attr("IFLA_MTU")),
        kind=_kind(link),
        speed=_speed(root, name),
        addresses=addresses,
        rx=_traffic(counters, "rx"),
        tx=_traffic(counters, "tx"),
    )


def _state(link: Any) -> Literal["up", "down"]:
    operational = link.get_attr("IFLA_OPERSTATE")
    # Loopback, tunnels and some drivers keep no operational state: the flag says whether they run.
    is_up = bool(link["flags"] & _RUNNING_FLAG) if operational in (None, "UNKNOWN") else operational == "UP"
    return "up" if is_up else "down"


def _kind(link: Any) -> str | None:
    if link["ifi_type"] == _LOOPBACK_TYPE:
        return "loopback"
    details = link.get_attr("IFLA_LINKINFO")
    return details.get_attr("IFLA_INFO_KIND") if details else None


def _speed(root: Path, name: str) -> int | None:
    try:
        megabits = int((root / "sys/class/net" / name / "speed").read_text())
    except (OSError, ValueError):
        # EINVAL: no link or no notion of speed.
        return None
    return megabits if megabits > 0 else None


def _traffic(counters: dict[str, int], direction: str) -> Traffic:
    read = {what: counters.get(f"{direction}_{what}", 0) for what in ("bytes", "packets", "errors")}
    return Traffic(**read)


def _addresses(messages: Iterable[Any], index: int) -> tuple[Address, ...]:
    return tuple(
        Address(
            # On a point-to-point link IFA_ADDRESS is the peer's; the board's own is IFA_LOCAL.
            address=message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"),
            prefix=message["prefixlen"],
            family=_FAMILIES[message["family"]],
            scope=_SCOPES.get(message["scope"], str(message["scope"])),
        )
        for message in messages
        if message["index"] == index and message["family"] in _FAMILIES
    )


def _is_default(message: Any) -> bool:
    return (
        message["dst_len"] == 0
        and message["family"] in _FAMILIES
        and message["type"] == _UNICAST
        and (message.get_attr("RTA_TABLE") or message["table"]) == _MAIN_TABLE
    )


def _routes(message: Any) -> list[Route]:
    """A route over several gateways at once (multipath) is one entry each."""
    family, metric = _FAMILIES[message["family"]], int(message.get_attr("RTA_PRIORITY") or 0)
    hops = message.get_attr("RTA_MULTIPATH")
    if hops:
        ways = [(_gateway(hop), hop["oif"]) for hop in hops]
    else:
        ways = [(_gateway(message), message.get_attr("RTA_OIF"))]
    named = [(gateway, _name(index)) for gateway, index in ways]
    return [Route(gateway, name, family, metric) for gateway, name in named if name is not None]


def _name(index: int) -> str | None:
    try:
        return socket.if_indextoname(index)
    except OSError:
        # The interface went away after the route was listed, and the route with it.
        return None


def _gateway(message: Any) -> str | None:
    if gateway := message.get_attr("RTA_GATEWAY"):
        return str(gateway)
    via = message.get_attr("RTA_VIA")  # a gateway of the other family
    return str(via["addr"]) if via else None
