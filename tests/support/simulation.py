"""An engine, a record and a keeper's memory in virtual time: plans are carried out step by step, and may fail or be
killed at any of them. What it checks at each step are the promises that hold whatever happens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from homed.containers import backoff, plan
from homed.containers.backoff import Failures
from homed.containers.model import Container, State
from homed.containers.plan import Actual, Dependency, Plan, Step, Timing, Wanted

NAME = "web"
SETTLE, START_TIMEOUT, FIRST, LIMIT, BREATH = 10.0, 60.0, 1.0, 300.0, 1.0
STABLE = SETTLE * 6
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
# After one failure the next try is due at once; one that is asked for afterwards begins the count anew.
_MOST_AT_ONCE = 3


@dataclass(frozen=True)
class Behaviour:
    """What a configuration does: when (seconds after its start) it ends or its health changes."""

    ends_after: float | None = None
    exit_code: int = 1
    checked: bool = False
    healthy_after: float | None = None
    unhealthy_after: float | None = None
    startable: bool = True
    creatable: bool = True
    pullable: bool = True


GOOD = Behaviour()
HEALTHY = Behaviour(checked=True, healthy_after=3)
CRASHING = Behaviour(ends_after=0.5)
SICK = Behaviour(checked=True, unhealthy_after=5)
NEVER_HEALTHY = Behaviour(checked=True)
UNSTARTABLE = Behaviour(startable=False)
REFUSED = Behaviour(creatable=False)
UNPULLABLE = Behaviour(pullable=False)
ONE_SHOT = Behaviour(ends_after=0.5, exit_code=0)


@dataclass
class Box:
    """A container of the simulated engine."""

    id: str
    name: str
    digest: str | None
    own: bool
    created_at: float
    state: State = State.CREATED
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    health: str | None = None


@dataclass
class Record:
    """What is stored of the service: it survives a kill; but for `held` and `frozen`, which are told anew."""

    spec: str = "a"
    good: str | None = None
    rejected: str | None = None
    enabled: bool = True
    stopped: bool = False
    restart: bool = False
    again: bool = False
    deleting: bool = False
    policy: str = "unless-stopped"
    forgotten: bool = False
    held: str = ""
    frozen: str = ""

    @property
    def effective(self) -> str:
        return self.good if self.good is not None and self.rejected == self.spec else self.spec

    @property
    def run(self) -> bool:
        return self.enabled and not self.stopped and not self.deleting

    def wanted(self) -> Wanted:
        now = self.effective
        return Wanted(
            name=NAME,
            digest=now,
            run=self.enabled and not self.stopped,
            removed=self.deleting,
            restart=self.restart,
            again=self.again,
            confirmed=self.good == now,
            can_fall_back=self.good is not None and self.good != now,
            restart_policy=self.policy,
            why_not="disabled" if not self.enabled else "stopped",
            held=self.held,
            frozen=self.frozen,
        )


@dataclass
class Memory:
    """What a keeper remembers: gone with a kill."""

    failures: Failures = backoff.NONE
    pull: Failures = backoff.NONE
    digest: str = ""
    ends: dict[str, float | None] = field(default_factory=dict)
    looked: bool = False


class StepFailed(Exception):
    pass


class Killed(Exception):
    """homed was killed before this step, or right after it."""


def _no_trouble() -> str:
    return ""


class World:
    """`trouble` is asked at each step: "" for none, "fail", "kill before" or "kill after"."""

    def __init__(self, behaviours: dict[str, Behaviour], record: Record | None = None):
        self.behaviours = behaviours
        self.record = record or Record()
        self.memory = Memory()
        self.boxes: list[Box] = []
        self.images: set[str] = set()
        self.ready = True
        self.now = 1000.0
        self.trouble: Callable[[], str] = _no_trouble
        self.taken: list[Step] = []
        self.last = Plan("pending")
        self._serial = 0
        self._failed_now: dict[tuple[str, str, str], int] = {}

    # What happens in the world

    def advance(self, to: float) -> None:
        """Let time go on, event by event."""
        assert to >= self.now
        while True:
            due = [(when, act) for when, act in self._coming() if when <= to]
            if not due:
                break
            when, act = min(due, key=lambda one: one[0])
            self.now = max(self.now, when)
            act()
        if to > self.now:
            self._failed_now.clear()
        self.now = to

    def next_event(self) -> float | None:
        return min((when for when, _ in self._coming()), default=None)

    def _coming(self) -> list[tuple[float, Callable[[], None]]]:
        coming: list[tuple[float, Callable[[], None]]] = []
        for box in self.boxes:
            if box.state is not State.RUNNING or box.started_at is None or box.digest is None:
                continue
            behaviour = self.behaviours[box.digest]
            if behaviour.ends_after is not None:
                coming.append((box.started_at + behaviour.ends_after, self._ender(box, behaviour.exit_code)))
            for after, word in ((behaviour.healthy_after, "healthy"), (behaviour.unhealthy_after, "unhealthy")):
                if after is not None and box.health == "starting":
                    coming.append((box.started_at + after, self._sicken(box, word)))
        return coming

    def _ender(self, box: Box, code: int) -> Callable[[], None]:
        return lambda: self.end(box, code)

    def _sicken(self, box: Box, word: str) -> Callable[[], None]:
        return lambda: setattr(box, "health", word)

    def end(self, box: Box, code: int) -> None:
        box.state, box.exit_code, box.finished_at, box.health = State.STOPPED, code, self.now, None

    def remove_by_hand(self, box: Box) -> None:
        self.boxes.remove(box)

    def foreign(self, name: str = NAME) -> Box:
        """Somebody else's container."""
        self._serial += 1
        box = Box(f"foreign{self._serial}", name, None, False, self.now, State.RUNNING, self.now)
        self.boxes.append(box)
        return box

    def own(self) -> list[Box]:
        return [box for box in self.boxes if box.own]

    def up(self) -> list[Box]:
        return [box for box in self.own() if box.state in (State.RUNNING, State.PAUSED)]

    # What the owner does

    def update(self, spec: str) -> None:
        self.record.spec, self.record.rejected = spec, None
        self._failed_now.clear()  # asked for anew, it may be tried at once

    def restart(self) -> None:
        self.record.stopped, self.record.restart, self.record.rejected = False, True, None
        self.memory.failures = self.memory.pull = backoff.NONE
        self._failed_now.clear()

    # What the keeper does

    def kill(self) -> None:
        self.memory = Memory()
        self.record.held = self.record.frozen = ""
        self._failed_now.clear()

    def pass_once(self) -> Plan:
        """Look, plan and take the steps, as `Keeper` does."""
        memory, wanted = self.memory, self.record.wanted()
        if wanted.digest != memory.digest:
            memory.digest, memory.failures, memory.pull = wanted.digest, backoff.NONE, backoff.NONE
        self._note_ends(wanted)
        found = tuple(self._container(box) for box in self.own())
        fits = any(one.digest == wanted.digest for one in found)
        clash = next((box.id for box in self.boxes if box.name == NAME and not box.own), None)
        dependencies = (Dependency("db", self.ready, "it does not run"),)
        present = fits or wanted.digest in self.images
        actual = Actual(found, present, clash, dependencies, memory.failures, memory.pull)
        moment = _EPOCH + timedelta(seconds=self.now)
        self.last = plan.plan(wanted, actual, Timing(moment, self.now, SETTLE, START_TIMEOUT))
        assert self.last.steps or self.last.reason or self.last.status == "running", f"no step, no reason: {self.last}"
        self._check_hold()
        blocked = False
        try:
            for step in self.last.steps:
                if not self._take(step):
                    blocked = step.act not in (plan.PULL, plan.CREATE, plan.START)
                    break
        except Killed:
            self.kill()
        if blocked:
            self.advance(max(self.now + BREATH, self.memory.failures.next_at))
        return self.last

    def _check_hold(self) -> None:
        acts = {step.act for step in self.last.steps}
        if self.record.held:
            assert acts <= {plan.AGAIN, plan.STOP}, f"a held service is not left down: {self.last}"
        elif self.record.frozen:
            assert not acts, f"a frozen service is not left alone: {self.last}"

    def settle(self, seconds: float = 3600.0, most_passes: int = 2000) -> Plan:
        """Keep going until nothing more is done and nothing more will happen, or the time is over."""
        end = self.now + seconds
        for _ in range(most_passes):
            done = self.pass_once()
            if self.record.forgotten:
                return done
            if done.steps:
                continue
            moments = [when for when in (done.next_at, self.next_event()) if when is not None]
            if not moments or min(moments) > end:
                return done
            self.advance(max(self.now, min(moments)))
        raise AssertionError(f"it never comes to rest: {self.last}, {self.taken[-10:]}")

    def _note_ends(self, wanted: Wanted) -> None:
        memory = self.memory
        for box in self.own():
            if box.digest != memory.digest or box.state in (State.RUNNING, State.PAUSED) or box.finished_at is None:
                continue
            if memory.ends.get(box.id) == box.finished_at:
                continue
            memory.ends[box.id] = box.finished_at
            container = self._container(box)
            if memory.looked and not plan.ended_well(container, wanted.restart_policy):
                if backoff.was_stable(container.started_at, container.finished_at, STABLE):
                    memory.failures = backoff.NONE
                self._count(plan.CRASHED, plan.how_it_ended(container))
        memory.ends = {box.id: memory.ends.get(box.id) for box in self.own()}
        memory.looked = True

    def _count(self, reason: str, message: str) -> None:
        self.memory.failures = backoff.after(self.memory.failures, reason, message, self.now, FIRST, LIMIT)

    def _take(self, step: Step) -> bool:
        trouble = self.trouble()
        if trouble == "kill before":
            raise Killed
        self.taken.append(step)
        try:
            if trouble == "fail":
                raise StepFailed("it was made to fail")
            self._act(step)
        except StepFailed as error:
            self._fail(step, str(error))
            return False
        if trouble == "kill after":
            raise Killed
        memory = self.memory
        if step.act == plan.STOP:
            for box in self.own():
                if box.id == step.container:
                    memory.ends[box.id] = box.finished_at
        if step.act == plan.PULL:
            memory.pull = backoff.NONE
        if step.text == "unhealthy":
            self._count("unhealthy", "its health check failed")
        if step.act == plan.CONFIRM or (step.act == plan.RESTARTED and memory.failures.reason != plan.START_FAILED):
            memory.failures = backoff.NONE
        return True

    def _fail(self, step: Step, message: str) -> None:
        key = (step.act, step.container, self.record.effective)
        self._failed_now[key] = self._failed_now.get(key, 0) + 1
        assert self._failed_now[key] <= _MOST_AT_ONCE, f"{step} fails again and again without a wait"
        if step.act == plan.PULL:
            count = self.memory.pull.times + 1
            due = self.now + backoff.delay(count + 1, FIRST, LIMIT)
            self.memory.pull = Failures(count, due, "pull_failed", message)
        else:
            self._count(f"{step.text if step.text == plan.STAND_IN else step.act}_failed", message)

    def _act(self, step: Step) -> None:
        record = self.record
        box = self._box(step.container) if step.container else None
        if step.act == plan.PULL:
            if not self.behaviours[record.effective].pullable:
                raise StepFailed("manifest unknown")
            self.images.add(record.effective)
        elif step.act == plan.CREATE:
            self._create(step.name)
        elif step.act == plan.CONFIRM:
            record.good = record.effective
        elif step.act == plan.REJECT:
            assert record.good is not None, "rejected with nothing to fall back on"
            record.rejected = record.spec
        elif step.act == plan.RESTARTED:
            record.restart = record.again = False
        elif step.act == plan.AGAIN:
            record.again = True
        elif step.act == plan.FORGET:
            assert not self.own(), "forgotten while containers of it are left"
            record.forgotten = True
        else:
            assert box is not None
            self._act_on(step, box)

    def _act_on(self, step: Step, box: Box) -> None:
        if step.act == plan.START:
            self._start(box)
        elif step.act == plan.STOP:
            if box.state in (State.RUNNING, State.PAUSED):
                self.end(box, 0)
        elif step.act == plan.REMOVE:
            self._check_removal(box)
            self.boxes.remove(box)
        elif step.act == plan.RENAME:
            if any(other.name == step.name for other in self.boxes):
                raise StepFailed(f"the name {step.name} is in use")
            box.name = step.name
        else:
            raise AssertionError(f"an unknown act: {step}")

    def _check_removal(self, box: Box) -> None:
        record = self.record
        if record.run and record.good is not None and box.digest == record.good and record.effective != record.good:
            raise AssertionError("the good container is removed while another one is on trial")

    def _box(self, identity: str) -> Box:
        found = next((box for box in self.boxes if box.id == identity), None)
        assert found is not None, f"a step on {identity}, which is not there"
        assert found.own, f"a step on {identity}, which is somebody else's"
        return found

    def _create(self, name: str) -> None:
        digest = self.record.effective
        if not self.behaviours[digest].creatable:
            raise StepFailed("the engine refuses it")
        if digest not in self.images:
            raise StepFailed("no such image")
        if any(box.name == name for box in self.boxes):
            raise StepFailed(f"the name {name} is in use")
        self._serial += 1
        self.boxes.append(Box(f"own{self._serial}", name, digest, True, self.now))

    def _start(self, box: Box) -> None:
        assert box.digest is not None
        others = [other for other in self.up() if other is not box]
        assert not others, f"{box.id} is started beside {others[0].id}: they meet on ports and volumes"
        behaviour = self.behaviours[box.digest]
        if not behaviour.startable:
            raise StepFailed("port is already allocated")
        if box.state is State.DEAD:
            raise StepFailed("it is marked for removal")
        if box.state is not State.RUNNING:
            box.state, box.started_at, box.exit_code = State.RUNNING, self.now, None
            box.health = "starting" if behaviour.checked else None

    def _container(self, box: Box) -> Container:
        return Container(
            id=box.id,
            name=box.name,
            image="app:1",
            state=box.state,
            created_at=_EPOCH + timedelta(seconds=box.created_at),
            started_at=_moment(box.started_at),
            finished_at=_moment(box.finished_at),
            exit_code=box.exit_code,
            health=box.health,
            managed=True,
            service=NAME,
            digest=box.digest,
        )


def _moment(at: float | None) -> datetime | None:
    return None if at is None else _EPOCH + timedelta(seconds=at)


def running(behaviours: dict[str, Behaviour], **record: object) -> World:
    """A world in which configuration `a` runs and is confirmed."""
    world = World({"a": GOOD, **behaviours}, replace(Record(), **record))  # type: ignore[arg-type]
    world.settle()
    assert world.record.good == "a" and [box.name for box in world.up()] == [NAME]
    world.taken.clear()
    return world
