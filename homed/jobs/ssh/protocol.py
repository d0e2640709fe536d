"""asyncssh's connection, made tolerant of foreign text, and bounded in what a hostile host can make it compute.

asyncssh decodes much of what a host says strictly, and ends the connection if that fails: a banner or a question for
the password in Latin-1 locks homed out. It also has OpenSSL prove that the group of a Diffie-Hellman exchange is made
of primes. With groups that OpenSSL does not know that takes 1.5 s at 2,048 bits and 22 s at 4,096, on the event loop
and without giving up the interpreter's lock. No option changes either, and the classes are fixed in `asyncssh.connect`:
so a connection becomes a `Connection` as soon as it is made, before it has read anything.
"""

import secrets
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, Final

import asyncssh
from asyncssh.packet import SSHPacket

from homed.jobs.ssh import keyformat
from homed.jobs.ssh.algorithms import Algorithms, mismatch

_KEXINIT: Final = 20
_COOKIE: Final = 16
_OFFERS: Final = 6
# Those that carry text for people: disconnect, debug, banner, question, refusal of a channel.
_TEXTS: Final = frozenset({1, 4, 53, 60, 92})
_EXIT_SIGNAL: Final = b"exit-signal"
_ASCII: Final = bytes(byte if byte < 128 else ord("?") for byte in range(256))
_MIN_GROUP, _MAX_GROUP = 1024, 8192
# Twice the strength of what is agreed on, as OpenSSH has it.
_EXPONENT_BITS: Final = 512


class Connection(asyncssh.SSHClientConnection):
    """See the module. `adopt` makes one; `guard` is told what the host offers."""

    guard: "Guard"

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> bool | Awaitable[None]:
        if pkttype == _KEXINIT:
            self._judge_offer(SSHPacket(packet.get_full_payload()))
        return super().process_packet(pkttype, pktid, _tolerant(pkttype, packet))

    def validate_server_host_key(self, key_data: bytes) -> asyncssh.SSHKey:
        """Check the type and size of the host key before it is decoded."""
        why = keyformat.judge_public(key_data)
        if why is not None:
            raise asyncssh.HostKeyNotVerifiable(f"its host key {why}")
        return super().validate_server_host_key(key_data)

    def _judge_offer(self, packet: SSHPacket) -> None:
        """Raise KeyExchangeFailed if nothing is in common. Of host keys asyncssh leaves that to the host, which ends
        the connection without a word.
        """
        packet.get_bytes(1 + _COOKIE)
        offered = [[name.decode("ascii", "replace") for name in packet.get_namelist()] for _ in range(_OFFERS)]
        self.guard.offered = offered
        if mismatch(self.guard.algorithms, offered) is not None:
            raise asyncssh.KeyExchangeFailed("no algorithm in common")

    def _recv_version(self) -> bool:
        """The version's bytes as they are take part in the exchange; as text it is made ASCII."""
        line, end, rest = self._inpbuf.partition(b"\n")
        if not end or line.isascii():
            return super()._recv_version()
        self._inpbuf = line.translate(_ASCII) + end + rest
        taken = super()._recv_version()
        if self._server_version:
            self._server_version = line.removesuffix(b"\r")
        return taken

    # The library makes these as the handshake goes on; each is changed as it is made.

    @property
    def _kex(self) -> Any:
        return self.__dict__.get("bounded_kex")

    @_kex.setter
    def _kex(self, kex: Any) -> None:
        if kex is not None and kex.algorithm.startswith(b"diffie-hellman-"):
            kex._perform_init = partial(_begin_exchange, kex)
        self.__dict__["bounded_kex"] = kex

    @property
    def _auth(self) -> Any:
        return self.__dict__.get("tolerant_auth")

    @_auth.setter
    def _auth(self, auth: Any) -> None:
        if auth is not None:
            auth.process_packet = partial(_process, auth.process_packet)
        self.__dict__["tolerant_auth"] = auth

    def add_channel(self, chan: Any) -> int:
        chan.process_packet = partial(_process, chan.process_packet)
        return super().add_channel(chan)


class Guard(asyncssh.SSHClient):
    """The owner of a connection, which becomes a `Connection`. `offered`: the algorithms that the host has, by kind."""

    def __init__(self, algorithms: Algorithms):
        self.algorithms = algorithms
        self.offered: Sequence[Sequence[str]] = ()

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        auth, kex = conn._auth, conn._kex
        conn.__class__ = Connection
        assert isinstance(conn, Connection)
        conn.guard = self
        conn._auth, conn._kex = auth, kex
        # It was bound before.
        conn._recv_handler = conn._recv_version


class _Text(bytes):
    """Bytes whose decoding never fails."""

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, "replace")


class _TolerantPacket(SSHPacket):
    def get_string(self) -> bytes:
        return _Text(super().get_string())


class _Exchange:
    """A Diffie-Hellman exchange by Python's own arithmetic. The group is the host's choice, and trusted as far as the
    host is, which proves who it is by signing it.
    """

    def __init__(self, generator: int, prime: int):
        bits = prime.bit_length()
        if not _MIN_GROUP <= bits <= _MAX_GROUP or prime % 2 == 0 or not 1 < generator < prime - 1:
            raise asyncssh.ProtocolError(f"Diffie-Hellman group of {bits} bits is not acceptable")
        self._prime = prime
        self._secret = secrets.randbits(min(_EXPONENT_BITS, bits - 2)) | 1 << (min(_EXPONENT_BITS, bits - 2) - 1)
        self._public = pow(generator, self._secret, prime)

    def get_public(self) -> int:
        return self._public

    def get_shared(self, theirs: int) -> int:
        if not 1 < theirs < self._prime - 1:
            raise asyncssh.ProtocolError("Diffie-Hellman value out of range")
        return pow(theirs, self._secret, self._prime)


def _begin_exchange(kex: Any) -> None:
    kex._dh = _Exchange(kex._g, kex._p)
    kex._e = kex._dh.get_public()
    kex._send_init()


def _process(process: Any, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
    return process(pkttype, pktid, _tolerant(pkttype, packet))


def _tolerant(pkttype: int, packet: SSHPacket) -> SSHPacket:
    if pkttype not in _TEXTS and not (pkttype == 98 and _EXIT_SIGNAL in packet.get_full_payload()[:32]):
        return packet
    tolerant = _TolerantPacket(packet.get_full_payload())
    tolerant.get_bytes(len(packet.get_consumed_payload()))
    return tolerant
