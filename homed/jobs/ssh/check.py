"""Whether hosts can be reached: a command that does nothing, one host or many at once, each with its own deadline."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from homed.errors import HomedError, NotFoundError
from homed.jobs.hosts import Hosts
from homed.jobs.ssh import connections as sessions
from homed.jobs.ssh import remote
from homed.jobs.ssh.connections import Connections

if TYPE_CHECKING:
    from homed.jobs.ssh.session import Session

log = logging.getLogger(__name__)
COMMAND: Final = "echo 'test'"
_AT_ONCE: Final = 20
_LONGEST: Final = 1024


class Status(StrEnum):
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


class Checked(NamedTuple):
    """`milliseconds` is None where it could not be reached: `code` is that of the error, and `message` says why."""

    host: str
    status: Status
    milliseconds: int | None
    output: str
    message: str
    code: str = ""


class Checks:
    """`deadline` in seconds, for each host."""

    def __init__(self, hosts: Hosts, connections: Connections, deadline: float = 20.0):
        self._hosts = hosts
        self._connections = connections
        self._deadline = deadline
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._first: dict[str, asyncio.Task[Checked]] = {}

    async def check(self, id: str) -> Checked:
        """NotFoundError (HOST_NOT_FOUND); nothing where it cannot be reached: that is an answer."""
        self._hosts.get(id)
        checked = await self._look(id)
        try:
            await self._hosts.note(id, checked.status)
        except HomedError as error:
            log.warning("What a check of a host has found cannot be written down: %s", error.message)
        return checked

    async def check_all(self, ids: Iterable[str]) -> Sequence[Checked]:
        """In their order; one that was deleted meanwhile is left out."""

        async def one(id: str) -> Checked | None:
            with contextlib.suppress(NotFoundError):
                return await self._in_room(id)
            return None

        found = await asyncio.gather(*map(one, ids))
        return [checked for checked in found if checked is not None]

    async def check_first(self, ids: Iterable[str], within: float) -> Mapping[str, Checked]:
        """Check the hosts that were never checked, and return what was found within so many seconds.

        A longer check continues, and the next caller joins it: a host is checked only once at a time.
        """
        tasks = {id: self._first.get(id) or self._begin(id) for id in ids if not self._hosts.get(id).status}
        if tasks:
            await asyncio.wait(tasks.values(), timeout=within)
        ended = {id: task for id, task in tasks.items() if task.done() and not task.cancelled()}
        return {id: task.result() for id, task in ended.items() if task.exception() is None}

    async def close(self) -> None:
        for task in list(self._first.values()):
            task.cancel()
        await asyncio.gather(*self._first.values(), return_exceptions=True)

    def _begin(self, id: str) -> "asyncio.Task[Checked]":
        def ended(task: "asyncio.Task[Checked]") -> None:
            self._first.pop(id, None)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.debug("The first check of host %s failed: %s", id, error)

        task = self._first[id] = asyncio.create_task(self._in_room(id), name="first check of a host")
        task.add_done_callback(ended)
        return task

    async def _in_room(self, id: str) -> Checked:
        async with self._room:
            return await self.check(id)

    async def _look(self, id: str) -> Checked:
        started = time.monotonic()
        try:
            order = remote.plain(COMMAND)
            async with asyncio.timeout(self._deadline), self._session(id, order.command) as session:
                output, trouble, began = await sessions.run(session, order, _LONGEST)
        except HomedError as error:
            return _down(id, error.message, error.code)
        except TimeoutError:
            return _down(id, f"it did not answer within {self._deadline:g} s", "HOST_UNREACHABLE")
        if session.exit_code != 0 or not began:
            return _down(id, trouble.strip() or "it runs no commands", "HOST_REFUSED")
        took = round((time.monotonic() - started) * 1000)
        return Checked(id, Status.CONNECTED, took, output.strip(), "Connection successful")

    @contextlib.asynccontextmanager
    async def _session(self, id: str, command: str) -> AsyncIterator["Session"]:
        """Jobs that take all of a host's sessions say nothing against it."""
        how = self._connections.aside if self._connections.full(id) else self._connections.session
        async with how(id, command) as session:
            yield session


def _down(id: str, message: str, code: str) -> Checked:
    return Checked(id, Status.DISCONNECTED, None, "", message, code)
