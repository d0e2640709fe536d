"""Connections, counted from accept: limits in all and per client, deadlines, and which one is dropped when it is full.

Nothing here knows sockets. Groups of connections are nested (a client's, all from the network, all): the narrowest
that is full gives up its idlest connection for a newcomer, and thereby makes room in the wider ones, too.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import Enum

# Seconds. A client that is slower than these has lost its connection or holds it for nothing.
FIRST_BYTE_TIMEOUT = 10.0
HANDSHAKE_TIMEOUT = 5
HEAD_TIMEOUT = 10.0
KEEPALIVE_TIMEOUT = 75.0
CLOSE_TIMEOUT = 2.0
# Connections beside `api.connections`: of the command line, and those that only `/health` is answered on.
CONTROL_CONNECTIONS = 32
SPARE_CONNECTIONS = 8
_MAX_RESERVE = 8
_MIN_SWEEP_INTERVAL = 0.25


class Source(Enum):
    """The side that a connection comes from."""

    CONTROL = "control"
    LOCAL = "local"
    REMOTE = "remote"


class Group:
    """Connections that share a limit. `waiting` are those without a request, the one that waits longest first."""

    __slots__ = ("count", "limit", "waiting")

    def __init__(self, limit: int):
        self.limit = limit
        self.count = 0
        self.waiting: OrderedDict[Connection, None] = OrderedDict()


class Connection:
    """One accepted connection. `drop` ends it at once, `expire` begins to end it when its deadline has passed.

    `ended`: it was told to end, and counts until it has. `served`: it has a protocol that answers. `spare`: it came
    when all others were taken, and is for `/health` alone. `plain`: it speaks HTTP on a TLS port from another machine,
    and is told so.
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
    """All connections of a homed. `dropped` is told why one was refused or ended: `full`, `client` or `deadline`.

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
        """Count a new connection, dropping the idlest in its favour when it is full; None if it must be refused."""
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
        """End the connection that has waited longest for its request; False if there is none."""
        return self._drop_idlest((*self._spare.values(), self._all), "full")

    def _drop_idlest(self, groups: Iterable[Group], reason: str) -> bool:
        for group in groups:
            if group.waiting:
                self._told(reason)
                self._end(next(iter(group.waiting)))
                return True
        return False

    def wait(self, connection: Connection, deadline: float) -> None:
        """Let a connection wait for its next request, or for more of it, until `deadline` (monotonic seconds)."""
        if connection.ended or connection not in self._connections:
            return
        for group in connection.groups:
            group.waiting.setdefault(connection, None)
        connection.deadline = deadline
        if deadline < self._next_sweep:
            self._next_sweep = deadline
            self._wake(deadline)

    def work(self, connection: Connection) -> None:
        """Take a connection out of those that may be dropped: a whole request has come."""
        for group in connection.groups:
            group.waiting.pop(connection, None)
        connection.deadline = math.inf

    def release(self, connection: Connection) -> None:
        """Forget a connection that has ended; a second time does nothing."""
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
        """End what has passed its deadline, and have `wake` called for the next one."""
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
        """End what has not come as far as to be served."""
        for connection in [one for one in self._connections if not one.served]:
            self._end(connection)

    def _end(self, connection: Connection) -> None:
        connection.ended = True
        self.release(connection)
        connection.drop()
