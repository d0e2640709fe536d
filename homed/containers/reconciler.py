"""Keeps every service: a keeper for each, woken by what concerns it."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from homed.config import Containers
from homed.containers import plan
from homed.containers.executor import Executor
from homed.containers.holds import Holds
from homed.containers.keeper import Keeper, Report
from homed.containers.model import Container, State
from homed.containers.plan import Dependency
from homed.containers.records import Service
from homed.containers.services import Services
from homed.containers.spec import Condition
from homed.containers.view import View
from homed.errors import ConflictError
from homed.events import Events

log = logging.getLogger(__name__)


class Reconciler:
    """Start with `start()`, end with `await stop()`: containers are left as they are."""

    def __init__(
        self,
        services: Services,
        view: View,
        executor: Executor,
        events: Events,
        config: Callable[[], Containers],
    ):
        self._services = services
        self._view = view
        self._executor = executor
        self._events = events
        self._config = config
        self._keepers: dict[str, Keeper] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._stopping = False
        self.holds = Holds()

    def start(self) -> None:
        self._services.listen(self._service_changed)
        self._view.listen(self._container_changed)
        for name in self._services.names():
            self._keep(name)

    async def stop(self) -> None:
        self._stopping = True
        for name in list(self._waiters):  # nothing that they wait for comes any more
            self._notify(name)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def check_restart(self, service: Service) -> None:
        """ConflictError (NOT_ALLOWED) if its container runs and could not be started again: a restart would end it."""
        container = self.report(service.name).container
        if container is None or not container.is_up:
            return
        refusal = await self._executor.refusal(service.effective)
        if refusal:
            raise ConflictError(
                f"Service '{service.name}' is left running, since it could not be started again: {refusal}",
                code="NOT_ALLOWED",
                details={"service_name": service.name},
            )

    def report(self, name: str) -> Report:
        keeper = self._keepers.get(name)
        return keeper.report if keeper is not None else Report()

    def retry(self, name: str) -> None:
        """Forget a service's failures and try again now."""
        if name in self._keepers:
            self._keepers[name].retry()

    def wake(self, name: str) -> None:
        if name in self._keepers:
            self._keepers[name].wake()

    def wake_all(self) -> None:
        for keeper in self._keepers.values():
            keeper.wake()

    async def settle(self, name: str, revision: int, timeout: float) -> Report | None:
        """Wait until a service was looked at in this revision or a later one, and nothing more is done for now.

        Returns where it stands then, or after `timeout` seconds; None where it is gone.
        """
        return await self.until(name, lambda report: report.revision >= revision and not report.busy, timeout)

    async def until(self, name: str, reached: Callable[[Report], bool], timeout: float) -> Report | None:
        """Wait for a report that `reached` takes; the last one after `timeout` seconds or at the end of homed, None
        where it is gone.
        """
        changed = asyncio.Event()
        waiters = self._waiters.setdefault(name, set())
        waiters.add(changed)
        try:
            async with asyncio.timeout(timeout):
                while (keeper := self._keepers.get(name)) is not None:
                    report = keeper.report
                    if reached(report) or self._stopping:
                        return report
                    changed.clear()
                    await changed.wait()
                return None
        except TimeoutError:
            return self.report(name)
        finally:
            waiters.discard(changed)
            if not waiters:
                self._waiters.pop(name, None)

    def _keep(self, name: str) -> None:
        keeper = Keeper(
            name,
            self._services,
            self._view,
            self._executor,
            self._events,
            self._config,
            self._dependencies,
            self._reported,
            self.holds,
        )
        self._keepers[name] = keeper
        task = asyncio.create_task(self._run(keeper), name=f"keep {name}")
        self._tasks[name] = task

    async def _run(self, keeper: Keeper) -> None:
        """Keep a service whatever happens: an error of ours is logged, and its service is tried again."""
        while True:
            try:
                await keeper.run()
                break
            except Exception:
                log.exception("Keeping %s failed", keeper.name, extra={"fields": {"service": keeper.name}})
                await asyncio.sleep(5)
        if self._keepers.get(keeper.name) is keeper:
            del self._keepers[keeper.name], self._tasks[keeper.name]
        self._notify(keeper.name)

    def _service_changed(self, name: str) -> None:
        keeper = self._keepers.get(name)
        gone = self._services.find(name) is None
        if keeper is not None:
            keeper.wake()
            if gone:  # its keeper ends by itself; a service of that name made meanwhile gets its own
                del self._keepers[name], self._tasks[name]
                self._notify(name)
        elif not gone and not self._stopping:
            self._keep(name)

    def _container_changed(self, container: Container | None) -> None:
        if container is None:
            self.wake_all()
            return
        for name, keeper in self._keepers.items():
            if container.service == name or keeper.report.reason == "name_taken":
                keeper.wake()

    def _reported(self, name: str, report: Report) -> None:
        self._notify(name)
        if report.busy:
            return
        for service in self._services.all():
            keeper = self._keepers.get(service.name)
            waits = keeper is not None and keeper.report.reason == "dependency"
            if keeper is not None and waits and name in service.effective.depends_on:
                keeper.wake()

    def _notify(self, name: str) -> None:
        for waiter in self._waiters.get(name, ()):
            waiter.set()

    def _dependencies(self, service: Service) -> tuple[Dependency, ...]:
        depends_on = service.effective.depends_on
        conditions = depends_on if isinstance(depends_on, Mapping) else dict.fromkeys(depends_on)
        return tuple(self._dependency(name, condition) for name, condition in conditions.items())

    def _dependency(self, name: str, condition: Condition | None) -> Dependency:
        entry, containers = self._services.find(name), self._view.of_service(name)
        if condition is Condition.COMPLETED:
            digest = "" if entry is None else entry.service.effective_digest
            return completed(name, [container for container in containers if container.digest == digest])
        up = [container for container in containers if container.state is State.RUNNING]
        well = {Condition.STARTED: None, Condition.HEALTHY: ("healthy",)}.get(condition, (None, "healthy"))  # type: ignore[arg-type]
        if any(well is None or container.health in well for container in up):
            return Dependency(name, True, "")
        if entry is None:
            return Dependency(name, False, "there is no such service")
        if up and all(container.health is None for container in up):
            return Dependency(name, False, "it has no health check, so it is never healthy: wait for 'started'")
        return Dependency(name, False, "it is not healthy yet" if up else "it does not run")


def completed(name: str, containers: Iterable[Container]) -> Dependency:
    """Return whether a service has completed: its newest container has exited with 0 (pure)."""
    last = max(containers, key=lambda container: container.created_at, default=None)
    if last is None or last.started_at is None:
        return Dependency(name, False, "it has not run yet")
    if last.state is not State.STOPPED:
        return Dependency(name, False, "it has not ended yet")
    if last.exit_code != 0:
        return Dependency(name, False, plan.how_it_ended(last))
    return Dependency(name, True, "")
