"""What the engine has, held in memory: read once, then kept by its events, with a resync behind them."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from homed.containers.engine import Engine
from homed.containers.model import Container, from_inspect
from homed.containers.streams import Streams
from homed.errors import EngineError, EngineUnavailableError, HomedError, NotFoundError
from homed.events import Events

log = logging.getLogger(__name__)
_RESYNC_DEADLINE = 20.0
# Time limits of the first query of the engine: without any response, and in total.
_FIRST_LOOK_TIMEOUT, _MAX_FIRST_LOOK = 5.0, 30.0
_SHORTEST_RETRY, _LONGEST_RETRY = 0.25, 5.0
# Of these events nothing changes that homed looks at; they are told, and cost no call.
_NO_CHANGE = ("kill", "exec_create", "exec_start", "exec_die")

Listener = Callable[[Container | None], None]


class View:
    """The containers, newest state first known. `connected` is whether the engine's events are being followed."""

    def __init__(self, engine: Engine, streams: Streams, events: Events, interval: Callable[[], float]):
        self._engine = engine
        self._streams = streams
        self._events = events
        self._interval = interval
        self._containers: dict[str, Container] = {}
        self._listeners: list[Listener] = []
        self._asked = 0
        self._answered: dict[str, int] = {}
        # The owning service of each container: a later manual rename does not change it.
        self._owners: dict[str, str] = {}
        self._looked = asyncio.Event()
        self._answered_at = 0.0
        self.connected = False
        self.trouble = "homed is starting: Docker Engine is being looked at"
        self.engine_version: str | None = None

    @property
    def starting(self) -> bool:
        """True until the engine's first response: the state of the containers is not known yet."""
        return not self._looked.is_set()

    async def first_look(self) -> None:
        """Wait until the engine is known to be reachable or not, at most until the time limits."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MAX_FIRST_LOOK):
                await self._looked.wait()

    def listen(self, listener: Listener) -> None:
        """Have `listener` called with each container that changed or went; with None when all may have."""
        self._listeners.append(listener)

    def all(self) -> list[Container]:
        return list(self._containers.values())

    def of_service(self, name: str) -> tuple[Container, ...]:
        return tuple(c for c in self._containers.values() if c.managed and c.service == name)

    def find(self, reference: str) -> Container:
        """By name, id, or the beginning of an id. NotFoundError where none or several have it."""
        exact = self._containers.get(reference)
        if exact is not None:
            return exact
        found = [c for c in self._containers.values() if c.name == reference]
        if not found and len(reference) >= 4:
            found = [c for c in self._containers.values() if c.id.startswith(reference)]
        if len(found) != 1:
            known = "several containers begin with" if found else "there is no container"
            raise NotFoundError(
                f"{known} '{reference}'", code="CONTAINER_NOT_FOUND", details={"container_id": reference}
            )
        return found[0]

    def named(self, name: str) -> Container | None:
        return next((c for c in self._containers.values() if c.name == name), None)

    def require_connection(self) -> None:
        """EngineUnavailableError where what is known may be old."""
        if not self.connected:
            raise EngineUnavailableError(self.trouble)

    async def run(self) -> None:
        """Follow the engine for ever; where it goes away, say so and come back."""
        retry = _SHORTEST_RETRY
        self._answered_at = time.monotonic()
        asyncio.get_running_loop().call_later(_FIRST_LOOK_TIMEOUT, self._end_start, self._answered_at)
        while True:
            connected_at = None
            try:
                async with self._streams.events() as events:
                    await self._read_all()
                    self._connect()
                    connected_at = time.monotonic()
                    await self._follow(events)
            except HomedError as error:
                self._disconnect(error.message)
            # One that comes and goes again at once is asked ever more slowly, as one that does not come.
            lasted = connected_at is not None and time.monotonic() - connected_at > _LONGEST_RETRY
            retry = _SHORTEST_RETRY if lasted else min(retry * 2, _LONGEST_RETRY)
            await asyncio.sleep(retry)

    async def refresh(self, container: str) -> None:
        """Ask the engine about one container now, rather than waiting for its event."""
        self._asked += 1
        asked = self._asked
        try:
            new = self._owned(from_inspect(await self._engine.inspect(container)))
        except NotFoundError:
            self._take_out(container)
            return
        # Of two that ask at once, the answer to the older question may come last.
        if self._answered.get(new.id, 0) > asked:
            return
        self._answered[new.id] = asked
        known = self._containers.get(new.id)
        if known != new:
            self._containers[new.id] = new
            if known is not None and (known.service, known.name) != (new.service, new.name):
                self._tell(known)  # its previous owner is notified, too
            self._tell(new)

    async def resync(self) -> None:
        """Compare with the engine's own list, and ask about what differs."""
        async with asyncio.timeout(_RESYNC_DEADLINE):
            listed = {row.id: row for row in await self._engine.all()}
            for identity in self._containers.keys() - listed.keys():
                self._take_out(identity)
            for identity, row in listed.items():
                known = self._containers.get(identity)
                # A stopped container's health is what it was last; the list does not tell of it.
                if known is None or not row._replace(health=row.health if known.is_up else known.health).tells_of(
                    known
                ):
                    await self._try_refresh(identity)

    async def _follow(self, events: AsyncIterator[dict[str, Any]]) -> None:
        resync = asyncio.create_task(self._resync_regularly())
        reader = asyncio.create_task(self._apply_all(events))
        try:
            done, _ = await asyncio.wait({resync, reader}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (resync, reader):
                task.cancel()
            await asyncio.gather(resync, reader, return_exceptions=True)

    async def _resync_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._interval())
            try:
                await self.resync()
            except TimeoutError as error:
                raise EngineUnavailableError("Docker Engine does not answer") from error

    async def _read_all(self) -> None:
        """Read everything; what was known before and is gone now is taken out."""
        version = await self._engine.version()
        self._answered_at = time.monotonic()
        self.engine_version = str(version.get("Version", ""))
        found: dict[str, Container] = {}
        for identity in [row.id for row in await self._engine.all()]:
            try:
                found[identity] = self._owned(from_inspect(await self._engine.inspect(identity)))
            except NotFoundError:
                continue
            except EngineError as error:
                self._pass_over(identity, error)
            self._answered_at = time.monotonic()
        self._containers = found
        self._owners = {identity: owner for identity, owner in self._owners.items() if identity in found}

    def _owned(self, container: Container) -> Container:
        """Return the container with its owning service, which it keeps whatever its name is now."""
        if container.service is not None:
            self._owners[container.id] = container.service
            return container
        owner = self._owners.get(container.id)
        return container if owner is None else msgspec.structs.replace(container, service=owner)

    async def _try_refresh(self, container: str) -> None:
        """One container that the engine cannot tell of must not hide the others."""
        try:
            await self.refresh(container)
        except EngineError as error:
            self._pass_over(container, error)

    def _pass_over(self, container: str, error: EngineError) -> None:
        if isinstance(error, EngineUnavailableError):
            raise error
        log.warning("Container %s is passed over: %s", container[:12], error.message)

    async def _apply_all(self, events: AsyncIterator[dict[str, Any]]) -> None:
        async for event in events:
            await self._apply(event)

    async def _apply(self, event: Mapping[str, Any]) -> None:
        action, _, detail = str(event.get("Action", "")).partition(": ")
        actor = _table(event.get("Actor"))
        identity, attributes = str(actor.get("ID", "")), _table(actor.get("Attributes"))
        if not identity:
            return
        if action == "destroy":
            self._take_out(identity)
        elif action not in _NO_CHANGE:
            await self._try_refresh(identity)
        data: dict[str, object] = {"container_id": identity, "name": attributes.get("name", "")}
        known = self._containers.get(identity)
        if known is not None and known.service is not None:
            data["service"] = known.service
        code = str(attributes.get("exitCode", ""))
        if action == "die" and code.isascii() and code.isdigit():
            data["exit_code"] = int(code)
        if detail:
            data["health"] = detail
        self._events.publish(f"container.{action}", data)

    def _take_out(self, identity: str) -> None:
        gone = self._containers.pop(identity, None)
        self._answered.pop(identity, None)
        self._owners.pop(identity, None)
        if gone is not None:
            self._tell(gone)

    def _tell(self, container: Container | None) -> None:
        for listener in self._listeners:
            listener(container)

    def _connect(self) -> None:
        self.connected, self.trouble = True, ""
        self._looked.set()
        log.info("Following Docker Engine %s: %d containers", self.engine_version, len(self._containers))
        self._events.publish("engine.connected", {"version": self.engine_version})
        self._tell(None)

    def _disconnect(self, trouble: str) -> None:
        if self.connected or trouble != self.trouble:
            log.warning("Docker Engine is away: %s", trouble)
        was, self.connected, self.trouble = self.connected, False, trouble
        if was:
            self._events.publish("engine.disconnected", {"message": trouble})
        if was or self.starting:
            self._looked.set()
            self._tell(None)

    def _end_start(self, began: float) -> None:
        """Stop waiting for an engine that neither answers nor refuses."""
        if not self.starting:
            return
        moment = time.monotonic()
        left = min(self._answered_at + _FIRST_LOOK_TIMEOUT, began + _MAX_FIRST_LOOK) - moment
        if left > 0:
            asyncio.get_running_loop().call_later(left + 0.01, self._end_start, began)
        else:
            self._disconnect(f"Docker Engine has not answered for {moment - self._answered_at:.0f} s")


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
