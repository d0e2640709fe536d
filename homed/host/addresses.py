"""The addresses that this board is reached at in its network: what a certificate should name."""

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import NamedTuple

import psutil

_IF_INET6 = Path("/proc/net/if_inet6")
# Bridges and cables between containers: nobody comes from there by address.
_VIRTUAL = re.compile(r"docker\d*|br-[0-9a-f]{12}|veth.*|virbr.*|cni.*|flannel.*|podman.*")
_TEMPORARY, _DADFAILED, _DEPRECATED, _TENTATIVE = 0x01, 0x08, 0x20, 0x40
_LINK_SCOPE = 0x20
_LOCAL = IPv6Network("fc00::/7")


class Addresses(NamedTuple):
    """`lasting` are those that clients may know by heart; `all` also has global IPv6 ones, whose prefix may change."""

    lasting: Sequence[str]
    all: Sequence[str]


def read() -> Addresses:
    """Read the addresses of all interfaces but those between containers; loopback and link-local ones are left out."""
    four = {name: [one.address for one in found if one.family is socket.AF_INET]
            for name, found in psutil.net_if_addrs().items()}  # fmt: skip
    try:
        six = _IF_INET6.read_text(encoding="ascii")
    except OSError:  # a kernel without IPv6
        six = ""
    return choose(four, six)


def choose(four: Mapping[str, Sequence[str]], if_inet6: str) -> Addresses:
    """Choose from IPv4 addresses by interface, and the kernel's table of IPv6 ones (pure)."""
    fixed = {
        address
        for name, found in four.items()
        for address in found
        if not _VIRTUAL.fullmatch(name)
        and not ip_address(address).is_loopback
        and not ip_address(address).is_link_local
    }
    found = set(_inet6(if_inet6))
    lasting = fixed | {str(one) for one in found if one in _LOCAL}
    return Addresses(sorted(lasting), sorted(fixed | {str(one) for one in found}))


def _inet6(table: str) -> Iterator[IPv6Address]:
    for line in table.splitlines():
        address, _, _, scope, flags, name = line.split()
        unfit = int(flags, 16) & (_TEMPORARY | _DADFAILED | _DEPRECATED | _TENTATIVE)
        parsed = IPv6Address(int(address, 16))
        if not unfit and int(scope, 16) != _LINK_SCOPE and not parsed.is_loopback and not _VIRTUAL.fullmatch(name):
            yield parsed
