"""Addresses to listen on, as the configuration names them."""

import re
from ipaddress import ip_address
from typing import Final

_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.\-]*[A-Za-z0-9_])?")
_MAX_HOST_NAME = 253
NO_HOST: Final = "must be a host name or an IP address"


def parse_address(text: str) -> tuple[str, int | None]:
    """`host:port`, `[v6]:port` or `unix:/path` (its port is None). ValueError where it is none of these."""
    if text.startswith("unix:/"):
        return text, None
    host, colon, port = text.rpartition(":")
    if not colon or not is_host(host.strip("[]")) or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("must be host:port, [address]:port or unix:/path")
    return host.strip("[]"), int(port)


def is_host(text: str) -> bool:
    """Tell whether this can be an address to listen on: a host name or an IP address."""
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return len(text) <= _MAX_HOST_NAME and _HOST_NAME.fullmatch(text) is not None
    return True
