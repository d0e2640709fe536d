"""Connection limits, total and per client, with deadlines and the choice of the connection to drop.

Connections count from accept. Nothing here handles sockets. Groups of connections are nested (a client's, all from the
network, all): the narrowest full group drops its longest idle connection for a new one, which also makes room in the
wider groups.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import Enum

# Seconds. A client slower than these has lost its connection, or holds it without using it.
FIRST_BYTE_TIMEOUT = 10.0
HANDSHAKE_TIMEOUT = 5
HEAD_TIMEOUT = 10.0
KEEPALIVE_TIMEOUT = 75.0
CLOSE_TIMEOUT = 2.0
# Connections in addition to `api.connections`: for the command line, and those that serve only `/health`.
CONTROL_CONNECTIONS = 32
SPARE_CONNECTIONS = 8
_MAX_RESERVE = 8
_MIN_SWEEP_INTERVAL = 0.25


class Source(Enum):
    """The origin of a connection."""

    CONTROL = "control"
    LOCAL = "local"
    REMOTE = "remote"


class Group:
    """Connections that share a limit. `waiting` are those without a request, longest idle first."""

    __slots__ = ("count", "limit", "waiting")

    def __init__(self, limit: int):
        self.limit = limit
        self.count = 0
        self.waiting: OrderedDict[Connection, None] = OrderedDict()


class Connection:
    """One accepted connection. `drop` closes it immediately, `expire` starts closing it after its deadline.

    `ended`: it is closing, and counts until it is closed. `served`: a protocol handles it. `spare`: it was accepted
    when all others were in use, and serves only `/health`. `plain`: another machine uses plain HTTP on a TLS port, and
    gets an error that says so.
    """

    __slots__ = ("client", "deadline", "drop", "ended", "expire", "groups", "plain", "served", "spare")

    def __init__(self, client: str, groups: tuple[Group, ...], *, spare: bool = False):
        self.client = client
        self.groups = groups
        self.spare = spare
        self.plain = False
        self.served = False
        self.ended = False
        self.deadline = math.inf
        self.drop: Callable[[], None] = _nothing
        self.expire: Callable[[], None] = _nothing


def _nothing() -> None:
    pass


class Pool:
    """All connections of this homed. `dropped` is called with the reason for each refused or dropped one: `full`,
    `client` or `deadline`.

    `wake` is called with the earliest deadline whenever `sweep` must be called sooner than it last said.
    """

    def __init__(
        self,
        limit: int,
        per_client: int,
        dropped: Callable[[str], object] = lambda reason: None,
        wake: Callable[[float], object] = lambda deadline: None,
    ):
        reserve = min(_MAX_RESERVE, limit // 4)
        self._per_client = per_client
        self._told = dropped
        self._wake = wake
        self._next_sweep = math.inf
        self._all = Group(limit)
        self._remote = Group(limit - reserve)
        self._control = Group(CONTROL_CONNECTIONS)
        self._spare = {Source.LOCAL: Group(SPARE_CONNECTIONS), Source.REMOTE: Group(SPARE_CONNECTIONS)}
        self._clients: dict[str, Group] = {}
        self._connections: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._connections)

    def of_client(self, client: str) -> int:
        """Return how many connections a client from the network has."""
        group = self._clients.get(client)
        return group.count if group is not None else 0

    def admit(self, source: Source, client: str) -> Connection | None:
        """Count a new connection, dropping the longest idle one if the limit is reached; None if it must be refused."""
        if source is Source.CONTROL:
            return self._enter(client, (self._control,))
        if source is Source.LOCAL:
            entered = self._enter(client, (self._all,))
            return entered or self._enter_spare(source, client)
        own = self._clients.get(client) or Group(self._per_client)
        entered = self._enter(client, (own, self._remote, self._all))
        if entered is not None:
            self._clients[client] = own
        elif own.count < own.limit:
            return self._enter_spare(source, client)
        return entered

    def _enter_spare(self, source: Source, client: str) -> Connection | None:
        return self._enter(client, (self._spare[source],), spare=True)

    def _enter(self, client: str, groups: tuple[Group, ...], *, spare: bool = False) -> Connection | None:
        full = next((group for group in groups if group.count >= group.limit), None)
        reason = "client" if full is not None and full is self._clients.get(client) else "full"
        if full is not None and not self._drop_idlest((full,), reason):
            self._told(reason)
            return None
        connection = Connection(client, groups, spare=spare)
        for group in groups:
            group.count += 1
        self._connections.add(connection)
        return connection

    def drop_idlest(self) -> bool:
        """Drop the connection that has waited longest for a request; return False if none is waiting."""
        return self._drop_idlest((*self._spare.values(), self._all), "full")

    def _drop_idlest(self, groups: Iterable[Group], reason: str) -> bool:
        for group in groups:
            if group.waiting:
                self._told(reason)
                self._end(next(iter(group.waiting)))
                return True
        return False

    def wait(self, connection: Connection, deadline: float) -> None:
        """Mark a connection as waiting for a request, or the rest of one, until `deadline` (monotonic seconds)."""
        if connection.ended or connection not in self._connections:
            return
        for group in connection.groups:
            group.waiting.setdefault(connection, None)
        connection.deadline = deadline
        if deadline < self._next_sweep:
            self._next_sweep = deadline
            self._wake(deadline)

    def work(self, connection: Connection) -> None:
        """Mark a connection as busy, so that it is not dropped: a whole request has arrived."""
        for group in connection.groups:
            group.waiting.pop(connection, None)
        connection.deadline = math.inf

    def release(self, connection: Connection) -> None:
        """Remove a closed connection; idempotent."""
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        connection.deadline = math.inf
        for group in connection.groups:
            group.count -= 1
            group.waiting.pop(connection, None)
        own = self._clients.get(connection.client)
        if own is not None and not own.count:
            del self._clients[connection.client]

    def sweep(self, now: float) -> None:
        """Expire connections that have passed their deadline, and schedule `wake` for the next one."""
        for connection in [one for one in self._connections if one.deadline <= now]:
            if connection.ended:
                self._end(connection)
                continue
            self._told("deadline")
            connection.ended, connection.deadline = True, now + CLOSE_TIMEOUT
            connection.expire()
        self._next_sweep = min((one.deadline for one in self._connections), default=math.inf)
        if self._next_sweep < math.inf:
            self._next_sweep = max(self._next_sweep, now + _MIN_SWEEP_INTERVAL)
            self._wake(self._next_sweep)

    def close(self) -> None:
        """Close the connections that no protocol handles yet."""
        for connection in [one for one in self._connections if not one.served]:
            self._end(connection)

    def _end(self, connection: Connection) -> None:
        connection.ended = True
        self.release(connection)
        connection.drop()
