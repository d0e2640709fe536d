"""What to do next for one service: a pure function from what is wanted and what is there to steps, or a reason.

The steps of one plan are taken in order until one fails; then, and after the last, it is planned anew from what
is there by then. So a plan never has to foresee anything, and a homed that was killed in its middle carries on.
"""

from datetime import datetime
from typing import NamedTuple

from homed.containers.backoff import NONE, Failures
from homed.containers.model import Container, State


class Wanted(NamedTuple):
    """`digest` names the container's configuration (`creation.digest`).

    `confirmed`: it has run well. `can_fall_back`: another configuration (`good`) has, and replaces it if it fails.
    `again`: it was stopped only temporarily. `pull`: its image must be pulled again.
    `held` and `frozen` say why it is kept down, or left alone, for a while;
    its health is not judged before `spared_until` (monotonic).
    """

    name: str
    digest: str
    run: bool
    removed: bool = False
    restart: bool = False
    again: bool = False
    pull: bool = False
    confirmed: bool = False
    can_fall_back: bool = False
    good: str = ""
    restart_policy: str = "unless-stopped"
    stop_timeout: int = 10
    why_not: str = "stopped"
    held: str = ""
    frozen: str = ""
    spared_until: float = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is to be started whatever its policy and its failures say."""
        return self.restart or self.again

    @property
    def on_trial(self) -> bool:
        return self.can_fall_back and not self.confirmed


class Dependency(NamedTuple):
    name: str
    ready: bool
    message: str


class Actual(NamedTuple):
    """`containers` are the service's own; `name_taken` is a foreign container that has the service's name."""

    containers: tuple[Container, ...]
    image_present: bool = True
    name_taken: str | None = None
    dependencies: tuple[Dependency, ...] = ()
    failures: Failures = NONE
    pull: Failures = NONE


class Timing(NamedTuple):
    """`now` is wall-clock for the engine's times, `mono` is for waits; the rest are seconds."""

    now: datetime
    mono: float
    settle: float
    start_timeout: float


class Step(NamedTuple):
    """An act on a container. `act` is one of the names below; `container` is its id; `name` and `text` as it needs."""

    act: str
    container: str = ""
    name: str = ""
    text: str = ""
    timeout: int = 10


PULL, CREATE, START, STOP, REMOVE, RENAME = "pull", "create", "start", "stop", "remove", "rename"
# What a START says of the container that runs until its successor can be made, and the least seconds between two.
STAND_IN, STAND_IN_FAILED, STAND_IN_PAUSE = "stand_in", "stand_in_failed", 5.0
# A configuration on trial that failed for one of these reasons is taken back.
CRASHED, START_FAILED = "crashed", "start_failed"
BAD_STARTS = (CRASHED, START_FAILED)
CONFIRM, REJECT, RESTARTED, FORGET = "confirm", "reject", "restarted", "forget"
# Record that the image was pulled again.
PULLED = "pulled"
# Remember that what is stopped for a while is to be started again, whatever its policy says of an end.
AGAIN = "again"
# The reasons of a service that is held, and of one that is frozen.
HELD, FROZEN = "held", "backup"
# The reason for a running container that would be refused if it were started now.
NOT_ALLOWED = "not_allowed"


class Plan(NamedTuple):
    """Steps to take; where there are none, `reason` and `message` say why, `next_at` (monotonic) when to look again."""

    status: str
    steps: tuple[Step, ...] = ()
    reason: str = ""
    message: str = ""
    next_at: float | None = None


def plan(wanted: Wanted, actual: Actual, timing: Timing) -> Plan:
    if any(container.state is State.REMOVING for container in actual.containers):
        return Plan("stopping", reason="removing", message="a container of it is being removed")
    if wanted.held:
        return _hold(wanted, actual)
    if wanted.frozen:
        return _leave(wanted, actual)
    if wanted.removed:
        return _remove(wanted, actual)
    if wanted.pull and actual.pull.next_at <= timing.mono:
        up = any(container.is_up for container in actual.containers)
        return Plan("running" if up else "pulling", (Step(PULL), Step(PULLED)))
    decided = _run(wanted, actual, timing) if wanted.run else _stop(wanted, actual)
    if wanted.pull and not decided.steps and (not decided.reason or not wanted.run):
        failed = actual.pull
        return decided._replace(reason=failed.reason, message=failed.message, next_at=failed.next_at)
    return decided


def _hold(wanted: Wanted, actual: Actual) -> Plan:
    """Stop what is up, and nothing else: what its owner wants is done afterwards."""
    up = [container for container in actual.containers if container.is_up]
    if not up:
        return Plan(HELD, reason=HELD, message=wanted.held)
    first = [Step(AGAIN)] if wanted.run and not wanted.removed and not wanted.is_due else []
    stops = [Step(STOP, container.id, timeout=wanted.stop_timeout) for container in up]
    return Plan("stopping", (*first, *stops))


def _leave(wanted: Wanted, actual: Actual) -> Plan:
    states = {container.state for container in actual.containers}
    up = any(container.is_up for container in actual.containers)
    status = "paused" if State.PAUSED in states else "running" if up else "stopped"
    return Plan(status, reason=FROZEN, message=wanted.frozen)


def _remove(wanted: Wanted, actual: Actual) -> Plan:
    steps: list[Step] = []
    for container in actual.containers:
        if container.is_up:
            steps.append(Step(STOP, container.id, timeout=wanted.stop_timeout))
        steps.append(Step(REMOVE, container.id))
    return Plan("deleting", (*steps, Step(FORGET)))


def _stop(wanted: Wanted, actual: Actual) -> Plan:
    steps: list[Step] = []
    for container in actual.containers:
        if container.is_up:
            steps.append(Step(STOP, container.id, timeout=wanted.stop_timeout))
        if container.digest != wanted.digest:
            steps.append(Step(REMOVE, container.id))
    if wanted.is_due:
        steps.append(Step(RESTARTED))
    if steps:
        return Plan("stopping", tuple(steps))
    return Plan("stopped", reason=wanted.why_not, message=_WHY_NOT[wanted.why_not])


_WHY_NOT = {"stopped": "it was stopped: start it", "disabled": "it is disabled: enable it"}


def _run(wanted: Wanted, actual: Actual, timing: Timing) -> Plan:
    dead = [container for container in actual.containers if container.state is State.DEAD]
    if dead:  # what the engine half removed: it can never be started again
        return Plan("creating", tuple(Step(REMOVE, container.id) for container in dead))
    fitting = [container for container in actual.containers if container.digest == wanted.digest]
    fitting.sort(key=lambda container: (container.is_up, container.created_at), reverse=True)
    if not fitting:
        return _create(wanted, actual, timing)
    current = fitting[0]
    others = tuple(container for container in actual.containers if container.id != current.id)
    if current.is_up:
        return _watch(wanted, current, others, actual, timing)
    return _bring_up(wanted, current, others, actual, timing)


def _create(wanted: Wanted, actual: Actual, timing: Timing) -> Plan:
    running = any(container.is_up for container in actual.containers)
    if actual.name_taken is not None:
        return _name_taken(actual.name_taken)
    if wanted.on_trial and not running:
        standing_in = _stand_in(wanted, actual, timing)
        if standing_in is not None:
            return standing_in
    if not actual.image_present:
        if actual.pull.next_at > timing.mono:
            status = "running" if running else "waiting"
            return Plan(status, (), actual.pull.reason, actual.pull.message, actual.pull.next_at)
        return Plan("running" if running else "pulling", (Step(PULL),))
    waiting = None if running else _waiting(actual)
    if waiting is not None:
        return waiting
    if actual.failures.next_at > timing.mono:
        status = "running" if running else "failed"
        return Plan(status, (), actual.failures.reason, actual.failures.message, actual.failures.next_at)
    # Made beside the one that runs: what the engine refuses, it refuses before anything is stopped.
    name = f"{wanted.name}.{wanted.digest[:8]}" if actual.containers else wanted.name
    return Plan("creating", (Step(CREATE, name=name),))


def _stand_in(wanted: Wanted, actual: Actual, timing: Timing) -> Plan | None:
    """Start what ran before, while its successor cannot be made yet; None where it is not to be waited for."""
    ran = [container for container in actual.containers if container.started_at is not None]
    waits = actual.failures.next_at > timing.mono
    if not ran or _waiting(actual) is not None or (waits and actual.failures.reason == STAND_IN_FAILED):
        return None
    last = max(ran, key=lambda container: (container.digest == wanted.good, container.created_at))
    since = STAND_IN_PAUSE if last.finished_at is None else (timing.now - last.finished_at).total_seconds()
    if 0 <= since < STAND_IN_PAUSE:
        if actual.image_present and not waits:
            return None  # its successor can be made at once
        return Plan("waiting", (), CRASHED, how_it_ended(last), timing.mono + STAND_IN_PAUSE - since)
    others = tuple(container for container in actual.containers if container.id != last.id)
    return Plan("starting", (*_take_name(wanted, last, others), Step(START, last.id, text=STAND_IN)))


def _name_taken(holder: str) -> Plan:
    message = f"a container that is not homed's has this name ({holder[:12]}): remove or rename it"
    return Plan("failed", reason="name_taken", message=message)


def _waiting(actual: Actual) -> Plan | None:
    missing = [dependency for dependency in actual.dependencies if not dependency.ready]
    if not missing:
        return None
    message = "; ".join(f"waits for '{d.name}': {d.message}" for d in missing)
    return Plan("waiting", reason="dependency", message=message)


def _watch(wanted: Wanted, current: Container, others: tuple[Container, ...], actual: Actual, timing: Timing) -> Plan:
    if wanted.restart:
        stop = Step(STOP, current.id, timeout=wanted.stop_timeout)
        return Plan("restarting", (stop, Step(START, current.id), Step(RESTARTED)))
    if wanted.again:  # it runs: it was let go before it was stopped
        return Plan("running", (Step(RESTARTED),))
    renames = _put_name_right(wanted, current, others, actual)
    if renames:
        return Plan("running", renames)
    if current.state is State.PAUSED:
        return Plan("paused", reason="paused", message="its container was paused by hand: it stays so")
    uptime = (timing.now - current.started_at).total_seconds() if current.started_at else 0.0
    if current.health == "unhealthy":
        return _unhealthy(wanted, current, actual, timing)
    settled = current.health == "healthy" or (current.health is None and not 0 <= uptime < timing.settle)
    if settled:
        steps = [Step(REMOVE, other.id) for other in others]
        if not wanted.confirmed:
            steps.insert(0, Step(CONFIRM))
        if not steps and actual.name_taken is not None:
            return _name_taken(actual.name_taken)._replace(status="running")
        return Plan("running", tuple(steps))
    spared = timing.mono < wanted.spared_until
    if wanted.on_trial and current.health == "starting" and uptime > timing.start_timeout and not spared:
        return Plan("failed", (Step(REJECT, text=f"it was not healthy within {timing.start_timeout:.0f} s"),))
    status = "starting" if current.health == "starting" else "running"
    wait = timing.start_timeout if current.health == "starting" else timing.settle
    message = "its health check has not passed yet" if current.health else f"it runs for less than {wait:.0f} s"
    # Past the wait there is nothing to look for: the engine tells when the health changes.
    next_at = timing.mono + wait - uptime + 0.05 if uptime < wait else wanted.spared_until if spared else None
    return Plan(status, (), "settling", message, next_at)


def _unhealthy(wanted: Wanted, current: Container, actual: Actual, timing: Timing) -> Plan:
    if timing.mono < wanted.spared_until:
        message = "its health check fails; it was frozen until a moment ago, and gets another look"
        return Plan("unhealthy", (), "unhealthy", message, wanted.spared_until)
    if wanted.on_trial:
        return Plan("failed", (Step(REJECT, text="its health check failed"),))
    if wanted.restart_policy == "no":
        return Plan("unhealthy", reason="unhealthy", message="its health check fails; its policy is 'no'")
    if actual.failures.next_at > timing.mono:
        message = "its health check fails; it is restarted when the next try is due"
        return Plan("unhealthy", (), "unhealthy", message, actual.failures.next_at)
    stop = Step(STOP, current.id, timeout=wanted.stop_timeout)
    return Plan("restarting", (stop, Step(START, current.id, text="unhealthy")))


def _bring_up(
    wanted: Wanted, current: Container, others: tuple[Container, ...], actual: Actual, timing: Timing
) -> Plan:
    start_failed = actual.failures.reason == START_FAILED
    if wanted.is_due and start_failed:  # it was tried; from here on it waits like any other
        return Plan("starting", (Step(RESTARTED),))
    if wanted.on_trial and actual.failures.reason in BAD_STARTS and not wanted.is_due:
        return Plan("failed", (Step(REJECT, text=actual.failures.message),))
    # After a start that failed, the end before it is not what the policy judges: homed may have stopped it itself.
    if current.state is not State.CREATED and not wanted.is_due and not start_failed:
        if ended_well(current, wanted.restart_policy):
            return _done(wanted, current, others)
        refused = _policy_refuses(wanted, current, actual.failures)
        if refused is not None:
            return refused
    waiting = None if any(other.is_up for other in others) else _waiting(actual)
    if waiting is not None:
        return waiting
    if actual.failures.next_at > timing.mono and not wanted.is_due:
        reason, message = actual.failures.reason, actual.failures.message
        return Plan("waiting", (), reason, message, actual.failures.next_at)
    if actual.name_taken is not None and current.name != wanted.name:
        return _name_taken(actual.name_taken)
    steps = [Step(STOP, other.id, timeout=wanted.stop_timeout) for other in others if other.is_up]
    steps += _take_name(wanted, current, others)
    steps.append(Step(START, current.id))
    if wanted.is_due:
        steps.append(Step(RESTARTED))
    return Plan("starting", tuple(steps))


def ended_well(container: Container, restart_policy: str) -> bool:
    """Whether a container that ended was meant to: it ended with 0, and its policy lets it."""
    return container.exit_code == 0 and restart_policy.partition(":")[0] in ("no", "on-failure")


def _done(wanted: Wanted, current: Container, others: tuple[Container, ...]) -> Plan:
    steps = [] if wanted.confirmed else [Step(CONFIRM)]
    steps += [Step(REMOVE, other.id) for other in others]
    message = f"it ended with 0; its policy is '{wanted.restart_policy}'"
    return Plan("stopped", tuple(steps), reason="ended", message=message)


def _take_name(wanted: Wanted, current: Container, others: tuple[Container, ...]) -> list[Step]:
    if current.name == wanted.name:
        return []
    steps = [
        Step(RENAME, other.id, name=f"{wanted.name}.{(other.digest or other.id)[:8]}.old")
        for other in others
        if other.name == wanted.name
    ]
    return [*steps, Step(RENAME, current.id, name=wanted.name)]


def _put_name_right(
    wanted: Wanted, current: Container, others: tuple[Container, ...], actual: Actual
) -> tuple[Step, ...]:
    """Rename a running container back to its service's name, or a similar one if that is taken."""
    if current.name == wanted.name:
        return ()
    if actual.name_taken is None:
        return tuple(_take_name(wanted, current, others))
    name = f"{wanted.name}.{wanted.digest[:8]}"
    like = current.name.startswith(f"{wanted.name}.") or any(other.name == name for other in others)
    return () if like else (Step(RENAME, current.id, name=name),)


def _policy_refuses(wanted: Wanted, current: Container, failures: Failures) -> Plan | None:
    policy, _, most = wanted.restart_policy.partition(":")
    ended = how_it_ended(current)
    if policy == "no":
        return Plan("stopped", reason="ended", message=f"{ended}; its policy is 'no'")
    if policy == "on-failure" and most and failures.times > int(most):
        return Plan("failed", reason="gave_up", message=f"{ended}, after {most} restarts: start it to try again")
    return None


def how_it_ended(container: Container) -> str:
    if container.out_of_memory:
        return "it ran out of its memory limit"
    return container.error or f"it ended with exit code {container.exit_code}"
