"""Services kept on an engine, real or in memory, with what backups ask of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from homed.config import Containers
from homed.containers import policy
from homed.containers.capturing import Capturing
from homed.containers.engine import Engine
from homed.containers.executor import Executor
from homed.containers.keeper import Report
from homed.containers.protected import Protected
from homed.containers.reconciler import Reconciler
from homed.containers.sealing import Sealing
from homed.containers.services import Services
from homed.containers.spec import ServiceSpec
from homed.containers.streams import Streams
from homed.containers.view import View
from homed.events import Events
from homed.store.sqlite import SqliteStore
from homed.vault import Vault

_DEADLINE = 30.0


@dataclass
class Board:
    services: Services
    reconciler: Reconciler
    view: View
    engine: Engine
    capturing: Capturing
    store: SqliteStore

    async def create(self, name: str, image: str = "app:1", **spec: Any) -> None:
        await self.services.create(name, ServiceSpec(image=image, **spec), enabled=True)

    async def change(self, name: str, **fields: Any) -> None:
        await self.services.change(name, lambda service: msgspec.structs.replace(service, **fields))

    async def reaches(self, name: str, status: str, reason: str | None = None) -> Report:
        """The report once it is so and nothing more is being done."""

        def reached(report: Report) -> bool:
            return not report.busy and (report.status, report.reason) == (status, reason)

        report = await self.reconciler.until(name, reached, _DEADLINE)
        assert report is not None and reached(report), f"{name} never became {status} ({reason}): {report}"
        return report

    async def until(self, what: Callable[[], object]) -> None:
        async with asyncio.timeout(_DEADLINE):
            while not what():
                await asyncio.sleep(0.01)

    async def until_it(self, what: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.timeout(_DEADLINE):
            while not await what():
                await asyncio.sleep(0.05)


@asynccontextmanager
async def board(
    state: Path,
    engine: Engine,
    streams: Streams,
    *,
    before: Callable[[Capturing], Awaitable[None]] | None = None,
    margin: float = 30.0,
) -> AsyncIterator[Board]:
    """As the daemon builds it; `before` is awaited before the services are kept."""
    settings = Containers(
        settle_time=0.05, start_timeout=5, backoff_first=0.02, backoff_limit=0.1, data_roots=(str(state.parent),)
    )
    protected = Protected(private=(str(state),))
    events, store = Events(), SqliteStore(state / "homed.db")
    await store.open()
    services = Services(store, lambda spec: policy.violations(spec, settings, protected), Sealing(Vault(bytes(32))))
    await services.load()
    view = View(engine, streams, events, lambda: 30.0)
    executor = Executor(engine, view, services, events, lambda: settings, lambda: protected, lambda step, worked: None)
    reconciler = Reconciler(services, view, executor, events, lambda: settings)
    capturing = Capturing(
        services, reconciler, view, engine, streams, store, lambda: settings, lambda: protected, margin
    )
    if before is not None:
        await before(capturing)
    reconciler.start()
    following = asyncio.create_task(view.run())
    try:
        yield Board(services, reconciler, view, engine, capturing, store)
    finally:
        await capturing.close()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await reconciler.stop()
        await store.close()
