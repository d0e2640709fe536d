"""`/api/v1/backups` behind a real server, over backups that a test makes end as it wants."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homed.api.homei import backups as backup_routes
from tests.support.fake_backups import FakeBackups
from tests.support.front import Server, serve

PATH = "/api/v1/backups"


@dataclass
class Place:
    """The server, what is behind it, and what a test may turn."""

    server: Server
    backups: FakeBackups
    stopping: asyncio.Event
    max_upload: int = 4 << 20

    async def call(self, method: str, path: str = "", **more: Any) -> tuple[int, Any]:
        """Status and JSON; `path` is what comes after that of the backups."""
        async with self.server.request(method, f"{PATH}{path}", **more) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def refused(self, method: str, path: str = "", **more: Any) -> tuple[int, str]:
        status, body = await self.call(method, path, **more)
        return status, str(body["error"]["code"])

    async def audited(self) -> list[tuple[str, int]]:
        return [(entry.action, entry.status) for entry in await self.server.store.entries(100, None)]


@asynccontextmanager
async def serve_backups(folder: Path, *, trusted: bool = True) -> AsyncIterator[Place]:
    """The folder holds the archives, too."""
    backups, stopping, held = FakeBackups(folder), asyncio.Event(), list[Place]()
    routes = backup_routes.routes(backups, lambda: held[0].max_upload, stopping)
    async with serve(folder, trusted=trusted, routes=lambda _: routes) as server:
        held.append(Place(server, backups, stopping))
        try:
            yield held[0]
        finally:
            await backups.close()
