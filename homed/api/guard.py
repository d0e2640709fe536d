"""Who may speak to this API at all: the Host header, the Origin header, and cross-origin requests.

A page that a browser has open can send requests to 127.0.0.1 or to the board. Two checks hold it off:
the Host must be a name of this board (DNS rebinding), and an Origin must be the same host or on the allow-list.
"""

from collections.abc import Collection, Mapping
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit


def host_name(header: str) -> str:
    """The name in a Host header, lower case, without port and brackets; empty where it is none."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1 : header.find("]")] if "]" in header else ""
    name, _, port = header.partition(":")
    return name if not port or port.isdigit() else ""


def host_allowed(header: str, names: Collection[str]) -> bool:
    """An address may be named as it is: a rebinding page can only come by a name. Names must be the board's own."""
    name = host_name(header)
    if not name:
        return False
    if name in names or name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name)


@lru_cache(256)
def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def origin_allowed(origin: str, host: str, scheme: str, allowed: Collection[str]) -> bool:
    """The page's own host and port and scheme, or one on the allow-list; `null` and nonsense never are."""
    if origin in allowed:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme == scheme and bool(parts.netloc) and parts.netloc.lower() == host.strip().lower()


def is_of_another_site(headers: Mapping[str, str]) -> bool:
    """Return whether a browser marks the request as cross-site: images and links have no Origin header."""
    return headers.get("Sec-Fetch-Site", "none").lower() not in ("none", "same-origin")


def board_names(hostname: str, configured: Collection[str]) -> frozenset[str]:
    """The names under which this board may be addressed."""
    hostname = hostname.lower()
    short = hostname.partition(".")[0]
    return frozenset({hostname, short, f"{short}.local", *(name.lower() for name in configured)})
