"""An update's record: what may follow on what, and that an older and a newer homed read each other's."""

from collections.abc import Mapping
from datetime import timedelta
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed.errors import UpdateError
from homed.updates.records import (
    CANCELLABLE,
    COMMITTED,
    ENDED,
    GUARDED,
    TRANSITIONS,
    Bundle,
    Failure,
    Kind,
    Signer,
    Source,
    State,
    Step,
    Update,
    moved,
)
from tests.support.updating import EPOCH, judgement, update

LATER = EPOCH + timedelta(minutes=1)
# What the first homed that could update wrote: such a file is read for ever.
FIRST = b"""{
 "id": "3", "kind": "install", "state": "judging", "source": {"path": "/data/2.raucb", "url": null},
 "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:10:00Z",
 "from_slot": "rootfs.0", "to_slot": "rootfs.1", "to_bootname": "B", "boot_id": "0123",
 "bundle": {"version": "2.0", "compatible": "board", "size": 1000, "signers": []},
 "judgement": {"boot_id": "4567", "started_at": "2026-01-01T00:05:00Z", "deadline_at": "2026-01-01T00:15:00Z",
               "until": 612.5},
 "steps": [{"state": "downloading", "at": "2026-01-01T00:00:00Z"}]
}"""


def full() -> Update:
    """One with every part."""
    signer = Signer("CN=Release 1", "CN=CA", EPOCH)
    return update(
        State.ROLLED_BACK, bundle=Bundle(version="2.0", compatible="board", sha256="aa", signers=(signer,)),
        judgement=judgement(), failure=Failure("UPDATE_JUDGED_BAD", "no", "RAUC says no"), boots=("b1", "b2"),
        required=("component:api", "service:web"), finished_at=EPOCH, source=Source(url="https://user:pw@host/2.raucb"),
    )  # fmt: skip


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    reached, coming = set(), {State.DOWNLOADING}
    while coming:
        state = coming.pop()
        reached.add(state)
        coming |= TRANSITIONS[state] - reached
    assert reached == set(State)


def test_what_has_ended_stays_as_it_is() -> None:
    assert {state for state in State if not TRANSITIONS[state]} == ENDED


def test_every_state_leads_to_an_end() -> None:
    for state in set(State) - ENDED:
        assert State.FAILED in TRANSITIONS[state]


def test_the_groups_are_what_they_are_called() -> None:
    assert not CANCELLABLE & (COMMITTED | ENDED)
    assert GUARDED >= COMMITTED and not GUARDED & (CANCELLABLE | ENDED)
    assert set(State) == CANCELLABLE | GUARDED | ENDED
    assert {state for state in State if State.CANCELLED in TRANSITIONS[state]} == {
        *CANCELLABLE, State.INSTALLED, State.REBOOTING,
    }  # fmt: skip
    # Good is said of what was judged, and of nothing else.
    assert [state for state in State if State.GOOD in TRANSITIONS[state]] == [State.JUDGING]


@pytest.mark.parametrize(("before", "after"), list(product(State, State)))
def test_only_the_tables_ways_are_gone(before: State, after: State) -> None:
    if after is before or after in TRANSITIONS[before]:
        assert moved(update(before), after, LATER).state is after
    else:
        with pytest.raises(UpdateError, match=f"from {before} to {after}"):
            moved(update(before), after, LATER)


def test_a_move_is_noted_with_its_time() -> None:
    new = moved(update(), State.VERIFIED, LATER, boot_id="b7")
    assert (new.state, new.updated_at, new.finished_at, new.boot_id) == (State.VERIFIED, LATER, None, "b7")
    assert new.steps == (Step(State.DOWNLOADING, EPOCH), Step(State.VERIFIED, LATER))
    again = moved(new, State.VERIFIED, LATER + timedelta(1), confirmed=True)
    assert again.steps == new.steps and again.confirmed and again.updated_at > LATER


@pytest.mark.parametrize("end", sorted(ENDED))
def test_an_end_has_its_time(end: State) -> None:
    before = next(state for state in State if end in TRANSITIONS[state])
    ended = moved(update(before), end, LATER)
    assert ended.ended and ended.finished_at == LATER


def test_a_record_is_read_as_it_was_written() -> None:
    for one in (update(), full(), update(State.VERIFIED, kind=Kind.ROLLBACK)):
        assert msgspec.json.decode(msgspec.json.encode(one), type=Update) == one


def test_the_first_homeds_record_is_still_read() -> None:
    found = msgspec.json.decode(FIRST, type=Update)
    assert (found.id, found.state, found.interruptions, found.boots) == ("3", State.JUDGING, 0, ())
    assert found.judgement is not None and found.judgement.until == 612.5
    assert found.bundle is not None and found.bundle.version == "2.0"


def grown(value: Any) -> Any:
    """The same as a newer homed would write it: each part of it has fields that this one does not know."""
    if isinstance(value, dict):
        return {**{key: grown(inner) for key, inner in value.items()}, "of_the_future": {"a": [1, None, "x"]}}
    return [grown(inner) for inner in value] if isinstance(value, list) else value


def test_a_newer_homeds_record_is_read() -> None:
    for one in (full(), update(State.JUDGING, judgement=judgement())):
        written = msgspec.json.encode(grown(msgspec.to_builtins(one)))
        assert b"of_the_future" in written
        assert msgspec.json.decode(written, type=Update) == one


NEEDED = frozenset({"id", "kind", "state", "created_at", "updated_at"})


@settings(deadline=None)
@given(st.sets(st.sampled_from(sorted(set(msgspec.to_builtins(full())) - NEEDED))))
def test_a_record_that_lacks_newer_fields_is_read(lacking: set[str]) -> None:
    builtins: Mapping[str, object] = msgspec.to_builtins(full())
    found = msgspec.convert({key: value for key, value in builtins.items() if key not in lacking}, Update)
    assert (found.id, found.state) == ("1", State.ROLLED_BACK)
