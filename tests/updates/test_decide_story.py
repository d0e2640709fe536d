"""An update ends, and ends truly, wherever homed, RAUC or the power goes: on a model of the board, by `decide`."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed.updates.records import Kind, Reboot, State, Step, Update
from tests.support.board_model import Behaviour, Board, Bootloader, Content, Grub, UBoot
from tests.support.update_story import Blow, Hit, Story
from tests.support.updating import EPOCH, NEW, OLD, update

WELL, SICK, MUTE, DEAD = (
    Content("2.0", one) for one in (Behaviour.WELL, Behaviour.SICK, Behaviour.MUTE, Behaviour.DEAD)
)
BOOTLOADERS: tuple[Callable[[], Bootloader], ...] = (UBoot, Grub)
CONTENTS = (WELL, SICK, MUTE, DEAD)

boards = st.builds(
    lambda bootloader, counts, forgets: Board(bootloader(), counts=counts, forgets=forgets),
    st.sampled_from(BOOTLOADERS),
    st.booleans(),
    st.booleans(),
)
requests = st.builds(
    lambda reboot, confirmation: update(reboot=reboot, require_confirmation=confirmation),
    st.sampled_from(Reboot),
    st.booleans(),
)
hits = st.lists(st.builds(Hit, st.integers(0, 25), st.sampled_from(Blow), st.integers(0, 6)), max_size=12)


def back_to(content: Content, board: Board) -> Update:
    """A rollback that was just asked for, to what the other slot holds."""
    board.contents["B"] = content
    board.mark("active", NEW)
    return update(State.INSTALLED, kind=Kind.ROLLBACK, reboot=Reboot.NOW, steps=(Step(State.INSTALLED, EPOCH),))


@pytest.mark.parametrize("bootloader", BOOTLOADERS)
@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("reboot", list(Reboot))
def test_a_good_system_becomes_good(bootloader: Callable[[], Bootloader], counts: bool, reboot: Reboot) -> None:
    story = Story(Board(bootloader(), counts=counts), update(reboot=reboot, require_confirmation=True), WELL)
    assert story.run().state is State.GOOD
    assert (story.update.interruptions, story.update.revivals, len(story.update.boots)) == (0, 0, 1)


@pytest.mark.parametrize("bootloader", BOOTLOADERS)
@pytest.mark.parametrize("content", [SICK, MUTE, DEAD])
@pytest.mark.parametrize("reboot", list(Reboot))
def test_a_bad_system_is_left_again(bootloader: Callable[[], Bootloader], content: Content, reboot: Reboot) -> None:
    story = Story(Board(bootloader()), update(reboot=reboot), content)
    assert story.run().state is State.ROLLED_BACK
    assert (story.update.from_slot, story.update.to_slot) == (OLD, NEW)
    code = "UPDATE_JUDGED_BAD" if content is SICK else "UPDATE_FELL_BACK"
    assert story.update.failure is not None and story.update.failure.code == code


@pytest.mark.parametrize("bootloader", BOOTLOADERS)
@pytest.mark.parametrize("content", CONTENTS)
def test_a_rollback_is_judged_like_an_update(bootloader: Callable[[], Bootloader], content: Content) -> None:
    board = Board(bootloader())
    story = Story(board, back_to(content, board), content)
    assert story.run().state is (State.GOOD if content is WELL else State.ROLLED_BACK)


def test_what_rauc_refuses_is_tried_once() -> None:
    story = Story(Board(refuses="Compatible mismatch"), update(), WELL)
    assert story.run().state is State.FAILED
    assert story.update.interruptions == 0
    assert story.update.failure is not None and story.update.failure.rauc == "Compatible mismatch"


def points(board: Board, content: Content) -> int:
    """How many moments an undisturbed update has."""
    story = Story(board, update(reboot=Reboot.NOW), content)
    story.run()
    return story.points


@pytest.mark.parametrize("bootloader", BOOTLOADERS)
@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: content.kind)
@pytest.mark.parametrize("blow", [Blow.HOMED, Blow.RAUC, Blow.POWER])
def test_one_blow_at_any_moment_changes_nothing_of_how_it_ends(
    bootloader: Callable[[], Bootloader], content: Content, blow: Blow
) -> None:
    undisturbed = State.GOOD if content is WELL else State.ROLLED_BACK
    for counts in (True, False):
        for forgets in (True, False):
            for after in range(points(Board(bootloader()), content)):
                for stages in (0, 1, 2, 3, 4, 6) if blow is Blow.HOMED else (0,):
                    board = Board(bootloader(), counts=counts, forgets=forgets)
                    hit = Hit(after, blow, stages)
                    ended = Story(board, update(reboot=Reboot.NOW), content, [hit]).run()
                    assert ended.state is undisturbed, (hit, counts, forgets, ended)


@settings(deadline=None, max_examples=700)
@given(boards, requests, st.sampled_from(CONTENTS), hits)
def test_it_ends_truly_after_any_blows(board: Board, asked: Update, content: Content, hits: list[Hit]) -> None:
    Story(board, asked, content, hits).run()


@settings(deadline=None, max_examples=150)
@given(boards, st.sampled_from(CONTENTS), hits)
def test_a_rollback_ends_truly_after_any_blows(board: Board, content: Content, hits: list[Hit]) -> None:
    Story(board, back_to(content, board), content, hits).run()


@settings(deadline=None, max_examples=300)
@given(boards, hits)
def test_a_dead_system_is_never_good(board: Board, hits: list[Hit]) -> None:
    ended = Story(board, update(reboot=Reboot.NOW), DEAD, hits).run()
    assert ended.state is not State.GOOD
