"""The boards' network: a bridge in a namespace of its own, which the machine reaches over a veth pair."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from .cache import cache, locked
from .process import RigError, command, spawn, until

# Set aside for tests between networks (RFC 2544), so that it is nobody's real network.
_POOL: Final = IPv4Network("198.18.0.0/15")

BRIDGE: Final = "boards"


class Network:
    """A /24 for the boards of one process. `host_address` is the machine in it; `join` hands out the others.

    A bridge in the machine's own namespace would pass through its packet filter (bridge-nf-call-iptables),
    where Docker drops what it does not know. In a namespace of its own the filter is empty. The namespace has
    no name: a process holds it, so that it vanishes with this process even if that is killed.
    """

    def __init__(self) -> None:
        self._holder = _hold_namespace()
        # A process's number is no other link's, and fits where 15 characters do.
        self.link: Final = f"boards{self._holder.pid}"
        try:
            with locked(cache() / "network.lock"):
                self.subnet = _free_subnet(os.getpid())
                self._addresses: Iterator[IPv4Address] = self.subnet.hosts()
                self.host_address = str(next(self._addresses))
                self._connect()
        except BaseException:
            self.close()
            raise

    @property
    def enter(self) -> tuple[str, ...]:
        """What to put before a command so that it runs in the bridge's namespace."""
        return ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--")

    def join(self) -> str:
        """An address that no other board has, with its prefix length."""
        try:
            return f"{next(self._addresses)}/{self.subnet.prefixlen}"
        except StopIteration:
            raise RigError(f"all addresses in {self.subnet} are taken") from None

    def unplug(self, name: str) -> None:
        """Remove a board's end at the bridge: of a killed board the kernel removes it in its own time."""
        with suppress(RigError):
            command(*self.enter, "ip", "link", "delete", f"vb-{name}")

    def close(self) -> None:
        """Remove the link to the machine and let go of the namespace."""
        with suppress(RigError):
            # Fails only if it is gone already, with the namespace of its other end.
            command("ip", "link", "delete", self.link)
        self._holder.kill()
        self._holder.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> None:
        host = f"{self.host_address}/{self.subnet.prefixlen}"
        command(*self.enter, "ip", "link", "add", BRIDGE, "type", "bridge")
        command(*self.enter, "ip", "link", "set", BRIDGE, "up")
        peer = ("peer", "name", "machine", "netns", str(self._holder.pid))
        command("ip", "link", "add", self.link, "type", "veth", *peer)
        command(*self.enter, "ip", "link", "set", "machine", "master", BRIDGE, "up")
        command("ip", "address", "add", host, "dev", self.link)
        command("ip", "link", "set", self.link, "up")


def _hold_namespace() -> subprocess.Popen[bytes]:
    with open(os.devnull, "wb") as nowhere:
        holder = spawn(("unshare", "--net", "sleep", "infinity"), dict(os.environ), nowhere)
    ours = os.readlink("/proc/self/ns/net")
    theirs = Path(f"/proc/{holder.pid}/ns/net")
    until("a network namespace", lambda: os.readlink(theirs) != ours, timeout=10, every=0.005)
    return holder


def _free_subnet(seed: int) -> IPv4Network:
    """A /24 of the pool that no link of this machine is in; the seed says where the search starts."""
    taken = [
        IPv4Network(f"{address['local']}/{address['prefixlen']}", strict=False)
        for link in json.loads(command("ip", "-4", "-json", "address"))
        for address in link["addr_info"]
    ]
    subnets = list(_POOL.subnets(new_prefix=24))
    start = seed % len(subnets)
    for subnet in (*subnets[start:], *subnets[:start]):
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise RigError(f"no network in {_POOL} is free")
