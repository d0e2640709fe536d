"""homed's own sockets, from the kernel's tables: its listeners and its connections.

A request that homed makes for somebody else must not come back to it: it would come from the board's own user, over the
loopback. The kernel is asked rather than the configuration, so that no socket is missed, whoever has opened it.
"""

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)
_MAX_PROCESSES: Final = 256


class Listener(NamedTuple):
    address: IPv4Address | IPv6Address
    port: int


def is_own_listener(address: str, port: int) -> bool:
    """Return whether a connection to this address would reach homed itself. `address` may have a zone (`%eth0`)."""
    return reaches(address, port, listeners())


def reaches(address: str, port: int, known: Iterable[Listener]) -> bool:
    """Return whether one of these listeners receives connections to that address."""
    ours = [one.address for one in known if one.port == port]
    if not ours:
        return False
    wanted = _plain(ip_address(address.partition("%")[0]))
    if wanted in ours or wanted.is_unspecified:
        return True
    return any(one.is_unspecified for one in ours) and is_local(address)


def is_local(address: str) -> bool:
    """Return whether an address belongs to this machine, tested by binding a socket. True when in doubt."""
    plain = _plain(ip_address(address.partition("%")[0]))
    family = socket.AF_INET if plain.version == 4 else socket.AF_INET6
    text = str(plain) if plain.version == 4 else address
    try:
        where = socket.getaddrinfo(text, 0, family, socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0][4]
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.bind(where)
    except OSError as error:
        return not isinstance(error, socket.gaierror) and _is_unsure(error)
    return True


def listeners() -> list[Listener]:
    """Return every TCP address that this process listens on."""
    found = []
    for descriptor in _descriptors(os.getpid()):
        try:
            number = os.dup(descriptor)
        except OSError:
            continue
        try:
            one = socket.socket(fileno=number)
        except OSError:
            os.close(number)
            continue
        with one:
            try:
                if one.family in _INTERNET and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    host, port = one.getsockname()[:2]
                    found.append(Listener(_plain(ip_address(host.partition("%")[0])), port))
            except OSError:
                continue
    return found


def holds(inode: int, proc: Path = _PROC) -> bool:
    """Return whether homed, or a descendant process of it, has this socket open."""
    name = f"socket:[{inode}]"
    return any(
        _link(proc / str(pid) / "fd" / str(one)) == name for pid in _family(proc) for one in _descriptors(pid, proc)
    )


def _family(proc: Path) -> Iterator[int]:
    """Return the PIDs of this process and its descendants."""
    waiting, seen = [os.getpid()], 0
    while waiting and seen < _MAX_PROCESSES:
        pid = waiting.pop()
        seen += 1
        yield pid
        try:
            for thread in os.listdir(proc / str(pid) / "task"):
                children = (proc / str(pid) / "task" / thread / "children").read_text()
                waiting += [int(word) for word in children.split()]
        except OSError:
            continue


def _descriptors(pid: int, proc: Path = _PROC) -> list[int]:
    try:
        return [int(name) for name in os.listdir(proc / str(pid) / "fd")]
    except OSError:
        return []


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """An IPv4 address that is written as one of IPv6 is that; any one of IPv6 that means all means all of both."""
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _is_unsure(error: OSError) -> bool:
    return error.errno != errno.EADDRNOTAVAIL
