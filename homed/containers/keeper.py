"""One service's control loop: look, plan, act, say why; and wait until there is a reason to look again.

Every service has its own, so one that hangs (a stop that takes its time, a registry that does not answer)
holds up nobody else, and no lock is needed: only its keeper acts on a service's containers.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from homed.clock import now
from homed.config import Containers
from homed.containers import backoff, plan, records
from homed.containers.backoff import Failures
from homed.containers.executor import Executor
from homed.containers.holds import Holds
from homed.containers.model import Container
from homed.containers.plan import Actual, Dependency, Plan, Step, Timing, Wanted
from homed.containers.records import Service
from homed.containers.services import Entry, Services
from homed.containers.spec import LOCKED, LockedRegistry, ServiceSpec
from homed.containers.view import View
from homed.errors import EngineUnavailableError, HomedError
from homed.events import Events

log = logging.getLogger(__name__)
_MOST_PASSES = 20
_BREATH = 1.0
# A run this many times as long as the settle time makes the failures before it forgotten.
_STABLE = 6


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Where a service stands. `busy`: steps are being taken. `revision`: of the record that was looked at; `hold`: the
    serial of the hold that was heeded, 0 for none.
    """

    status: str = "pending"
    wanted: str = "running"
    actual: str = "missing"
    reason: str | None = None
    message: str | None = None
    step: str | None = None
    next_try: datetime | None = None
    attempts: int = 0
    progress: Mapping[str, object] | None = None
    container: Container | None = None
    revision: int = 0
    busy: bool = False
    hold: int = 0


class Keeper:
    """`dependencies` tells how those stand that a service waits for; `reported` is called with each new report."""

    def __init__(
        self,
        name: str,
        services: Services,
        view: View,
        executor: Executor,
        events: Events,
        config: Callable[[], Containers],
        dependencies: Callable[[Service], tuple[Dependency, ...]],
        reported: Callable[[str, Report], None],
        holds: Holds,
    ):
        self.name = name
        self.report = Report()
        self._services = services
        self._view = view
        self._executor = executor
        self._events = events
        self._config = config
        self._dependencies = dependencies
        self._reported = reported
        self._holds = holds
        self._hold = 0
        self._woken = asyncio.Event()
        self._failures = backoff.NONE
        self._pull = backoff.NONE
        self._digest = ""
        self._ends: dict[str, datetime | None] = {}
        self._looked = False
        self._blocked = False
        self._judged: tuple[str, Containers] | None = None
        self._not_allowed = ""

    def wake(self) -> None:
        """Have it look again soon."""
        self._woken.set()

    def retry(self) -> None:
        """Forget the failures: somebody asked for another try now."""
        self._failures = self._pull = backoff.NONE
        self.wake()

    async def run(self) -> None:
        """Keep the service until it is forgotten."""
        passes = 0
        while (entry := self._services.find(self.name)) is not None:
            self._woken.clear()
            wait: float | None = None
            if self._view.starting:
                pass  # nobody can say yet how it is: it is pending
            elif not self._view.connected:
                self._say_away(entry)
            else:
                done = await self._pass(entry)
                passes = passes + 1 if done.steps else 0
                if done.steps and not self._blocked and passes < _MOST_PASSES:
                    continue
                wait = self._until(done)
                passes = 0
                if done.steps:
                    self._say_stuck(wait)
            await self._sleep(wait)

    def _until(self, done: Plan) -> float | None:
        """Seconds to wait for what the plan waits for; None where only an event can bring it."""
        if done.steps:
            return max(_BREATH, self._failures.next_at - time.monotonic())
        return None if done.next_at is None else max(0.0, done.next_at - time.monotonic())

    async def _sleep(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _pass(self, entry: Entry) -> Plan:
        service = entry.service
        wanted = self._wanted(service)
        hold = self._holds.find(self.name)
        self._hold = hold.serial if hold is not None else 0
        if wanted.digest != self._digest:
            self._digest, self._failures, self._pull = wanted.digest, backoff.NONE, backoff.NONE
        containers = self._view.of_service(self.name)
        self._note_ends(containers, wanted.restart_policy)
        try:
            actual = await self._look(service, wanted, containers)
        except HomedError as error:
            return self._fail_to_look(entry, error)
        await self._judge(service, containers)
        timing = Timing(now(), time.monotonic(), self._config().settle_time, self._config().start_timeout)
        decided = plan.plan(wanted, actual, timing)
        self._say(entry, decided)
        self._blocked = False
        for step in decided.steps:
            if not await self._take(step, entry):
                # The plans for these steps know how to wait; any other one would come again at once.
                self._blocked = step.act not in (plan.PULL, plan.CREATE, plan.START)
                break
        return decided

    async def _judge(self, service: Service, containers: tuple[Container, ...]) -> None:
        """Note whether a container that runs could be started again: the rules may be stricter than when it was."""
        spec = service.effective
        if not any(container.is_up for container in containers) or not needs_permission(spec):
            self._judged, self._not_allowed = None, ""
            return
        judged = (self._digest, self._config())
        if judged != self._judged:
            refusal = await self._executor.refusal(spec)
            if refusal and refusal != self._not_allowed:
                log.warning("%s: runs, and could not be started again: %s", self.name, refusal,
                            extra={"fields": {"service": self.name}})  # fmt: skip
            self._judged, self._not_allowed = judged, refusal

    def _wanted(self, service: Service) -> Wanted:
        return records.wanted(service, self._holds.find(self.name), self._holds.spared(self.name))

    async def _look(self, service: Service, wanted: Wanted, containers: tuple[Container, ...]) -> Actual:
        fits = any(container.digest == wanted.digest for container in containers)
        needs_image = not fits and wanted.run and not (wanted.removed or wanted.held or wanted.frozen)
        namesake = self._view.named(self.name)
        return Actual(
            containers=containers,
            image_present=not needs_image or await self._executor.image_present(service.effective.image),
            name_taken=namesake.id if namesake is not None and namesake not in containers else None,
            dependencies=self._dependencies(service),
            failures=self._failures,
            pull=self._pull,
        )

    def _note_ends(self, containers: tuple[Container, ...], policy: str) -> None:
        """Count the ends of the wanted container since the last look; what ended before homed came is not counted."""
        for container in containers:
            if container.digest != self._digest or container.is_up or container.finished_at is None:
                continue
            if self._ends.get(container.id) == container.finished_at:
                continue
            self._ends[container.id] = container.finished_at
            if self._looked and not plan.ended_well(container, policy):
                stable = self._config().settle_time * _STABLE
                if backoff.was_stable(container.started_at, container.finished_at, stable):
                    self._failures = backoff.NONE
                self._count(plan.CRASHED, plan.how_it_ended(container))
        self._ends = {c.id: self._ends.get(c.id) for c in containers}
        self._looked = True

    def _count(self, reason: str, message: str) -> None:
        first, limit = self._config().backoff_first, self._config().backoff_limit
        self._failures = backoff.after(self._failures, reason, message, time.monotonic(), first, limit)

    async def _take(self, step: Step, entry: Entry) -> bool:
        """Take a step; False where the rest of the plan has no ground any more."""
        self._report(msgspec.structs.replace(self.report, step=step.act, busy=True))
        try:
            if step.act == plan.PULL:
                await self._pull_unless_changed(step, entry)
            else:
                await self._executor.run(step, entry.service, lambda progress: None)
        except HomedError as error:
            self._fail(step, error)
            return False
        finally:
            if step.act == plan.STOP:
                self._see_own_end(step.container)
            # Busy until the next look says otherwise: in between there is no reason to tell.
            self._report(msgspec.structs.replace(self.report, step=None, progress=None))
        if step.act == plan.PULL:
            self._pull = backoff.NONE
        if step.text == "unhealthy":
            self._count("unhealthy", "its health check failed")
        if step.act == plan.CONFIRM or (step.act == plan.RESTARTED and self._failures.reason != plan.START_FAILED):
            self._failures = backoff.NONE
        log.info("%s: %s", self.name, step.act, extra={"fields": {"service": self.name, "step": step.act}})
        return True

    async def _pull_unless_changed(self, step: Step, entry: Entry) -> None:
        """Pull, but give up where the service is changed meanwhile: the wish may be another image, or none."""

        def progress(shown: Mapping[str, object]) -> None:
            self._report(msgspec.structs.replace(self.report, progress=shown))

        pull = asyncio.create_task(self._executor.run(step, entry.service, progress))
        try:
            while not pull.done():
                self._woken.clear()
                waker = asyncio.create_task(self._woken.wait())
                await asyncio.wait({pull, waker}, return_when=asyncio.FIRST_COMPLETED)
                waker.cancel()
                current = self._services.find(self.name)
                if current is None or self._holds.find(self.name) is not None:
                    return
                if records.wanted(current.service) != records.wanted(entry.service):
                    return
            pull.result()
        finally:
            pull.cancel()

    def _see_own_end(self, container: str) -> None:
        """What homed stopped itself is no failure of the container's."""
        for one in self._view.of_service(self.name):
            if one.id == container and not one.is_up:
                self._ends[one.id] = one.finished_at
                stable = self._config().settle_time * _STABLE
                if one.digest == self._digest and backoff.was_stable(one.started_at, one.finished_at, stable):
                    self._failures = backoff.NONE

    def _fail(self, step: Step, error: HomedError) -> None:
        fields = {"service": self.name, "step": step.act, "error_code": error.code}
        log.warning("%s: %s failed: %s", self.name, step.act, error.message, extra={"fields": fields})
        data = {"name": self.name, "step": step.act, "message": error.message}
        self._events.publish("service.step_failed", data)
        if step.act == plan.PULL:
            first, limit = max(1.0, self._config().backoff_first), self._config().backoff_limit
            count = self._pull.times + 1
            due = time.monotonic() + backoff.delay(count + 1, first, limit)
            self._pull = Failures(count, due, "pull_failed", error.message)
        elif isinstance(error, EngineUnavailableError):
            # The configuration is not to blame: it must not be taken back for it.
            self._count("engine_failed", error.message)
        else:
            self._count(f"{step.text if step.text == plan.STAND_IN else step.act}_failed", error.message)

    def _fail_to_look(self, entry: Entry, error: HomedError) -> Plan:
        """The engine did not say whether the image is there."""
        self._count("engine_failed", error.message)
        decided = Plan("unknown", (), "engine_failed", error.message, time.monotonic() + _BREATH)
        self._say(entry, decided)
        return decided

    def _say_away(self, entry: Entry) -> None:
        self._say(entry, Plan("unknown", (), "engine_unavailable", self._view.trouble))

    def _say(self, entry: Entry, decided: Plan) -> None:
        service = entry.service
        wanted = records.wanted(service)
        container = self._container(wanted.digest)
        failures = self._pull if decided.reason == "pull_failed" else self._failures
        warning = ""
        if self._not_allowed and decided.status == "running" and not decided.reason:
            warning = f"it runs, and could not be started again: {self._not_allowed}"
        self._report(
            Report(
                status=decided.status,
                wanted="deleted" if wanted.removed else "running" if wanted.run else "stopped",
                actual=str(container.state) if container is not None else "missing",
                reason=decided.reason or (plan.NOT_ALLOWED if warning else None),
                message=decided.message or warning or _to_be_given(service),
                step=decided.steps[0].act if decided.steps else None,
                next_try=_wall(decided.next_at),
                attempts=failures.times,
                container=container,
                revision=entry.revision,
                busy=bool(decided.steps),
                hold=self._hold,
            )
        )

    def _say_stuck(self, wait: float | None) -> None:
        """A step failed that no plan knows how to wait for: say so, and wait."""
        failures = self._failures
        self._report(
            msgspec.structs.replace(
                self.report,
                busy=False,
                reason=failures.reason or "busy",
                message=failures.message or "it needs more steps than are taken at once",
                attempts=failures.times,
                next_try=_wall(time.monotonic() + (wait or 0.0)),
            )
        )

    def _container(self, digest: str) -> Container | None:
        """The container that the status is about: the wanted one where it runs, else one that does."""
        found = self._view.of_service(self.name)
        return max(found, key=lambda c: (c.is_up, c.digest == digest, c.created_at), default=None)

    def _report(self, report: Report) -> None:
        old, self.report = self.report, report
        if (old.status, old.reason) != (report.status, report.reason):
            data = {
                "name": self.name,
                "status": report.status,
                "reason": report.reason,
                "message": report.message,
            }
            self._events.publish("service.status", data)
        self._reported(self.name, report)


def _to_be_given(service: Service) -> str | None:
    """What its owner has to give it, though it runs: where nothing is to be pulled, nothing else tells."""
    return LOCKED if isinstance(service.effective.registry, LockedRegistry) else None


def needs_permission(spec: ServiceSpec) -> bool:
    """Return whether a service requests access to resources of the board."""
    return bool(spec.volumes or spec.devices or spec.privileged or spec.cap_add)


def _wall(mono: float | None) -> datetime | None:
    if mono is None:
        return None
    return datetime.now(UTC) + timedelta(seconds=max(0.0, mono - time.monotonic()))
