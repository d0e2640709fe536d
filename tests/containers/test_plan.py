"""What is done next for a service: cases by name, then a simulation in which anything may go wrong."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed.containers import backoff, plan
from homed.containers.backoff import Failures
from homed.containers.model import Container, State
from homed.containers.plan import (
    AGAIN,
    CONFIRM,
    CREATE,
    FORGET,
    PULL,
    REJECT,
    REMOVE,
    RENAME,
    RESTARTED,
    START,
    STOP,
    Actual,
    Dependency,
    Plan,
    Timing,
    Wanted,
)
from tests.support import simulation
from tests.support.simulation import (
    CRASHING,
    GOOD,
    HEALTHY,
    NEVER_HEALTHY,
    ONE_SHOT,
    REFUSED,
    SICK,
    UNPULLABLE,
    UNSTARTABLE,
    Behaviour,
    Record,
    World,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TIMING = Timing(NOW, 1000.0, settle=10, start_timeout=60)
WANTED = Wanted("web", "a", run=True, confirmed=True)


def container(identity: str = "c1", **given: Any) -> Container:
    values: dict[str, Any] = {
        "name": "web",
        "image": "app:1",
        "state": State.RUNNING,
        "created_at": NOW - timedelta(hours=1),
        "started_at": NOW - timedelta(hours=1),
        "managed": True,
        "service": "web",
        "digest": "a",
    }
    return Container(id=identity, **{**values, **given})


def ended(identity: str = "c1", code: int = 1, **given: Any) -> Container:
    return container(identity, **{"state": State.STOPPED, "exit_code": code, "finished_at": NOW, **given})


def decide(wanted: Wanted, *containers: Container, **actual: Any) -> Plan:
    return plan.plan(wanted, Actual(containers, **actual), TIMING)


def acts(decided: Plan) -> list[str]:
    return [step.act for step in decided.steps]


def test_nothing_is_done_where_all_is_as_wanted() -> None:
    assert decide(WANTED, container()) == Plan("running")


def test_a_missing_image_is_pulled_first() -> None:
    assert acts(decide(WANTED, image_present=False)) == [PULL]


def test_a_missing_container_is_made_under_the_services_name() -> None:
    (step,) = decide(WANTED).steps
    assert (step.act, step.name) == (CREATE, "web")


def test_a_container_that_was_made_is_started() -> None:
    assert acts(decide(WANTED, container(state=State.CREATED, started_at=None))) == [START]


def test_a_container_that_ended_is_started_again() -> None:
    assert acts(decide(WANTED, ended())) == [START]


def test_a_pull_that_failed_waits_and_says_why() -> None:
    decided = decide(WANTED, image_present=False, pull=Failures(2, 1005.0, "pull_failed", "no such image"))
    assert decided == Plan("waiting", (), "pull_failed", "no such image", 1005.0)


def test_a_crash_waits_for_its_next_try_and_says_why() -> None:
    decided = decide(WANTED, ended(), failures=Failures(3, 1002.0, "crashed", "exit code 1"))
    assert decided == Plan("waiting", (), "crashed", "exit code 1", 1002.0)


def test_a_failed_creation_waits_for_its_next_try() -> None:
    decided = decide(WANTED, failures=Failures(3, 1002.0, "create_failed", "no such network"))
    assert (decided.status, decided.steps, decided.next_at) == ("failed", (), 1002.0)


def test_a_foreign_container_of_the_same_name_is_left_alone() -> None:
    decided = decide(WANTED, name_taken="0123456789abcdef")
    assert (decided.status, decided.steps, decided.reason) == ("failed", (), "name_taken")
    assert "0123456789ab" in decided.message


def test_a_service_waits_for_what_it_depends_on() -> None:
    missing = (Dependency("db", False, "it does not run"), Dependency("cache", True, ""))
    decided = decide(WANTED, dependencies=missing)
    assert (decided.status, decided.steps, decided.reason) == ("waiting", (), "dependency")
    assert "'db'" in decided.message and "cache" not in decided.message


def test_a_running_service_does_not_stop_for_a_dependency_that_went_away() -> None:
    assert decide(WANTED, container(), dependencies=(Dependency("db", False, "away"),)) == Plan("running")


def test_a_replacement_is_made_beside_the_one_that_runs() -> None:
    (step,) = decide(WANTED._replace(digest="b" * 16), container()).steps
    assert (step.act, step.name) == (CREATE, "web.bbbbbbbb")


def test_a_replacement_takes_the_place_and_the_name_and_the_old_one_stays_for_now() -> None:
    new = container("c2", name="web.b", digest="b", state=State.CREATED, started_at=None)
    steps = decide(WANTED._replace(digest="b", confirmed=False, can_fall_back=True), container(), new).steps
    assert [(s.act, s.container) for s in steps] == [(STOP, "c1"), (RENAME, "c1"), (RENAME, "c2"), (START, "c2")]
    assert steps[2].name == "web" and steps[1].name != "web"


def test_a_replacement_that_has_settled_is_confirmed_and_the_old_one_removed() -> None:
    old = ended(name="web.a.old", code=0)
    new = container("c2", digest="b")
    decided = decide(WANTED._replace(digest="b", confirmed=False, can_fall_back=True), old, new)
    assert [(s.act, s.container) for s in decided.steps] == [(CONFIRM, ""), (REMOVE, "c1")]


def test_a_young_container_settles_first() -> None:
    young = container(started_at=NOW - timedelta(seconds=4))
    decided = decide(WANTED._replace(confirmed=False), young)
    assert (decided.status, decided.steps, decided.reason) == ("running", (), "settling")
    assert decided.next_at == pytest.approx(1006.05)


def test_a_container_that_started_in_the_future_counts_as_settled() -> None:
    """The board's clock was set back: the service must not hang for as long."""
    future = container(started_at=NOW + timedelta(days=30))
    assert acts(decide(WANTED._replace(confirmed=False), future)) == [CONFIRM]


def test_a_health_check_decides_on_settling_where_there_is_one() -> None:
    trial = WANTED._replace(confirmed=False)
    assert acts(decide(trial, container(started_at=NOW, health="healthy"))) == [CONFIRM]
    starting = decide(trial, container(started_at=NOW - timedelta(seconds=30), health="starting"))
    assert (starting.status, starting.steps) == ("starting", ())


@pytest.mark.parametrize(
    ("current", "failures"),
    [
        (ended(), Failures(1, 0.0, plan.CRASHED, "exit code 1")),
        (container(state=State.CREATED, started_at=None), Failures(1, 0.0, plan.START_FAILED, "no such device")),
        (container(health="unhealthy"), backoff.NONE),
        (container(health="starting", started_at=NOW - timedelta(seconds=61)), backoff.NONE),
    ],
)
def test_a_configuration_on_trial_that_fails_is_rejected(current: Container, failures: Failures) -> None:
    decided = decide(WANTED._replace(confirmed=False, can_fall_back=True), current, failures=failures)
    assert acts(decided) == [REJECT] and decided.steps[0].text


def test_a_confirmed_configuration_is_never_rejected() -> None:
    decided = decide(WANTED._replace(can_fall_back=True), ended(), failures=Failures(9, 0.0, plan.CRASHED, "1"))
    assert acts(decided) == [START]


def test_what_is_unhealthy_is_restarted() -> None:
    steps = decide(WANTED, container(health="unhealthy")).steps
    assert [s.act for s in steps] == [STOP, START]


def test_what_is_unhealthy_is_not_restarted_faster_than_its_backoff() -> None:
    decided = decide(WANTED, container(health="unhealthy"), failures=Failures(4, 1008.0, "unhealthy", "it failed"))
    assert (decided.status, decided.steps, decided.next_at) == ("unhealthy", (), 1008.0)


def test_policy_no_leaves_an_unhealthy_container_alone() -> None:
    decided = decide(WANTED._replace(restart_policy="no"), container(health="unhealthy"))
    assert (decided.status, decided.steps, decided.reason) == ("unhealthy", (), "unhealthy")


@pytest.mark.parametrize(
    ("policy", "code", "times", "expected"),
    [
        ("no", 0, 0, "ended"),
        ("no", 1, 1, "ended"),
        ("on-failure", 0, 0, "ended"),
        ("on-failure", 1, 5, ""),
        ("on-failure:3", 1, 3, ""),
        ("on-failure:3", 1, 4, "gave_up"),
        ("always", 0, 1, ""),
        ("unless-stopped", 0, 1, ""),
    ],
)
def test_the_policy_decides_whether_an_end_is_the_end(policy: str, code: int, times: int, expected: str) -> None:
    failures = Failures(times, 0.0, plan.CRASHED, "it ended") if times else backoff.NONE
    decided = decide(WANTED._replace(restart_policy=policy), ended(code=code), failures=failures)
    assert decided.reason == expected
    assert acts(decided) == ([] if expected else [START])


def test_a_container_that_was_only_made_is_started_whatever_the_policy() -> None:
    made = container(state=State.CREATED, started_at=None)
    assert acts(decide(WANTED._replace(restart_policy="no"), made)) == [START]


def test_a_stop_stops_and_keeps_the_container() -> None:
    stop = WANTED._replace(run=False, stop_timeout=7)
    (step,) = decide(stop, container()).steps
    assert (step.act, step.timeout) == (STOP, 7)
    assert decide(stop, ended()) == Plan("stopped", (), "stopped", "it was stopped: start it")
    assert decide(stop._replace(why_not="disabled"), ended()).reason == "disabled"


def test_a_stop_removes_what_an_older_configuration_left() -> None:
    old = container("c0", digest="old", name="web.old")
    steps = decide(WANTED._replace(run=False), old, ended()).steps
    assert [(s.act, s.container) for s in steps] == [(STOP, "c0"), (REMOVE, "c0")]


def test_a_stopped_service_with_no_container_needs_nothing() -> None:
    assert decide(WANTED._replace(run=False)).steps == ()


def test_a_deletion_stops_and_removes_all_and_forgets_last() -> None:
    steps = decide(WANTED._replace(removed=True), container(), ended("c2")).steps
    assert [(s.act, s.container) for s in steps] == [(STOP, "c1"), (REMOVE, "c1"), (REMOVE, "c2"), (FORGET, "")]


def test_a_deletion_wins_over_everything_but_a_removal_that_goes_on() -> None:
    assert acts(decide(WANTED._replace(removed=True, run=False, restart=True))) == [FORGET]
    decided = decide(WANTED._replace(removed=True), container(state=State.REMOVING))
    assert (decided.steps, decided.reason) == ((), "removing")


def test_a_restart_stops_starts_and_is_noted_last() -> None:
    assert acts(decide(WANTED._replace(restart=True), container())) == [STOP, START, RESTARTED]
    assert acts(decide(WANTED._replace(restart=True), ended())) == [START, RESTARTED]


def test_a_restart_that_was_asked_for_starts_what_its_policy_would_leave() -> None:
    wanted = WANTED._replace(restart=True, restart_policy="no")
    assert acts(decide(wanted, ended(code=0))) == [START, RESTARTED]


def test_a_restart_of_a_service_that_was_stopped_meanwhile_is_over() -> None:
    assert acts(decide(WANTED._replace(run=False, restart=True), ended())) == [RESTARTED]


def test_a_container_paused_by_hand_stays_so() -> None:
    decided = decide(WANTED, container(state=State.PAUSED))
    assert (decided.status, decided.steps, decided.reason) == ("paused", (), "paused")


def test_a_paused_container_is_restarted_where_that_is_asked_for() -> None:
    assert acts(decide(WANTED._replace(restart=True), container(state=State.PAUSED))) == [STOP, START, RESTARTED]


HELD = WANTED._replace(held="it is being restored")
FROZEN = WANTED._replace(frozen="its data is captured")


def test_a_held_service_is_stopped_and_remembered_as_one_to_start_again() -> None:
    decided = decide(HELD, container())
    assert (decided.status, acts(decided)) == ("stopping", [AGAIN, STOP])


@pytest.mark.parametrize(
    "wanted",
    [
        HELD._replace(restart=True), HELD._replace(run=False), HELD._replace(removed=True),
        HELD._replace(digest="b", good="a", can_fall_back=True, confirmed=False, restart=True),
    ],
    ids=["restart", "stopped", "deleted", "changed"],
)  # fmt: skip
def test_of_a_held_service_nothing_is_done_but_that_it_stops(wanted: Wanted) -> None:
    up, down = container("c1"), ended("c2", digest="old", name="web.old.old")
    assert [(step.act, step.container) for step in decide(wanted, up, down).steps] == [(STOP, "c1")]
    assert decide(wanted, down) == Plan("held", reason="held", message="it is being restored")
    assert decide(wanted, image_present=False) == Plan("held", reason="held", message="it is being restored")


def test_a_container_paused_by_hand_is_stopped_where_its_service_is_held() -> None:
    assert STOP in acts(decide(HELD, container(state=State.PAUSED)))


def test_what_was_held_is_started_whatever_its_policy_says_of_its_end() -> None:
    world = World({"a": GOOD}, Record(policy="no"))
    world.settle()
    world.record.held = "it is being restored"
    assert world.settle().reason == "held" and not world.up()
    world.record.held = ""
    assert world.settle().status == "running" and world.up()
    assert not world.record.again


def test_what_was_let_go_before_it_was_stopped_is_not_restarted() -> None:
    assert acts(decide(WANTED._replace(again=True), container())) == [RESTARTED]


def test_what_its_owner_stops_while_it_is_held_stays_stopped() -> None:
    world = simulation.running({})
    world.record.held = "it is being restored"
    world.settle()
    _do(world, "stop")
    assert world.settle().reason == "held"
    world.record.held = ""
    assert world.settle().reason == "stopped" and not world.up()


def test_a_held_service_is_not_taken_back_for_its_stop() -> None:
    world = simulation.running({"b": HEALTHY})
    world.update("b")
    while not any(box.digest == "b" for box in world.up()):
        world.pass_once()
    world.record.held = "it is being restored"
    world.settle()
    world.record.held = ""
    world.settle()
    assert (world.record.good, world.record.rejected) == ("b", None)


@pytest.mark.parametrize(
    ("wanted", "given", "status"),
    [
        (FROZEN, {}, "running"),
        (FROZEN, {"state": State.PAUSED}, "paused"),
        (FROZEN, {"state": State.PAUSED, "health": "unhealthy"}, "paused"),
        (FROZEN._replace(restart=True), {"state": State.PAUSED}, "paused"),
        (FROZEN._replace(run=False), {"state": State.PAUSED}, "paused"),
        (FROZEN._replace(removed=True), {"state": State.PAUSED}, "paused"),
        (FROZEN._replace(digest="b"), {"state": State.PAUSED}, "paused"),
        (FROZEN, {"state": State.STOPPED, "exit_code": 1}, "stopped"),
    ],
)
def test_a_frozen_service_is_left_alone_whatever_is_wanted(wanted: Wanted, given: dict[str, Any], status: str) -> None:
    assert decide(wanted, container(**given)) == Plan(status, reason="backup", message="its data is captured")


def test_health_is_not_judged_until_a_frozen_service_had_time_to_answer() -> None:
    spared = WANTED._replace(spared_until=1010.0)
    decided = decide(spared, container(health="unhealthy"))
    assert (decided.status, decided.steps, decided.next_at) == ("unhealthy", (), 1010.0)
    assert acts(decide(spared._replace(spared_until=1000.0), container(health="unhealthy"))) == [STOP, START]


def test_a_trial_is_not_lost_for_the_time_in_which_it_was_frozen() -> None:
    trial = WANTED._replace(confirmed=False, can_fall_back=True, good="old", spared_until=1010.0)
    starting, sick = container(health="starting"), container(health="unhealthy")
    assert (decide(trial, starting).steps, decide(trial, starting).next_at) == ((), 1010.0)
    assert decide(trial, sick).steps == ()
    assert acts(decide(trial._replace(spared_until=0.0), starting)) == [REJECT]


def test_a_dead_container_is_removed_since_it_can_never_be_started() -> None:
    assert acts(decide(WANTED, container(state=State.DEAD))) == [REMOVE]


def test_what_ran_out_of_memory_says_so() -> None:
    decided = decide(WANTED._replace(restart_policy="no"), ended(code=137, out_of_memory=True))
    assert "memory" in decided.message


# A bare engine, a record, and everything that may go wrong: `World` checks at every step that it is on a container of
# the service's own, that nothing is started beside another, and that nothing that fails is repeated without a wait.


def test_a_service_comes_up_and_is_confirmed() -> None:
    world = World({"a": GOOD})
    assert world.settle().status == "running"
    assert [step.act for step in world.taken] == [PULL, CREATE, START, CONFIRM]


def test_a_container_removed_by_hand_comes_back() -> None:
    world = simulation.running({})
    world.remove_by_hand(world.up()[0])
    assert world.settle().status == "running"
    assert [step.act for step in world.taken] == [CREATE, START]


def test_a_changed_configuration_replaces_the_container() -> None:
    world = simulation.running({"b": HEALTHY})
    world.update("b")
    assert world.settle().status == "running"
    assert [(box.name, box.digest) for box in world.own()] == [("web", "b")]
    assert world.record.good == "b"


@pytest.mark.parametrize("bad", [CRASHING, SICK, NEVER_HEALTHY, UNSTARTABLE])
def test_a_bad_configuration_is_taken_back(bad: Behaviour) -> None:
    world = simulation.running({"b": bad})
    world.update("b")
    world.settle()
    assert world.record.rejected == "b"
    assert [(box.name, box.digest) for box in world.own()] == [("web", "a")] and world.up()


@pytest.mark.parametrize("bad", [REFUSED, UNPULLABLE])
def test_what_cannot_even_be_made_leaves_the_old_one_running(bad: Behaviour) -> None:
    world = simulation.running({"b": bad})
    before = world.up()
    world.update("b")
    decided = world.settle()
    assert world.up() == before
    assert (decided.status, decided.steps) == ("running", ()) and decided.reason and decided.message


TRIAL = WANTED._replace(confirmed=False, can_fall_back=True)


def test_while_a_replacement_cannot_be_made_what_ran_before_is_started_again() -> None:
    before = container("old", digest="b", state=State.STOPPED, finished_at=NOW - timedelta(minutes=1))
    waiting = Failures(3, 1005.0, "pull_failed", "no such image")
    (step,) = decide(TRIAL, before, image_present=False, pull=waiting).steps
    assert (step.act, step.container, step.text) == (START, "old", plan.STAND_IN)
    up = container("old", digest="b")
    assert decide(TRIAL, up, image_present=False, pull=waiting).reason == "pull_failed"


def test_what_stands_in_is_not_started_in_a_burst_where_it_ends_at_once() -> None:
    before = container("old", digest="b", state=State.STOPPED, finished_at=NOW - timedelta(seconds=1))
    assert acts(decide(TRIAL, before)) == [CREATE]


@pytest.mark.parametrize(
    "given",
    [
        {"image_present": False, "pull": Failures(9, 1300.0, "pull_failed", "no such image")},
        {"failures": Failures(9, 1300.0, "create_failed", "refused")},
        {"image_present": False},
    ],
    ids=["the pull waits", "the creation waits", "the pull is due"],
)
def test_what_stands_in_waits_for_its_own_pause_and_no_longer(given: dict[str, Any]) -> None:
    before = ended("old", digest="b", finished_at=NOW - timedelta(seconds=1))
    decided = decide(TRIAL, before, **given)
    assert (decided.steps, decided.reason, decided.next_at) == ((), plan.CRASHED, 1004.0)
    later = ended("old", digest="b", finished_at=NOW - timedelta(seconds=6))
    assert [step.text for step in decide(TRIAL, later, **given).steps] == [plan.STAND_IN]


@pytest.mark.parametrize("bad", [REFUSED, UNPULLABLE])
def test_a_crash_of_the_old_one_is_mended_also_while_the_new_one_cannot_be_made(bad: Behaviour) -> None:
    world = simulation.running({"b": bad})
    world.update("b")
    world.settle()
    world.end(world.up()[0], 1)
    world.settle()
    assert [box.digest for box in world.up()] == ["a"]


@pytest.mark.parametrize("bad", [CRASHING, SICK, NEVER_HEALTHY, UNSTARTABLE])
def test_a_restart_of_a_bad_configuration_on_trial_ends_with_the_good_one(bad: Behaviour) -> None:
    world = simulation.running({"b": bad})
    world.update("b")
    world.restart()
    world.settle()
    assert world.record.rejected == "b" and not world.record.restart
    assert [box.digest for box in world.up()] == ["a"]


def test_a_restart_that_cannot_start_waits_longer_and_longer() -> None:
    world = simulation.running({})
    world.behaviours["a"] = UNSTARTABLE
    world.restart()
    world.settle()
    starts = sum(step.act == START for step in world.taken)
    assert 3 <= starts < 30
    assert not world.record.restart
    world.behaviours["a"] = GOOD
    assert world.settle().status == "running" and world.up()


def test_a_crash_loop_is_tried_ever_more_seldom() -> None:
    world = World({"a": CRASHING})
    world.settle(seconds=3600)
    starts = sum(step.act == START for step in world.taken)
    assert 10 < starts < 25
    assert world.memory.failures.next_at - world.now <= simulation.LIMIT


def test_a_one_shot_that_ended_well_is_not_taken_back() -> None:
    world = World({"a": ONE_SHOT, "b": ONE_SHOT}, Record(policy="on-failure"))
    assert world.settle().reason == "ended"
    world.update("b")
    assert world.settle().reason == "ended"
    assert (world.record.rejected, [box.digest for box in world.own()]) == (None, ["b"])


def test_an_unhealthy_container_that_cannot_be_started_again_is_tried_again_also_with_on_failure() -> None:
    """homed's own stop ends it with 0: that is not the end that `on-failure` lets stand."""
    world = simulation.running({}, policy="on-failure")
    world.up()[0].health = "unhealthy"
    world.behaviours["a"] = UNSTARTABLE
    world.pass_once()
    world.behaviours["a"] = GOOD
    world.settle()
    assert [box.digest for box in world.up()] == ["a"]


def test_a_foreign_name_is_waited_for() -> None:
    world = World({"a": GOOD})
    clash = world.foreign()
    assert world.settle().reason == "name_taken"
    world.boxes.remove(clash)
    assert world.settle().status == "running" and [box.name for box in world.up()] == ["web"]


def test_an_update_does_not_stop_the_running_one_while_somebody_else_has_its_name() -> None:
    world = simulation.running({"b": GOOD})
    world.up()[0].name = "renamed-by-hand"
    clash = world.foreign()
    world.update("b")
    assert world.settle().reason == "name_taken"
    assert [box.digest for box in world.up()] == ["a"]
    world.boxes.remove(clash)
    world.settle()
    assert [(box.digest, box.name) for box in world.up()] == [("b", "web")]


_BEHAVIOURS = st.sampled_from([GOOD, HEALTHY, CRASHING, SICK, NEVER_HEALTHY, UNSTARTABLE, REFUSED, UNPULLABLE])
_TROUBLE = st.sampled_from(["", "", "", "fail", "kill before", "kill after"])
_DEEDS = st.sampled_from(
    [
        "update a", "update b", "update c", "restart", "stop", "start", "disable", "enable", "kill", "remove by hand",
        "crash", "pause", "clash", "clash gone", "prune", "dependency away", "dependency back", "wait",
        "hold", "freeze", "let go",
    ]
)  # fmt: skip


def _do(world: World, deed: str) -> None:
    record = world.record
    if deed.startswith("update "):
        world.update(deed.removeprefix("update "))
    elif deed == "restart" and record.enabled:
        world.restart()
    elif deed == "stop":
        record.stopped, record.restart = True, False
    elif deed == "start" and record.enabled:
        record.stopped, record.restart = False, not world.up()
    elif deed in ("disable", "enable"):
        record.enabled, record.restart = deed == "enable", False
    elif deed == "kill":
        world.kill()
    elif deed == "remove by hand" and world.own():
        world.remove_by_hand(world.own()[0])
    elif deed == "crash" and world.up():
        world.end(world.up()[0], 1)
    elif deed == "pause" and world.up():
        world.up()[0].state = State.PAUSED
    elif deed == "clash" and not any(box.name == "web" for box in world.boxes):
        world.foreign()
    elif deed == "clash gone":
        world.boxes = world.own()
    elif deed == "prune":
        world.images.clear()
    elif deed.startswith("dependency"):
        world.ready = deed.endswith("back")
    elif deed == "wait":
        world.advance(world.now + 30)
    elif deed in ("hold", "freeze", "let go"):
        record.held = "it is being restored" if deed == "hold" else ""
        record.frozen = "it is being backed up" if deed == "freeze" else ""


@settings(max_examples=200, deadline=None)
@given(
    behaviours=st.fixed_dictionaries({"b": _BEHAVIOURS, "c": _BEHAVIOURS}),
    policy=st.sampled_from(["unless-stopped", "always", "on-failure", "on-failure:3", "no"]),
    deeds=st.lists(st.tuples(_DEEDS, st.integers(0, 4)), max_size=12),
    trouble=st.lists(_TROUBLE, max_size=30),
)
def test_whatever_goes_wrong_it_converges_or_says_why(
    behaviours: dict[str, Behaviour], policy: str, deeds: list[tuple[str, int]], trouble: list[str]
) -> None:
    world = World({"a": GOOD, **behaviours}, Record(policy=policy))
    troubles: Iterator[str] = iter(trouble)
    world.trouble = lambda: next(troubles, "")
    for deed, passes in deeds:
        _do(world, deed)
        for _ in range(passes):
            world.pass_once()
    world.trouble = lambda: ""
    decided = world.settle()
    assert decided.steps == ()
    # At rest: one container at most runs, and it is the one that is wanted, or the plan says why not.
    assert len(world.up()) <= 1
    if world.record.held:
        assert not world.up() and decided.reason == "held"
    elif world.record.frozen:
        assert decided.reason == "backup"
    elif not world.record.run:
        assert not world.up() and decided.reason
    elif decided.status == "running" and not decided.reason:
        (box,) = world.own()
        assert (box.digest, box.name) == (world.record.effective, "web")
        assert world.record.good == world.record.effective
    else:
        assert decided.reason and decided.message
    _back_to_order(world)


def _back_to_order(world: World) -> None:
    """With the causes gone and a start asked for, the service runs; deleted, nothing of it is left."""
    others = [box for box in world.boxes if not box.own]
    for box in others:
        world.boxes.remove(box)
    world.ready, world.record.enabled = True, True
    world.record.held = world.record.frozen = ""
    world.update("a")
    world.restart()
    world.settle()
    assert [(box.digest, box.name) for box in world.own()] == [("a", "web")] and len(world.up()) == 1
    world.foreign("somebody-elses")
    world.record.deleting = True
    world.settle()
    assert world.record.forgotten and [box.name for box in world.boxes] == ["somebody-elses"]


@settings(max_examples=100, deadline=None)
@given(
    bad=st.sampled_from([CRASHING, SICK, NEVER_HEALTHY, UNSTARTABLE]),
    trouble=st.lists(st.sampled_from(["", "", "kill before", "kill after"]), max_size=30),
)
def test_a_bad_configuration_goes_back_to_the_good_one_through_any_kills(bad: Behaviour, trouble: list[str]) -> None:
    world = simulation.running({"b": bad})
    world.update("b")
    troubles = iter(trouble)
    world.trouble = lambda: next(troubles, "")
    world.settle()
    assert world.record.rejected == "b"
    assert [(box.name, box.digest) for box in world.own()] == [("web", "a")] and world.up()


@given(count=st.integers(0, 10**6), first=st.floats(0.1, 60), limit=st.floats(60, 3600))
def test_a_wait_never_exceeds_its_limit_nor_shrinks(count: int, first: float, limit: float) -> None:
    assert 0 <= backoff.delay(count, first, limit) <= backoff.delay(count + 1, first, limit) <= limit
