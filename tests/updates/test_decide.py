"""What comes next, in each state, with each kind of facts; and that nothing comes next that the table forbids."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed.updates.decide import (
    MOST_INTERRUPTIONS,
    MOST_REVIVALS,
    MOST_WAYS_BACK,
    Act,
    Next,
    decide,
    is_installed,
    needs_slots,
)
from homed.updates.records import ENDED, TRANSITIONS, Failure, Kind, Reboot, State, Update, moved
from homed.updates.slots import Facts, Slot, SlotBundle, Times
from tests.support.updating import EPOCH, FIRST_BOOT, LATER_BOOT, NEW, OLD, facts, slot, update, written

IN_WINDOW, OUTSIDE = datetime(2026, 1, 3, 3, tzinfo=UTC), datetime(2026, 1, 3, 12, tzinfo=UTC)
WINDOW = "02:00-04:00"
BAD = Failure("UPDATE_JUDGED_BAD", "it was not healthy")
# The state that each step leads to; the others stay where they are or say it themselves.
LEADS_TO: Mapping[Act, State] = {
    Act.FETCH: State.VERIFIED,
    Act.BACK_UP: State.INSTALLING,
    Act.NOTE_INSTALLED: State.INSTALLED,
    Act.REBOOT: State.REBOOTING,
    Act.JUDGE: State.JUDGING,
    Act.REVIVE: State.REBOOTING,
}


def following(asked: Update, found: Facts, now: datetime = OUTSIDE, window: str = WINDOW) -> Next:
    return decide(asked, found, now, window)


def installed(**changes: Any) -> Facts:
    """RAUC has written the second slot and made it the primary."""
    return facts(**{"other": written(), "primary": NEW, **changes})


def in_new(**changes: Any) -> Facts:
    """The board runs the new system, in a later boot."""
    return installed(**{"booted": NEW, "boot_id": LATER_BOOT, **changes})


def back_in_old(**changes: Any) -> Facts:
    """The bootloader went back to the old system: the new one has no attempt left."""
    return facts(**{"other": written(boot_status="bad"), "boot_id": LATER_BOOT, **changes})


called = {"called": True}
RAUC_FAILED = Failure("UPDATE_ERROR", "RAUC: no", "no")

TABLE: dict[str, tuple[Update, Facts, Act]] = {
    "a bundle is fetched, whatever the board is": (update(), facts(), Act.FETCH),
    "also where RAUC tells nothing": (update(), Facts(), Act.FETCH),
    "a verified one goes on": (update(State.VERIFIED), facts(), Act.BACK_UP),
    "one to be confirmed waits": (update(State.VERIFIED, require_confirmation=True), facts(), Act.WAIT),
    "a confirmed one goes on": (
        update(State.VERIFIED, require_confirmation=True, confirmed=True), facts(), Act.BACK_UP,
    ),
    "a verified one survives a boot": (update(State.VERIFIED), facts(boot_id=LATER_BOOT), Act.BACK_UP),
    "one for the slot that runs now ends": (update(State.VERIFIED), facts(NEW), Act.END),
    "the copy is made again after a kill": (update(State.BACKING_UP_STATE), facts(), Act.BACK_UP),
    "the copy is of no use in another slot": (update(State.BACKING_UP_STATE), facts(NEW), Act.END),
    "RAUC is told": (update(State.INSTALLING), facts(), Act.INSTALL),
    "RAUC is told, though somebody had installed before": (update(State.INSTALLING), installed(), Act.INSTALL),
    "RAUC is at it": (update(State.INSTALLING, **called), facts(operation="installing"), Act.FOLLOW),
    "RAUC is at somebody else's": (update(State.INSTALLING), facts(operation="installing"), Act.INSTALL),
    "RAUC is done": (update(State.INSTALLING, **called), installed(), Act.NOTE_INSTALLED),
    "RAUC is done again": (
        update(State.INSTALLING, count_before=1, **called), installed(other=written(2)), Act.NOTE_INSTALLED,
    ),
    "RAUC has not begun": (update(State.INSTALLING, count_before=1, **called), installed(), Act.INSTALL),
    "somebody else was faster": (
        update(State.INSTALLING, **called), installed(other=written(version="3.0")), Act.INSTALL,
    ),
    "somebody else's runs": (update(State.INSTALLING, **called), in_new(other=written(version="3.0")), Act.END),
    "RAUC was broken off, 1.8": (
        update(State.INSTALLING, count_before=1, **called), facts(other=written(1, boot_status="bad")), Act.INSTALL,
    ),
    "RAUC was broken off, 1.13": (
        update(State.INSTALLING, count_before=1, **called), facts(other=written(1, status="pending")), Act.INSTALL,
    ),
    "RAUC wrote and did not activate": (
        update(State.INSTALLING, **called), facts(other=written(boot_status="bad")), Act.INSTALL,
    ),
    "RAUC wrote, and does not activate by itself": (
        update(State.INSTALLING, **called), facts(other=written()), Act.NOTE_INSTALLED,
    ),
    "RAUC keeps no records, and is done": (update(State.INSTALLING, **called), facts(primary=NEW), Act.NOTE_INSTALLED),
    "RAUC keeps no records, and is not done": (update(State.INSTALLING, **called), facts(), Act.INSTALL),
    "RAUC failed while homed was away": (
        update(State.INSTALLING, **called), facts(last_error="no", other=slot(NEW, boot_status="bad")), Act.END,
    ),
    "an error from before is none": (
        update(State.INSTALLING, error_before="no", **called), facts(last_error="no"), Act.INSTALL,
    ),
    "the power went when RAUC was done": (update(State.INSTALLING, **called), in_new(), Act.NOTE_INSTALLED),
    "the same with GRUB, which counts the boot": (
        update(State.INSTALLING, **called), in_new(other=written(boot_status="bad"), primary=OLD), Act.NOTE_INSTALLED,
    ),
    "the other slot runs and was not written": (
        update(State.INSTALLING, count_before=1, **called), in_new(), Act.END,
    ),
    "a third slot runs": (update(State.INSTALLING, **called), facts(None), Act.END),
    "an installed one waits for a reboot": (update(State.INSTALLED), installed(), Act.WAIT),
    "it reboots at once where that is wanted": (update(State.INSTALLED, reboot=Reboot.NOW), installed(), Act.REBOOT),
    "it waits for the window": (update(State.INSTALLED, reboot=Reboot.WINDOW), installed(), Act.WAIT),
    "somebody rebooted": (update(State.INSTALLED), in_new(), Act.JUDGE),
    "somebody rebooted, and it did not come up": (update(State.INSTALLED), back_in_old(), Act.END),
    "somebody made the old one the primary again": (update(State.INSTALLED), installed(primary=OLD), Act.END),
    "a bootloader that cannot tell its primary": (update(State.INSTALLED), installed(primary=None), Act.WAIT),
    "the reboot has yet to come": (update(State.REBOOTING), installed(), Act.REBOOT),
    "the new system runs": (update(State.REBOOTING), in_new(), Act.JUDGE),
    "the new system did not come up": (update(State.REBOOTING), back_in_old(), Act.END),
    "the new system came up, and the power went": (update(State.REBOOTING, boots=("b1",)), back_in_old(), Act.REVIVE),
    "the judging goes on": (update(State.JUDGING, boots=("b1",)), in_new(), Act.JUDGE),
    "the judging begins anew in another boot": (update(State.JUDGING, boots=("b1",)), in_new(boot_id="b2"), Act.JUDGE),
    "power cuts used up the attempts": (update(State.JUDGING, boots=("b1",)), back_in_old(), Act.REVIVE),
    "too many power cuts": (
        update(State.JUDGING, boots=("b1",), revivals=MOST_REVIVALS), back_in_old(), Act.END,
    ),
    "a bad one is left": (update(State.ROLLING_BACK, failure=BAD, boots=("b1",)), in_new(), Act.ROLL_BACK),
    "a bad one was left": (update(State.ROLLING_BACK, failure=BAD, boots=("b1",)), back_in_old(), Act.END),
    "the old one does not start either": (
        update(State.ROLLING_BACK, failure=BAD, boots=tuple(f"b{n}" for n in range(MOST_WAYS_BACK + 1))),
        in_new(), Act.END,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_what_comes_next(name: str) -> None:
    asked, found, act = TABLE[name]
    assert following(asked, found).act is act


def test_what_is_waited_for_is_said() -> None:
    assert following(update(State.VERIFIED, require_confirmation=True), facts()).text == "confirmation"
    assert following(update(State.INSTALLED), installed()).text == "reboot"
    assert following(update(State.INSTALLED, reboot=Reboot.WINDOW), installed()).text == "window"


def test_the_board_reboots_when_the_window_opens() -> None:
    asked = update(State.INSTALLED, reboot=Reboot.WINDOW)
    assert following(asked, installed(), IN_WINDOW).act is Act.REBOOT
    assert following(asked, installed(), IN_WINDOW, "").act is Act.WAIT


def test_an_interruption_is_counted_only_where_rauc_was_called() -> None:
    assert following(update(State.INSTALLING), facts()).interrupted is False
    assert following(update(State.INSTALLING, called=True), facts()).interrupted is True


def test_an_installation_is_broken_off_so_often_and_no_more() -> None:
    for interruptions in range(MOST_INTERRUPTIONS):
        asked = update(State.INSTALLING, called=True, interruptions=interruptions)
        assert following(asked, facts()).act is Act.INSTALL
    ended = following(update(State.INSTALLING, called=True, interruptions=MOST_INTERRUPTIONS), facts())
    assert (ended.act, ended.state) == (Act.END, State.FAILED)
    assert ended.failure is not None and ended.failure.code == "UPDATE_INTERRUPTED"


@pytest.mark.parametrize(
    ("asked", "found", "state", "code"),
    [
        (update(State.VERIFIED), facts(NEW), State.FAILED, "UPDATE_ERROR"),
        (
            update(State.INSTALLING, called=True), facts(last_error="no", other=slot(NEW, boot_status="bad")),
            State.FAILED, "UPDATE_ERROR",
        ),
        (update(State.INSTALLED), installed(primary=OLD), State.CANCELLED, "UPDATE_CANCELLED"),
        (update(State.INSTALLED), back_in_old(), State.ROLLED_BACK, "UPDATE_FELL_BACK"),
        (update(State.REBOOTING), back_in_old(), State.ROLLED_BACK, "UPDATE_FELL_BACK"),
        (
            update(State.REBOOTING), back_in_old(other=written(), primary=OLD),
            State.CANCELLED, "UPDATE_CANCELLED",
        ),
        (
            update(State.JUDGING, boots=("b1",)), back_in_old(other=written(), primary=OLD),
            State.ROLLED_BACK, "UPDATE_CANCELLED",
        ),
        (update(State.ROLLING_BACK, failure=BAD), back_in_old(), State.ROLLED_BACK, "UPDATE_JUDGED_BAD"),
        (
            update(State.ROLLING_BACK, failure=BAD, boots=tuple("abcdefg")), in_new(),
            State.FAILED, "UPDATE_NO_GOOD_SLOT",
        ),
    ],
)  # fmt: skip
def test_an_end_says_what_it_is(asked: Update, found: Facts, state: State, code: str) -> None:
    ended = following(asked, found)
    assert (ended.act, ended.state) == (Act.END, state)
    assert ended.failure is not None and ended.failure.code == code and ended.failure.message


def test_raucs_own_words_are_kept() -> None:
    ended = following(update(State.INSTALLING, called=True), facts(last_error="no"))
    assert ended.failure == RAUC_FAILED


def test_grubs_primary_before_the_mark_is_no_installation() -> None:
    """A slot that was booted and not marked yet is bad for RAUC, so the untouched other one seems to be the primary."""
    found = facts(primary=NEW)
    unmarked = msgspec.structs.replace(found, slots=(slot(boot_status="bad"), slot(NEW)))
    assert is_installed(update(State.INSTALLING, called=True), found)
    assert not is_installed(update(State.INSTALLING, called=True), unmarked)


def test_a_download_needs_no_slots() -> None:
    assert [state for state in State if not needs_slots(update(state))] == [State.DOWNLOADING]


times = st.none() | st.builds(Times, st.just(EPOCH), st.integers(0, 3))
slots = st.builds(
    lambda status, mark, at, size: slot(
        NEW, status=status, boot_status=mark, installed=at, bundle=SlotBundle("board", "1", None, None), size=size
    ),
    st.sampled_from([None, "ok", "pending", "failed"]),
    st.sampled_from([None, "good", "bad"]),
    times,
    st.none() | st.integers(0, 10),
)
names = st.sampled_from([None, OLD, NEW, "rescue.0"])


@st.composite
def any_facts(draw: st.DrawFn) -> Facts:
    other: Slot = draw(slots)
    return facts(
        draw(names), other=other, primary=draw(names), boot_id=draw(st.sampled_from([FIRST_BOOT, LATER_BOOT, "b2"])),
        operation=draw(st.sampled_from(["idle", "installing"])), last_error=draw(st.sampled_from(["", "no"])),
        slots=draw(st.sampled_from([(slot(), other), (), (other,), (slot(),)])),
    )  # fmt: skip


@st.composite
def any_update(draw: st.DrawFn) -> Update:
    state = draw(st.sampled_from([state for state in State if state not in ENDED]))
    boots = draw(st.lists(st.sampled_from(["b1", "b2", "b3", "b4", "b5", "b6", "b7"]), unique=True))
    return update(
        state, kind=draw(st.sampled_from(Kind)), reboot=draw(st.sampled_from(Reboot)), boots=tuple(boots),
        require_confirmation=draw(st.booleans()), confirmed=draw(st.booleans()), called=draw(st.booleans()),
        count_before=draw(st.none() | st.integers(0, 3)), error_before=draw(st.sampled_from(["", "no"])),
        interruptions=draw(st.integers(0, 5)), revivals=draw(st.integers(0, 3)),
        failure=draw(st.sampled_from([None, BAD])) if state is State.ROLLING_BACK else None,
    )  # fmt: skip


@settings(deadline=None, max_examples=500)
@given(any_update(), any_facts(), st.sampled_from([IN_WINDOW, OUTSIDE]), st.sampled_from(["", WINDOW]))
def test_nothing_comes_next_that_is_not_allowed(asked: Update, found: Facts, now: datetime, window: str) -> None:
    answer = decide(asked, found, now, window)
    if answer.act is Act.END:
        assert answer.state in ENDED and answer.state is not State.GOOD
        moved(asked, answer.state, EPOCH, failure=answer.failure)
        assert asked.state is State.ROLLING_BACK or answer.failure is not None
    elif answer.act is Act.WAIT:
        assert answer.text in ("confirmation", "window", "reboot")
    elif answer.act in LEADS_TO:
        leads_to = LEADS_TO[answer.act]
        states = {asked.state, *TRANSITIONS[asked.state]}
        # A verified update is noted to be backed up first.
        assert leads_to in states | {after for state in states for after in TRANSITIONS[state]}
    if answer.act is Act.INSTALL:
        assert found.booted == asked.from_slot, "it would write over the system that was to be kept"
    if answer.act in (Act.JUDGE, Act.ROLL_BACK):
        assert found.booted == asked.to_slot
