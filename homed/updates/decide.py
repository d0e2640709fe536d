"""What comes next for an update: from its record and from the slots as they are, never from memory alone.

The same function drives an update that goes well and one that was broken off anywhere: homed killed, RAUC killed,
the power cut. So there is no other path for the bad days.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from homed.updates import window
from homed.updates.records import Failure, Reboot, State, Update
from homed.updates.slots import Facts, Slot

MOST_INTERRUPTIONS = 3
MOST_REVIVALS = 2
MOST_WAYS_BACK = 5
MOST_REBOOTS = 5


class Act(StrEnum):
    FETCH = "fetch"
    WAIT = "wait"
    BACK_UP = "back_up"
    INSTALL = "install"
    FOLLOW = "follow"
    NOTE_INSTALLED = "note_installed"
    REBOOT = "reboot"
    JUDGE = "judge"
    ROLL_BACK = "roll_back"
    REVIVE = "revive"
    END = "end"


class Next(NamedTuple):
    """`text` is what is waited for (confirmation, window, reboot); `state` and `failure` belong to END."""

    act: Act
    text: str = ""
    state: State = State.FAILED
    failure: Failure | None = None
    interrupted: bool = False


def decide(update: Update, facts: Facts, now: datetime, opening: str) -> Next:
    """`now` is local time; `opening` is the maintenance window, empty where there is none."""
    return _BY_STATE[update.state](update, facts, now, opening)


def _get(update: Update, facts: Facts, now: datetime, opening: str) -> Next:
    return Next(Act.FETCH)


def _verified(update: Update, facts: Facts, now: datetime, opening: str) -> Next:
    if facts.booted != update.from_slot:
        return _elsewhere(update, facts)
    if update.require_confirmation and not update.confirmed:
        return Next(Act.WAIT, "confirmation")
    return Next(Act.BACK_UP)


def _back_up(update: Update, facts: Facts, now: datetime, opening: str) -> Next:
    return Next(Act.BACK_UP) if facts.booted == update.from_slot else _elsewhere(update, facts)


def _installing(update: Update, facts: Facts, now: datetime, opening: str) -> Next:
    if update.called and facts.operation == "installing":
        return Next(Act.FOLLOW)
    if update.called and facts.booted == update.to_slot and _is_written(update, facts.slot(update.to_slot)):
        # It was the primary, so RAUC had finished. Its attempt is counted and its mark not good yet: by the mark alone
        # it would be written anew, which now means over the old system.
        return Next(Act.NOTE_INSTALLED)
    if facts.booted != update.from_slot:
        return _elsewhere(update, facts)
    if update.called and is_installed(update, facts):
        return Next(Act.NOTE_INSTALLED)
    if update.called and facts.last_error and facts.last_error != update.error_before:
        return Next(Act.END, failure=Failure("UPDATE_ERROR", f"RAUC: {facts.last_error}", facts.last_error))
    if not update.called:
        return Next(Act.INSTALL)
    if update.interruptions >= MOST_INTERRUPTIONS:
        what = f"the installation was broken off {update.interruptions + 1} times"
        return Next(Act.END, failure=Failure("UPDATE_INTERRUPTED", what))
    return Next(Act.INSTALL, interrupted=True)


def _elsewhere(update: Update, facts: Facts) -> Next:
    what = f"the board was started from {facts.booted or 'none of its slots'} meanwhile: nothing was installed"
    return Next(Act.END, failure=Failure("UPDATE_ERROR", what))


def _installed(update: Update, facts: Facts, now: datetime, opening: str) -> Next:
    if facts.booted == update.to_slot:
        return Next(Act.JUDGE)
    if withdrawn(update, facts):
        return Next(Act.END, state=State.CANCELLED, failure=_WITHDRAWN)
    if facts.boot_id != update.boot_id:
        return Next(Act.END, state=State.ROLLED_BACK, failure=_came_back(update))
    if update.reboot is Reboot.NOW:
        return Next(Act.REBOOT)
    if update.reboot is Reboot.WINDOW:
        return Next(Act.REBOOT) if window.is_open(opening, now) else Next(Act.WAIT, "window")
    return Next(Act.WAIT, "reboot")


def _rebooting(update: Update, facts: Facts, now: datetime, opening: str) -> Next:
    if facts.booted == update.to_slot:
        return Next(Act.JUDGE)
    if facts.boot_id != update.boot_id:
        return _fell_back(update, facts)
    # Something holds it back; or, in a container, each boot bears the machine's name. It stays installed.
    if update.reboots >= MOST_REBOOTS:
        return Next(Act.WAIT, "reboot")
    return Next(Act.REBOOT)


def _judging(update: Update, facts: Facts, now: datetime, opening: str) -> Next:
    return Next(Act.JUDGE) if facts.booted == update.to_slot else _fell_back(update, facts)


def _rolling_back(update: Update, facts: Facts, now: datetime, opening: str) -> Next:
    if facts.booted != update.to_slot:
        return Next(Act.END, state=State.ROLLED_BACK, failure=update.failure)
    if len(update.boots) > MOST_WAYS_BACK:
        why = update.failure.message if update.failure else "it was judged bad"
        what = f"the board stays in the new system, though {why}: the old one does not start"
        return Next(Act.END, failure=Failure("UPDATE_NO_GOOD_SLOT", what))
    return Next(Act.ROLL_BACK)


def _fell_back(update: Update, facts: Facts) -> Next:
    """The board runs the old system again, and homed had not said so: the bootloader did it."""
    if withdrawn(update, facts):
        ran = update.boots or update.state is State.JUDGING
        return Next(Act.END, state=State.ROLLED_BACK if ran else State.CANCELLED, failure=_WITHDRAWN)
    if update.boots and update.revivals < MOST_REVIVALS:
        # It came up and was judged when the power went, as often as the bootloader has attempts.
        return Next(Act.REVIVE)
    return Next(Act.END, state=State.ROLLED_BACK, failure=_came_back(update))


def is_installed(update: Update, facts: Facts) -> bool:
    """Whether RAUC has written the target whole since it was told to.

    The count of installations grows only at the end of one; where RAUC keeps no count, the target is made the
    primary only then.
    """
    target = facts.slot(update.to_slot)
    if target is None or target.boot_status == "bad" or not _is_written(update, target):
        return False
    # A booted slot that is not marked good makes the other one the primary, whatever that holds.
    running = facts.slot(facts.booted)
    fell_to_it = running is not None and running.boot_status == "bad"
    return target.installed is not None or (facts.primary == target.name and not fell_to_it)


def _is_written(update: Update, target: Slot | None) -> bool:
    """The same by RAUC's records alone, which a slot that was started since then does not change."""
    if target is None or _holds_another(update, target):
        return False
    if target.installed is None:
        return target.status in (None, "ok")
    return target.status == "ok" and target.installed.count != (update.count_before or 0)


def _holds_another(update: Update, target: Slot) -> bool:
    """Somebody else may have been faster, with another bundle."""
    held = target.bundle.version if target.bundle is not None else None
    return bool(held and update.bundle is not None and update.bundle.version and held != update.bundle.version)


def withdrawn(update: Update, facts: Facts) -> bool:
    """Whether somebody made the old slot the primary again, though the new one is fit to start."""
    target = facts.slot(update.to_slot)
    good = target is not None and target.boot_status == "good"
    return facts.primary == update.from_slot and facts.booted == update.from_slot and good


_WITHDRAWN = Failure("UPDATE_CANCELLED", "the old system was made the primary again before the new one was judged")


def _came_back(update: Update) -> Failure:
    if update.blind_reboots:
        what = f"RAUC did not answer in the new system, which was left after {update.blind_reboots} reboots"
    elif update.boots:
        what = f"the new system was started {len(update.boots)} times without getting to a verdict"
    else:
        what = "the new system did not come up, and the bootloader went back to the old one"
    return Failure("UPDATE_FELL_BACK", what)


_Decision = Callable[[Update, Facts, datetime, str], Next]
_BY_STATE: Mapping[State, _Decision] = {
    State.DOWNLOADING: _get,
    State.VERIFIED: _verified,
    State.BACKING_UP_STATE: _back_up,
    State.INSTALLING: _installing,
    State.INSTALLED: _installed,
    State.REBOOTING: _rebooting,
    State.JUDGING: _judging,
    State.ROLLING_BACK: _rolling_back,
}


def needs_slots(update: Update) -> bool:
    """Whether the next step can only be told from the slots; a download can go on without RAUC."""
    return update.state is not State.DOWNLOADING
