"""Doing the steps of a plan. Each does one thing, and leaves the view as fresh as the engine's own answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from homed.config import Containers
from homed.containers import creation, mount_sources, plan, policy
from homed.containers.engine import Engine
from homed.containers.plan import Step
from homed.containers.protected import Protected
from homed.containers.records import Service
from homed.containers.services import Services
from homed.containers.spec import LOCKED, LockedRegistry, ServiceSpec
from homed.containers.view import View
from homed.errors import ConflictError, EngineError, HomedError, NotFoundError, SecretError
from homed.events import Events

Count = Callable[[str, bool], None]
Progress = Callable[[Mapping[str, object]], None]
_SECONDS_BETWEEN_PROGRESS = 0.5
_LOOK_TIMEOUT = 10.0


class Executor:
    """`allowed` gives what containers may ask of the board; `count` is told of each step and whether it worked."""

    def __init__(
        self,
        engine: Engine,
        view: View,
        services: Services,
        events: Events,
        allowed: Callable[[], Containers],
        protected: Callable[[], Protected],
        count: Count,
    ):
        self._engine = engine
        self._view = view
        self._services = services
        self._events = events
        self._allowed = allowed
        self._protected = protected
        self._count = count

    async def image_present(self, image: str) -> bool:
        return await self._engine.has_image(image)

    async def run(self, step: Step, service: Service, progress: Progress) -> None:
        """Take one step. HomedError where it failed; what is gone already counts as removed and stopped."""
        act: Callable[[], Awaitable[None]] = {
            plan.PULL: lambda: self._pull(service, progress),
            plan.CREATE: lambda: self._create(step, service),
            plan.START: lambda: self._start(step, service),
            plan.STOP: lambda: self._stop(step),
            plan.REMOVE: lambda: self._remove(step),
            plan.RENAME: lambda: self._rename(step),
            plan.CONFIRM: lambda: self._services.confirm(service.name, service.effective, service.effective_build),
            plan.PULLED: lambda: self._note_pulled(service),
            plan.REJECT: lambda: self._reject(step, service),
            plan.RESTARTED: lambda: self._services.restarted(service.name),
            plan.AGAIN: lambda: self._services.start_again(service.name),
            plan.FORGET: lambda: self._services.forget(service.name),
        }[step.act]
        try:
            await act()
        except HomedError:
            self._count(step.act, False)
            raise
        self._count(step.act, True)

    async def _create(self, step: Step, service: Service) -> None:
        spec = service.effective
        await asyncio.to_thread(self._check, spec)
        if spec.network not in creation.BUILT_IN_NETWORKS:
            await self._engine.ensure_network(spec.network)
        body = creation.configuration(service.name, spec, service.effective_build)
        await self._view.refresh(await self._engine.create(step.name, body))

    async def refusal(self, spec: ServiceSpec) -> str:
        """Return why this container cannot be made or started now; empty if it can, or if the check times out."""
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT):
                await asyncio.to_thread(self._check, spec)
        except EngineError as error:
            return error.message
        except TimeoutError:
            return ""
        return ""

    def _check(self, spec: ServiceSpec) -> None:
        """On a thread: a folder whose disk or server hangs must not hold up the event loop."""
        refused = policy.violations(spec, self._allowed(), self._protected())
        if refused:
            raise EngineError("; ".join(f"{e.field}: {e.message}" for e in refused), code="NOT_ALLOWED")
        missing = mount_sources.missing(spec)
        if missing:
            message = "; ".join(f"{field}: {message}" for field, message in missing)
            raise EngineError(message, code="MOUNT_SOURCE_MISSING")

    async def _start(self, step: Step, service: Service) -> None:
        create_missing = service.effective.create_missing

        def check(made: dict[str, Any]) -> None:
            self._check(msgspec.structs.replace(creation.taken(made), create_missing=create_missing))

        # Again, and of what was made rather than of what is wanted: one that stands in was made from another wish, the
        # engine follows links at each start, and what a link leads to may have changed since.
        try:
            await self._engine.start(step.container, check)
        finally:
            await self._view.refresh(step.container)

    async def _stop(self, step: Step) -> None:
        try:
            await self._engine.stop(step.container, step.timeout)
        except NotFoundError:
            pass
        finally:
            await self._view.refresh(step.container)

    async def _remove(self, step: Step) -> None:
        try:
            await self._engine.remove(step.container)
        except NotFoundError:
            pass
        except ConflictError as error:
            if "already in progress" not in error.message:
                raise
        finally:
            await self._view.refresh(step.container)

    async def _rename(self, step: Step) -> None:
        await self._engine.rename(step.container, step.name)
        await self._view.refresh(step.container)

    async def _reject(self, step: Step, service: Service) -> None:
        await self._services.reject(service.name, service.digest, step.text)
        self._events.publish("service.rolled_back", {"name": service.name, "reason": step.text})

    async def _note_pulled(self, service: Service) -> None:
        """Check whether the tag names another image now: then the container is from an older build."""
        image = await self._engine.image_id(service.effective.image)
        fitting = [c for c in self._view.of_service(service.name) if c.digest == service.effective_digest]
        is_other = bool(fitting) and all(container.image_id != image for container in fitting)
        await self._services.pulled(service.name, service.effective, image if is_other else None)

    async def _pull(self, service: Service, progress: Progress) -> None:
        image, registry = service.effective.image, service.effective.registry
        if isinstance(registry, LockedRegistry):
            raise SecretError(LOCKED)
        pulling = Pulling(image)
        told_at = 0.0

        def tell(message: dict[str, Any]) -> None:
            nonlocal told_at
            pulling.take(message)
            if time.monotonic() - told_at >= _SECONDS_BETWEEN_PROGRESS:
                told_at = time.monotonic()
                progress(pulling.shown())
                self._events.publish("image.pull", {"service": service.name, **pulling.shown()})

        self._events.publish("image.pull", {"service": service.name, **pulling.shown()})
        try:
            await self._engine.pull(image, registry, tell)
        except HomedError as error:
            data = {"service": service.name, "image": image, "message": error.message}
            self._events.publish("image.pull_failed", data)
            raise
        self._events.publish("image.pulled", {"service": service.name, "image": image})


class Pulling:
    """How far a pull is, summed over the layers that the engine tells of: bytes, where it gives them."""

    def __init__(self, image: str):
        self._image = image
        self._status = "starting"
        self._layers: dict[str, tuple[int, int]] = {}

    def take(self, message: Mapping[str, Any]) -> None:
        self._status = str(message.get("status", self._status))
        detail = message.get("progressDetail") or {}
        if message.get("id") and detail.get("total") and self._status == "Downloading":
            self._layers[str(message["id"])] = (int(detail.get("current", 0)), int(detail["total"]))

    def shown(self) -> dict[str, object]:
        current = sum(done for done, _ in self._layers.values())
        total = sum(total for _, total in self._layers.values())
        percent = round(100 * current / total, 1) if total else None
        return {
            "image": self._image,
            "status": self._status,
            "current": current,
            "total": total,
            "percent": percent,
        }
