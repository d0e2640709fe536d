"""homed's own parts on a board of the model: homed is killed, or the power cut, at each moment of an update."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homed.updates.records import State
from tests.support.board_model import Behaviour, Bootloader, Content, Grub, UBoot
from tests.support.update_world import MakeWorld, World, begin

WELL, SICK, MUTE, DEAD = (
    Content("2.0", one) for one in (Behaviour.WELL, Behaviour.SICK, Behaviour.MUTE, Behaviour.DEAD)
)
BOOTLOADERS: tuple[Callable[[], Bootloader], ...] = (UBoot, Grub)
QUICK = {"deadline": 6, "soak": 2}


def points(make: MakeWorld, bootloader: Callable[[], Bootloader], content: Content) -> int:
    """How many moments an undisturbed update has."""
    world = make(bootloader, **QUICK)
    begin(world, content)
    world.to_the_end()
    return world.points


def resume(world: World, content: Content) -> State:
    """Begin again where the update was not even written down, and live to its end."""
    if not world.updates():
        begin(world, content)
    return world.to_the_end().state


def check_end(world: World, content: Content, told: object) -> None:
    update = world.updates()[0]
    assert update.state is (State.GOOD if content is WELL else State.ROLLED_BACK), told
    assert (update.from_slot, update.to_slot) == ("rootfs.0", "rootfs.1"), told
    assert world.board.contents["A"] == Content("1.0"), told
    assert world.board.booted == ("B" if content is WELL else "A"), told
    # Nobody but the verdict says so.
    assert content is WELL or "B good" not in world.board.marks, told
    # The guard would go by it.
    assert not (world.folder / "updates" / "pending").exists(), told


@pytest.mark.parametrize("blow", ["killed_at", "cut_at"])
@pytest.mark.parametrize(("bootloader", "content"), [(UBoot, WELL), (Grub, WELL), (UBoot, SICK), (Grub, MUTE)])
def test_one_blow_at_any_moment_changes_nothing_of_how_it_ends(
    make: MakeWorld, bootloader: Callable[[], Bootloader], content: Content, blow: str
) -> None:
    for at in range(1, points(make, bootloader, content) + 1):
        world = make(bootloader, **QUICK)
        setattr(world, blow, at)
        begin(world, content)
        resume(world, content)
        check_end(world, content, at)


blows = st.lists(st.tuples(st.sampled_from(["killed_at", "cut_at"]), st.integers(1, 40)), max_size=6)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(BOOTLOADERS), st.sampled_from([WELL, SICK, MUTE, DEAD]), blows)
def test_it_ends_truly_after_any_blows(
    make: MakeWorld, bootloader: Callable[[], Bootloader], content: Content, blows: list[tuple[str, int]]
) -> None:
    world = make(bootloader, **QUICK)
    begin(world, content)
    for blow, after in blows:
        world.killed_at = world.cut_at = None
        setattr(world, blow, world.points + after)
        if world.board.runs.kind is Behaviour.MUTE:
            world.reboot()
        else:
            world.live()
    world.killed_at = world.cut_at = None
    ended = world.to_the_end()
    assert world.board.contents["A"] == Content("1.0")
    if ended.state is State.GOOD:
        assert content is WELL and world.board.booted == "B" and world.board.runs == WELL
    else:
        assert ended.state in (State.ROLLED_BACK, State.FAILED) and ended.failure is not None
        world.live()
        world.reboot()
        assert world.board.booted == "A"
    assert not (world.folder / "updates" / "pending").exists()
