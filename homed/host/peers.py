"""Who on this board is at the other end of a connection over the loopback, as the kernel knows.

sock_diag(7) finds one connection among many at once; where the kernel was built without it, /proc/net/tcp lists all.
"""

import errno
import os
import socket
import struct
from pathlib import Path
from typing import Final, NamedTuple

_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_REQUEST: Final = 1
_ERROR: Final = 2
_ALL_STATES: Final = 0xFFFFFFFF
_NO_COOKIE: Final = b"\xff" * 8
_HEAD = struct.Struct("=IHHII")
_WANTED = struct.Struct("=BBBxI")
_FOUND = struct.Struct("=4x48x12xII")
_WAIT = 0.1


class Owner(NamedTuple):
    """The owner of a socket: its user id, and its inode, which identifies the processes that have it open."""

    user: int
    inode: int


Address = tuple[str, int] | tuple[str, int, int, int]


def owner(client: Address, server: Address) -> Owner | None:
    """Return the owner of the client's socket; None if it is closed, or the kernel cannot tell.

    `client` and `server` are the addresses of a connection's two ends, both on this board.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as diag:
            # The kernel answers while it is asked: this is for what never comes.
            diag.settimeout(_WAIT)
            diag.send(_question(client, server))
            return _user(diag.recv(4096))
    except OSError:
        return None


def is_supported() -> bool:
    """Whether this kernel can tell at all: asked of a connection of our own."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        found = owner(client.getsockname(), server.getsockname())
        return found is not None and found.user == os.geteuid()


def listed_owner(client: Address, server: Address, proc: Path = Path("/proc")) -> Owner | None:
    """The same out of the kernel's list of all connections: slower with each of them."""
    wanted = [_listed(client), _listed(server)]
    try:
        lines = (proc / "net" / ("tcp6" if ":" in client[0] else "tcp")).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if words[1:3] == wanted:
            return Owner(int(words[7]), int(words[9])) if int(words[9]) else None
    return None


def _listed(address: Address) -> str:
    """As that list has it: each 32 bits of the address as a number of this machine, in hexadecimal."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, address[0])
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


def _question(client: Address, server: Address) -> bytes:
    family = socket.AF_INET6 if ":" in client[0] else socket.AF_INET
    body = b"".join((
        _WANTED.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES),
        struct.pack("!HH", client[1], server[1]),
        *(socket.inet_pton(family, one[0]).ljust(16, b"\0") for one in (client, server)),
        struct.pack("=I", 0),
        _NO_COOKIE,
    ))  # fmt: skip
    return _HEAD.pack(_HEAD.size + len(body), _BY_FAMILY, _REQUEST, 1, 0) + body


def _user(answer: bytes) -> Owner | None:
    _, kind, *_ = _HEAD.unpack_from(answer)
    if kind == _ERROR:
        (number,) = struct.unpack_from("=i", answer, _HEAD.size)
        raise OSError(-number, errno.errorcode.get(-number, ""))
    user, inode = _FOUND.unpack_from(answer, _HEAD.size)
    # Without an inode nobody has it open: then the kernel says 0, which is not root.
    return Owner(user, inode) if inode else None
