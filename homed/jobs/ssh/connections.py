"""One kept connection per host, shared by the sessions on it; and how many of both there may be."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import asyncssh

from homed.config.jobs import JobSsh
from homed.errors import HomedError, HostError
from homed.jobs.hosts import Host, Hosts
from homed.jobs.ssh.dialing import dial
from homed.jobs.ssh.line import Line
from homed.jobs.ssh.session import WINDOW, Session

log = logging.getLogger(__name__)
_FULL_AGAIN: Final = 0.5
_TRIES: Final = 3


class Connections:
    """`config` is asked each time: what it says holds from the next session on."""

    def __init__(self, hosts: Hosts, config: Callable[[], JobSsh]):
        self._hosts = hosts
        self._config = config
        self._lines: dict[str, Line] = {}
        # Also those that no new session goes by: of a host that was changed.
        self._open: set[Line] = set()
        self._room = asyncio.Condition()
        hosts.listen(self.drop)

    @contextlib.asynccontextmanager
    async def session(
        self, id: str, command: str, before: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncIterator[Session]:
        """Run a command in a session of its own, ended with the block. It waits while there are as many as may be.

        `before` is awaited when the host is reached, and the command not yet sent. HostError, NotFoundError,
        SecretError: then it never began. Where the connection is lost later, the session says so.
        """
        line = await self._take(id)
        try:
            if before is not None:
                await self._connected(line, id)
                await before()
            session = await self._begin(line, id, command)
            try:
                yield session
            finally:
                session.close()
        finally:
            await self._give_back(line)

    @contextlib.asynccontextmanager
    async def aside(self, id: str, command: str) -> AsyncIterator[Session]:
        """A short command beside the sessions that are counted, on a connection of its own where the kept is full."""
        host = self._hosts.get(id)
        line = self._lines.get(id)
        session = Session()
        connection = line.connection if line is not None else None
        if connection is not None and not connection.is_closed():
            with contextlib.suppress(asyncssh.Error, OSError):
                await _start(connection, session, command)
        if session.began:
            try:
                yield session
            finally:
                session.close()
            return
        connection, _ = await self._dial(host, lambda: None)
        try:
            session = Session()
            await _start(connection, session, command)
            yield session
        except (asyncssh.Error, OSError) as error:
            raise HostError(f"{host.hostname}:{host.port} takes no command: {error}") from error
        finally:
            await _end(connection)

    def drop(self, id: str) -> None:
        """No new session goes by this connection; it is closed when the last one on it has ended."""
        line = self._lines.pop(id, None)
        if line is not None:
            line.retired = True
            if not line.used:
                self._hang_up(line)

    async def close(self) -> None:
        for id in list(self._lines):
            self._lines.pop(id).retired = True
        for line in list(self._open):
            self._hang_up(line, now=True)

    @property
    def count(self) -> int:
        return len(self._open)

    async def _take(self, id: str) -> Line:
        self._hosts.get(id)
        while True:
            line = self._lines.get(id)
            if line is None:
                line = self._lines[id] = Line()
            async with line.changed:
                if line.retired or line.used < min(self._config().per_host, line.most):
                    if line.retired:
                        continue
                    line.used += 1
                    line.keep()
                    return line
                await line.changed.wait()

    async def _give_back(self, line: Line) -> None:
        async with line.changed:
            line.used -= 1
            line.changed.notify_all()
        if not line.used:
            if line.retired or line.connection is None:
                self._hang_up(line)
            else:
                line.let_go(self._config().idle, lambda: self._hang_up(line))
            async with self._room:
                self._room.notify_all()

    async def _begin(self, line: Line, id: str, command: str) -> Session:
        tries = 0
        while True:
            connection = await self._connected(line, id)
            session = Session()
            try:
                await _start(connection, session, command)
            except (asyncssh.Error, OSError) as error:
                if session.began:
                    if connection.is_closed():
                        return session  # nobody knows whether it runs: the session says that it was lost
                    raise HostError(f"the host takes no command: {error}") from error
                tries += 1
                await self._refused(line, connection, tries, error)
                continue
            line.succeeded()
            return session

    async def _refused(
        self, line: Line, connection: asyncssh.SSHClientConnection, tries: int, error: Exception
    ) -> None:
        """No session was given. Wait for one that ends, where others are on the connection; else try again, not long."""
        if connection.is_closed():
            line.forget(connection)
            if tries > _TRIES:
                raise HostError(f"the host ends each connection: {error}") from error
            return
        if await line.wait_for_room():
            return
        if tries > _TRIES:
            raise HostError("the host gives no session on its connection", code="HOST_BUSY") from error
        await asyncio.sleep(_FULL_AGAIN)

    async def _connected(self, line: Line, id: str) -> asyncssh.SSHClientConnection:
        """The line's connection, made where there is none."""
        async with line.dialing:
            if line.connection is not None and not line.connection.is_closed():
                return line.connection
            if line not in self._open:
                await self._make_room(line)
            try:
                connection, shown = await self._dial(self._hosts.get(id), lambda: line.forget(None))
                if not self._hosts.get(id).pins:
                    host = await self._hosts.pin(id, shown)
                    log.info("%s is known by its key %s from now on", host.hostname, host.pins[0].fingerprint)
            except BaseException:
                self._open.discard(line)
                raise
            line.connection = connection
            return connection

    async def _dial(self, host: Host, lost: Callable[[], None]) -> tuple[asyncssh.SSHClientConnection, str]:
        return await dial(host, self._hosts.login(host), self._config(), lost)

    async def _make_room(self, line: Line) -> None:
        """Wait until one more connection may be; of those that nobody uses, the one that is longest so goes."""
        async with self._room:
            while len(self._open) >= self._config().hosts:
                unused = [one for one in self._open if not one.used]
                if unused:
                    self._hang_up(min(unused, key=lambda one: one.since))
                else:
                    await self._room.wait()
            self._open.add(line)

    def _hang_up(self, line: Line, *, now: bool = False) -> None:
        if line.used and not now:
            return
        self._open.discard(line)
        line.hang_up()


async def run(session: Session, most: int) -> tuple[str, str]:
    """What a short command prints, `most` bytes of each stream at most, until it has ended."""
    session.send(b"")
    taken: dict[int, bytes] = {0: b"", 1: b""}
    while (piece := await session.next()) is not None:
        taken[piece.stream] = (taken[piece.stream] + piece.data)[:most]
    return taken[0].decode(errors="replace"), taken[1].decode(errors="replace")


async def _start(connection: asyncssh.SSHClientConnection, session: Session, command: str) -> None:
    await connection.create_session(lambda: session, command, encoding=None, window=WINDOW, request_pty=False)


async def _end(connection: asyncssh.SSHClientConnection) -> None:
    connection.close()
    with contextlib.suppress(HomedError, asyncssh.Error, OSError):
        await connection.wait_closed()
