"""The log of a service across its container and each replacement."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime

from homed.containers.frames import Line
from homed.containers.logs import MARKER, Logs, Wish, shown
from homed.containers.model import Container
from homed.containers.view import View
from homed.errors import EngineUnavailableError, NotFoundError

_LOOK_INTERVAL = 0.25


class ServiceLogs:
    """Reads services' logs. `exists` returns whether a service exists and is not being deleted."""

    def __init__(self, view: View, logs: Logs, exists: Callable[[str], bool]):
        self._view = view
        self._logs = logs
        self._exists = exists

    async def read(self, name: str, wish: Wish) -> list[str]:
        """Return the lines of its current container; empty if it has none."""
        container = self._container(name)
        return [] if container is None else await self._logs.read(container, wish)

    async def follow(self, name: str, wish: Wish) -> AsyncIterator[list[Line]]:
        """Yield lines as they arrive, until the service is deleted. A line by homed marks each start."""
        with self._logs.followers:
            before: tuple[str, datetime | None] | None = None
            last = b""
            while self._exists(name):
                container = self._container(name)
                run = None if container is None else (container.id, container.started_at)
                if container is None or not self._view.connected or (run == before and not container.is_up):
                    await asyncio.sleep(_LOOK_INTERVAL)
                    continue
                if before is not None and run != before:
                    yield [Line(MARKER, _marker(name, container, same=before[0] == container.id))]
                if before is None or before[0] != container.id:
                    last = b""
                first = before is None
                before = run
                try:
                    async for batch in self._logs.follow_on(
                        container, wish if first else wish._replace(tail=None, since=None), last
                    ):
                        last = max([last, *(line.stamp for line in batch)])
                        yield [line._replace(text=shown(line, wish)) for line in batch]
                except (EngineUnavailableError, NotFoundError):
                    pass  # the container or the engine is gone: wait for it
                await asyncio.sleep(_LOOK_INTERVAL)

    def _container(self, name: str) -> Container | None:
        found = self._view.of_service(name)
        return max(found, key=lambda container: (container.is_up, container.created_at), default=None)


def _marker(name: str, container: Container, *, same: bool) -> bytes:
    how = "was started again" if same else "goes on in another one"
    return f"[homed] the container of '{name}' {how}: {container.id[:12]}".encode()
