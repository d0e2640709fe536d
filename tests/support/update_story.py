"""An update on a board of the model, driven by `decide` alone, in which homed, RAUC or the power goes at any moment."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

import msgspec

from homed.updates import decide, records, slots
from homed.updates.decide import Act, Next
from homed.updates.records import Bundle, Failure, Kind, State, Update
from homed.updates.slots import Facts
from tests.support.board_model import SLOTS, Behaviour, Board, Content
from tests.support.updating import EPOCH, judgement

MOST_STEPS = 300
_UNHEALTHY = Failure("UPDATE_JUDGED_BAD", "it did not become healthy")
_WINDOW = "02:00-04:00"


class Blow(StrEnum):
    HOMED = "homed is killed"
    RAUC = "RAUC is killed"
    POWER = "the power is cut"
    WITHDRAWN = "somebody makes the old system the primary again"


class Hit(NamedTuple):
    """After so many points, and how many of its stages RAUC goes on meanwhile, where it is not hit itself."""

    after: int
    blow: Blow
    stages: int = 0


class BlowError(Exception):
    pass


@dataclass
class Story:
    """`states` is each state that the record had. `judged_well`: a verdict was good."""

    board: Board
    update: Update
    wanted: Content
    hits: Iterable[Hit] = ()
    points: int = 0
    judged_well: bool = False
    states: list[State] = field(default_factory=list)
    _known: Facts | None = None
    _hour: int = 0
    _unmarked: bool = True
    _withdrawn: bool = False

    def __post_init__(self) -> None:
        self._coming: Iterator[Hit] = iter(self.hits)
        self._next = next(self._coming, None)
        self._from_here = 0
        self._old = self.board.runs
        self.states.append(self.update.state)

    def run(self) -> Update:
        """To its end; AssertionError where it does not come, or a promise is broken."""
        for _ in range(MOST_STEPS):
            if self.update.ended:
                self._check_end()
                return self.update
            try:
                self._step()
            except BlowError:
                self._known = None
            self._check()
        raise AssertionError(f"no end: {self.states}")

    def _step(self) -> None:
        if self.board.runs.kind is Behaviour.MUTE:
            self._guard()
            return
        facts = self._look()
        if facts is None:
            # RAUC is at it, and this homed has never heard of its slots.
            self.board.advance()
            self._point()
            return
        if self._unmarked and facts.booted != self.update.to_slot:
            self._mark("good", "booted")
            self._unmarked = False
            return
        self._hour += 1
        following = decide.decide(self.update, facts, EPOCH + timedelta(hours=self._hour), _WINDOW)
        self._take(following, facts)

    def _look(self) -> Facts | None:
        board = self.board
        if board.writing is not None:
            known = self._known
            return None if known is None else msgspec.structs.replace(known, operation="installing")
        found = slots.slots(board.status())
        self._known = Facts(
            compatible="board", booted=slots.booted(found, board.booted), primary=board.primary,
            last_error=board.last_error, slots=found, boot_id=board.boot_id,
        )  # fmt: skip
        return self._known

    def _take(self, following: Next, facts: Facts) -> None:
        update, board = self.update, self.board
        match following.act:
            case Act.FETCH:
                other = facts.other
                assert other is not None
                self._move(
                    State.VERIFIED, from_slot=facts.booted, to_slot=other.name, to_bootname=other.bootname,
                    boot_id=facts.boot_id, bundle=Bundle(version=self.wanted.version),
                )  # fmt: skip
            case Act.WAIT:
                self._wait(following.text)
            case Act.BACK_UP:
                self._back_up(facts)
            case Act.INSTALL:
                interruptions = update.interruptions + int(following.interrupted)
                self._move(update.state, called=True, error_before=facts.last_error, interruptions=interruptions)
                assert facts.booted == update.from_slot, "it would write over the old system"
                if board.writing is None:
                    board.start_installing(self.wanted)
                self._let_rauc_end()
            case Act.FOLLOW:
                self._let_rauc_end()
            case Act.NOTE_INSTALLED:
                if facts.primary not in (None, update.to_slot) and facts.booted != update.to_slot:
                    self._mark("active", str(update.to_slot))
                here = facts.boot_id if facts.booted == update.from_slot else update.boot_id
                self._move(State.INSTALLED, boot_id=here)
            case Act.REBOOT:
                if update.state is not State.REBOOTING:
                    self._move(State.REBOOTING, boot_id=facts.boot_id)
                self._reboot()
            case Act.JUDGE:
                self._judge(facts)
            case Act.ROLL_BACK:
                boots = update.boots if facts.boot_id in update.boots else (*update.boots, facts.boot_id)
                self._move(update.state, boots=boots)
                self._mark("bad", "booted")
                self._reboot()
            case Act.REVIVE:
                self._mark("active", str(update.to_slot))
                self._move(State.REBOOTING, boot_id=facts.boot_id, revivals=update.revivals + 1)
            case Act.END:
                self._move(following.state, failure=following.failure)

    def _wait(self, what: str) -> None:
        if what == "confirmation":
            self._move(self.update.state, confirmed=True)
        elif what == "reboot":
            self._reboot()
        else:
            assert what == "window"

    def _back_up(self, facts: Facts) -> None:
        if self.update.state is State.VERIFIED:
            self._move(State.BACKING_UP_STATE)
        target = facts.slot(self.update.to_slot)
        count = target.installed.count if target is not None and target.installed is not None else None
        self._move(State.INSTALLING, called=False, error_before=facts.last_error, count_before=count)

    def _judge(self, facts: Facts) -> None:
        boots = self.update.boots if facts.boot_id in self.update.boots else (*self.update.boots, facts.boot_id)
        self._move(State.JUDGING, boots=boots, judgement=judgement(facts.boot_id))
        if self.board.runs.kind is Behaviour.SICK:
            self._move(State.ROLLING_BACK, failure=_UNHEALTHY)
            return
        self.judged_well = True
        self._mark("good", "booted")
        self._unmarked = False
        self._move(State.GOOD)

    def _guard(self) -> None:
        """Nothing but homed-update-guard watches; where it has nothing to do, a person pulls the plug."""
        update = self.update
        if update.state in records.GUARDED and SLOTS[str(update.to_slot)] == self.board.booted:
            self.board.mark("bad", "booted")
        self._reboot()

    def _let_rauc_end(self) -> None:
        while self.board.writing is not None:
            if self.board.advance():
                error = self.board.last_error
                self._point()
                self._move(State.FAILED, failure=Failure("UPDATE_ERROR", error, error))
                return
            self._point()

    def _mark(self, state: str, slot: str) -> None:
        self.board.mark(state, slot)
        self._point()

    def _reboot(self) -> None:
        self.board.reboot()
        self._known, self._unmarked = None, True
        self._point()

    def _move(self, state: State, **changes: object) -> None:
        self._point()
        self.update = records.moved(self.update, state, EPOCH, **changes)
        if self.states[-1] is not state:
            self.states.append(state)
        self._point()

    def _point(self) -> None:
        """A moment at which all before it is durable."""
        self.points += 1
        self._from_here += 1
        if self._next is None or self._from_here <= self._next.after:
            return
        hit, self._next, self._from_here = self._next, next(self._coming, None), 0
        match hit.blow:
            case Blow.RAUC:
                # homed hears of it, and looks anew: nothing of its own is lost.
                self.board.crash_rauc()
            case Blow.POWER:
                self.board.reboot()
                self._unmarked = True
                raise BlowError
            case Blow.HOMED:
                for _ in range(hit.stages):
                    if self.board.writing is not None:
                        self.board.advance()
                raise BlowError
            case Blow.WITHDRAWN:
                self._withdraw()

    def _withdraw(self) -> None:
        """By a person, who has the board start it, too, where the new system runs already."""
        old = self.update.from_slot
        if self.board.writing is not None or old is None or self.update.ended:
            return
        self.board.mark("active", old)
        self._withdrawn = True
        if SLOTS[old] != self.board.booted:
            self.board.reboot()
            self._unmarked = True
            raise BlowError

    def _check(self) -> None:
        update, board = self.update, self.board
        if update.from_slot is None:
            return
        assert board.contents[SLOTS[update.from_slot]] == self._old, "the old system was written over"
        assert (update.from_slot, update.to_slot) == ("rootfs.0", "rootfs.1")
        assert update.failure is None or update.failure.message

    def _check_end(self) -> None:
        update, board = self.update, self.board
        here = board.booted == SLOTS[str(update.to_slot)] if update.to_slot else False
        if update.state is State.GOOD:
            assert self.judged_well
            assert here
            assert board.runs == self.wanted
            assert self._unmarked or board.bootloader.status(board.booted) != "bad"
            return
        assert update.failure is not None
        assert update.state is not State.CANCELLED or self._withdrawn, "nobody has cancelled it"
        assert not here, f"the new system runs, and the update is {update.state}"
        if update.kind is Kind.INSTALL:
            if self._unmarked:
                board.mark("good", "booted")
            board.reboot()
            assert board.runs == self._old, f"the update is {update.state}, and the next boot is into the new system"
