"""One kept connection per host, shared by the sessions on it; and how many of both there may be.

What speaks SSH is imported with the first of them: boards without hosts need not carry it.
"""

import asyncio
import contextlib
import importlib
import itertools
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final

from homed.config.jobs import JobSsh
from homed.errors import HomedError, HostError
from homed.jobs.hosts import Host, Hosts
from homed.jobs.ssh.line import Line
from homed.jobs.ssh.listener import Listener
from homed.jobs.ssh.remote import Order

if TYPE_CHECKING:
    import asyncssh

    from homed.jobs.ssh.session import Session

log = logging.getLogger(__name__)
_FULL_AGAIN: Final = 0.5
_TRIES: Final = 3
_SEEN_THROUGH: Final = 1.0
_SPEAKS: Final = "homed.jobs.ssh.dialing"


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
    ) -> AsyncIterator["Session"]:
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
    async def aside(self, id: str, command: str) -> AsyncIterator["Session"]:
        """A short command beside the sessions that are counted, on a connection of its own where the kept one takes
        none. HostError, NotFoundError, SecretError.
        """
        host = self._hosts.get(id)
        await _load()
        from asyncssh import Error

        from homed.jobs.ssh.session import Session

        line = self._lines.get(id)
        if line is not None and (connection := line.connected) is not None:
            session = Session()
            with contextlib.suppress(Error, OSError):
                await _start(connection, session, command)
            if session.began:
                with contextlib.closing(session):
                    yield session
                return
        connection = await self._dial(id)
        try:
            session = Session()
            try:
                await _start(connection, session, command)
            except (Error, OSError) as error:
                raise HostError(f"{host.hostname}:{host.port} takes no command: {error}") from error
            yield session
        finally:
            connection.close()

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

    def full(self, id: str) -> bool:
        """Whether a session would have to wait for another one's end."""
        line = self._lines.get(id)
        return line is not None and line.used >= self._config().per_host

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
                if line.retired or line.used < self._config().per_host:
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
            if line.retired or line.connected is None:
                self._hang_up(line)
            else:
                line.let_go(self._config().idle, lambda: self._hang_up(line))
            async with self._room:
                self._room.notify_all()

    async def _begin(self, line: Line, id: str, command: str) -> "Session":
        await _load()
        from asyncssh import Error

        from homed.jobs.ssh.session import Session

        for tries_left in itertools.count(_TRIES, -1):
            connection = await self._connected(line, id)
            session = Session()
            try:
                await _start(connection, session, command)
                break
            except (Error, OSError) as error:
                if session.began and connection.is_closed():
                    break  # nobody knows whether it runs: the session says that it was lost
                if session.began:
                    raise HostError(f"the host takes no command: {error}") from error
                await self._wait(line, connection, tries_left, error)
        return session

    async def _wait(
        self, line: Line, connection: "asyncssh.SSHClientConnection", tries_left: int, error: Exception
    ) -> None:
        """No session was given: as many as the host gives are there, or their ends have not come to it yet."""
        if connection.is_closed():
            if tries_left <= 0:
                raise HostError(f"the host ends each connection: {error}") from error
            return
        if line.used == 1 and tries_left <= 0:
            raise HostError("the host gives no session on its connection", code="HOST_BUSY") from error
        await line.wait_for_end(_FULL_AGAIN)

    async def _connected(self, line: Line, id: str) -> "asyncssh.SSHClientConnection":
        """The line's connection, made where there is none."""
        async with line.dialing:
            if (connection := line.connected) is not None:
                return connection
            if line not in self._open:
                await self._make_room(line)
            try:
                line.connection = await self._dial(id)
            except BaseException:
                self._open.discard(line)
                raise
            return line.connection

    async def _dial(self, id: str) -> "asyncssh.SSHClientConnection":
        host = self._hosts.get(id)
        await _load()
        from homed.jobs.ssh.dialing import dial

        try:
            connection, shown = await dial(host, self._hosts.login(host), self._config())
        except HostError:
            await self._note(host, "disconnected")
            raise
        try:
            await self._note(host, "connected")
            if not self._hosts.get(id).pins:
                host = await self._hosts.pin(id, shown)
                log.info("%s is known by its key %s from now on", host.hostname, host.pins[0].fingerprint)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _note(self, host: Host, status: str) -> None:
        """Update the result of a host's check by a later observation."""
        if host.status and host.status != status:
            with contextlib.suppress(HomedError):
                await self._hosts.note(host.id, status)

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


async def run(session: "Session", order: Order, most: int) -> tuple[str, str, bool]:
    """Run a short script and return its output, `most` bytes of each stream, and whether it began: if not, the output
    is the login shell's.
    """
    session.send(order.text)
    listener, taken = Listener(order.key), {0: b"", 1: b""}
    while (piece := await session.next()) is not None:
        data = listener.hear(piece.stream, piece.data)
        taken[piece.stream] = (taken[piece.stream] + data)[:most]
    if not listener.begun:
        return "", listener.noise, False
    return taken[0].decode(errors="replace"), taken[1].decode(errors="replace"), True


async def _load() -> None:
    """On a thread where it takes long: the first time."""
    if _SPEAKS not in sys.modules:
        await asyncio.to_thread(importlib.import_module, _SPEAKS)


async def _start(connection: "asyncssh.SSHClientConnection", session: "Session", command: str) -> None:
    """Once asked for, it is seen through: a session that nobody holds would take one of the few that there are."""
    from homed.jobs.ssh.session import WINDOW

    asked = asyncio.ensure_future(
        connection.create_session(lambda: session, command, encoding=None, window=WINDOW, request_pty=False)
    )
    try:
        await asyncio.shield(asked)
    except asyncio.CancelledError:
        await asyncio.wait({asked}, timeout=_SEEN_THROUGH)
        if asked.done() and not asked.cancelled():
            asked.exception()
        session.close()
        raise
