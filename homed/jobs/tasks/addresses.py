"""Which addresses the task http_request may connect to: the ones out on the internet, unless others are allowed."""

import ipaddress
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

_THIS_NETWORK = IPv4Network("0.0.0.0/8")
# Never out there, whatever Python's version says of them: shared by carriers, for protocols, relays, benchmarks.
_SPECIAL = tuple(
    IPv4Network(text) for text in ("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "240.0.0.0/4")
)
_GLOBAL = IPv6Network("2000::/3")
_PROTOCOLS, _DOCUMENTS = IPv6Network("2001::/23"), (IPv6Network("2001:db8::/32"), IPv6Network("3fff::/20"))
_6TO4 = IPv6Network("2002::/16")
# What a translator (NAT64) makes of an IPv4 address: its last 32 bits are that.
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/96"))
_COMPATIBLE = IPv6Network("::/96")


def is_allowed(address: str, *, allow_private: bool) -> bool:
    """`address` is what a socket would connect to, a zone (`%eth0`) and all."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(_alone(one, allow_private=allow_private) for one in _with_inner(parsed))


def _with_inner(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address | IPv6Address]:
    """The address, or the one of IPv4 that it stands for: to that it leads."""
    if isinstance(address, IPv4Address):
        yield address
    elif address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif any(address in network for network in _NAT64) or (address in _COMPATIBLE and int(address) > 1):
        yield IPv4Address(int(address) & 0xFFFFFFFF)
    elif address in _6TO4:
        yield IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    else:
        yield address


def _alone(address: IPv4Address | IPv6Address, *, allow_private: bool) -> bool:
    if address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255":
        return False
    if allow_private and (address.is_loopback or address.is_link_local or address.is_private):
        return not (isinstance(address, IPv4Address) and address in _THIS_NETWORK)
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _SPECIAL)
    special = address in _PROTOCOLS or any(address in network for network in _DOCUMENTS)
    return address in _GLOBAL and address.is_global and not special
