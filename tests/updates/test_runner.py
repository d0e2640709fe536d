"""An update lived through by homed's own parts, on a board of the model: it goes well, or is broken off anywhere."""

import asyncio
from pathlib import Path

import pytest

from homed import atomic
from homed.events import Event
from homed.updates.judgement import Findings
from homed.updates.records import Reboot, State
from tests.support.board_model import Behaviour, Content, Grub
from tests.support.update_world import STAGE, Life, MakeWorld, World, begin, rauc

WELL, SICK, DEAD = (Content("2.0", one) for one in (Behaviour.WELL, Behaviour.SICK, Behaviour.DEAD))


def test_a_good_system_becomes_good(make: MakeWorld) -> None:
    world = make()
    begin(world)
    assert world.board.booted == "B"
    ended = world.to_the_end()
    assert (ended.state, ended.failure, ended.interruptions) == (State.GOOD, None, 0)
    assert [step.state for step in ended.steps] == [
        "downloading", "verified", "backing_up_state", "installing", "installed", "rebooting", "judging", "good",
    ]  # fmt: skip
    assert world.board.bootloader.status("B") == "good"
    states = [event.data["state"] for event in world.events if event.type == "update.state"]
    assert states[-1] == "good" and "installing" in states


def test_a_bad_system_is_left_and_its_journal_kept(make: MakeWorld) -> None:
    world = make()
    begin(world, SICK)
    ended = world.to_the_end()
    assert (ended.state, world.board.booted) == (State.ROLLED_BACK, "A")
    assert ended.failure is not None and ended.failure.code == "UPDATE_JUDGED_BAD"
    assert "service:web: is down" in ended.failure.message
    assert (ended.has_journal, world.journals) == (True, ["0"])
    assert ended.judgement is not None and ended.judgement.verdict == "bad"
    assert world.board.bootloader.status("B") == "bad"


def test_a_system_that_does_not_come_up_is_told_of(make: MakeWorld) -> None:
    world = make()
    begin(world, DEAD)
    ended = world.to_the_end()
    assert (ended.state, ended.failure and ended.failure.code) == (State.ROLLED_BACK, "UPDATE_FELL_BACK")
    assert world.journals == ["-1"]


def test_what_was_ill_before_is_not_asked_for(make: MakeWorld) -> None:
    world = make()
    world.board.contents["A"] = Content("1.0", Behaviour.SICK)
    begin(world, SICK)
    ended = world.to_the_end()
    assert (ended.state, ended.required) == (State.GOOD, ("component:store",))


def test_the_judging_has_its_deadline_and_its_soak(make: MakeWorld) -> None:
    world = make(deadline=300, soak=60)
    begin(world)
    began = world.now
    assert world.to_the_end().state is State.GOOD
    assert 60 <= world.now - began < 90
    world = make(deadline=300, soak=60)
    begin(world, SICK)
    began = world.now
    assert world.live() is None
    assert 300 <= world.now - began < 330


def test_a_judging_that_homed_was_killed_in_goes_on_with_the_same_deadline(make: MakeWorld) -> None:
    world = make(deadline=300)
    begin(world, SICK)
    began = world.now
    for _ in range(20):

        async def some_time(life: Life) -> str:
            await asyncio.sleep(20)
            return "killed"

        if world.live(some_time) is None:
            break
    assert 300 <= world.now - began < 330
    assert world.to_the_end().state is State.ROLLED_BACK


def test_an_ordinary_boot_is_marked_good_once(make: MakeWorld) -> None:
    world = make()
    for _ in range(2):
        world.reboot()
        assert world.board.bootloader.left["A"] == 2  # type: ignore[attr-defined]
        for _ in range(2):
            world.live()
            assert world.board.bootloader.left["A"] == 3  # type: ignore[attr-defined]
    world.board.bootloader.left["A"] = 1  # type: ignore[attr-defined]
    world.live()
    assert world.board.bootloader.left["A"] == 1  # type: ignore[attr-defined]


def code(world: World) -> tuple[str, str | None]:
    """How the newest update has ended."""
    ended = world.updates()[0]
    return ended.state, ended.failure.code if ended.failure is not None else None


def test_an_installation_that_rauc_breaks_off_is_begun_anew(make: MakeWorld) -> None:
    world = make()

    async def act(life: Life) -> None:
        await life.updater.install(world.request(WELL))
        for times in range(1, 4):
            await life.until("installing")
            await asyncio.sleep(2 * STAGE)
            rauc(life).crash()
            await asyncio.sleep(STAGE)
            assert life.parts.desk.ledger.get("1").interruptions == times
        await life.until("installed", "reboot")

    world.live(act)
    assert (world.board.contents["B"], world.board.primary) == (WELL, "rootfs.1")


def test_one_that_rauc_breaks_off_again_and_again_fails(make: MakeWorld) -> None:
    world = make()

    async def act(life: Life) -> None:
        await life.updater.install(world.request(WELL))
        while life.current is not None:
            await asyncio.sleep(2 * STAGE)
            if world.board.writing is not None:
                rauc(life).crash()

    world.live(act)
    assert code(world) == ("failed", "UPDATE_INTERRUPTED")
    assert (world.updates()[0].interruptions, world.board.primary) == (3, "rootfs.0")


def test_what_rauc_refuses_is_told_in_its_words(make: MakeWorld) -> None:
    world = make()
    world.board.refuses = "Installation error: Bundle rejected: Hook returned: not on a Monday"
    begin(world)
    assert code(world) == ("failed", "UPDATE_REFUSED")
    failure = world.updates()[0].failure
    assert failure is not None and failure.rauc == world.board.refuses


def test_the_same_refusal_twice_is_no_interruption(make: MakeWorld) -> None:
    world = make()
    world.board.refuses = "Installation error: no"
    for _ in range(2):
        begin(world)
        assert (code(world), world.updates()[0].interruptions) == (("failed", "UPDATE_ERROR"), 0)


def test_somebody_elses_installation_is_waited_for_and_is_not_taken_for_ours(make: MakeWorld) -> None:
    world = make()
    theirs = Content("3.0")

    async def act(life: Life) -> None:
        await life.updater.install(world.request(WELL, require_confirmation=True))
        await life.until("verified", "confirmation")
        await rauc(life).install(str(world.bundle(theirs, "theirs")), {})
        await life.updater.confirm()
        await life.until("installed", "reboot")

    world.live(act)
    assert (world.board.contents["B"], world.updates()[0].interruptions) == (WELL, 0)


def test_somebody_elses_failure_is_not_ours(make: MakeWorld) -> None:
    """They were faster between homed's look and its call."""
    world = make()

    async def act(life: Life) -> None:
        installer = rauc(life)
        ours = installer.install

        async def theirs_first(path: str, options: dict[str, object]) -> None:
            installer.install = ours  # type: ignore[method-assign]
            world.board.refuses = "Installation error: theirs is no good"
            asyncio.get_running_loop().call_later(1.5 * STAGE, setattr, world.board, "refuses", "")
            await ours(str(world.bundle(Content("3.0"), "theirs")), {})
            await ours(path, options)

        installer.install = theirs_first  # type: ignore[method-assign, assignment]
        await life.updater.install(world.request(WELL))
        await life.until("installed", "reboot")

    world.live(act)
    assert world.board.contents["B"] == WELL


def test_a_bundle_that_was_changed_after_it_was_verified_is_not_installed(make: MakeWorld) -> None:
    world = make()

    async def act(life: Life) -> None:
        await life.updater.install(world.request(WELL, require_confirmation=True))
        world.bundle(Content("6.66"))
        await life.updater.confirm()
        await life.to_the_end()

    world.live(act)
    assert code(world) == ("failed", "UPDATE_BUNDLE")
    assert world.board.contents["B"] == Content("0.9")


def test_a_rauc_that_goes_away_before_the_installation_is_waited_for_a_while(make: MakeWorld) -> None:
    world = make()

    async def act(life: Life) -> None:
        await life.updater.install(world.request(WELL, require_confirmation=True))
        world.rauc_away = True
        await life.updater.confirm()
        await asyncio.sleep(30)
        world.rauc_away = False
        await life.until("installed", "reboot")
        await life.updater.mark_bad("other")
        await life.updater.install(world.request(WELL, require_confirmation=True))
        world.rauc_away = True
        await life.updater.confirm()
        await life.to_the_end()

    world.live(act)
    assert code(world) == ("failed", "RAUC_UNAVAILABLE")


def test_a_new_system_in_which_rauc_does_not_answer_is_left_by_the_bootloaders_attempts(make: MakeWorld) -> None:
    world = make(deadline=50)
    begin(world)
    world.rauc_away = True
    for _ in range(5):
        if world.board.booted != "B":
            break
        world.live()
    world.rauc_away = False
    assert world.board.booted == "A"
    world.to_the_end()
    assert code(world) == ("rolled_back", "UPDATE_FELL_BACK")


def test_a_bootloader_that_takes_no_mark_is_no_good(make: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make(Grub)
    begin(world)
    mark = world.board.bootloader.mark
    monkeypatch.setattr(world.board.bootloader, "mark", lambda name, how: how != "good" and mark(name, how))
    ended = world.to_the_end()
    assert (ended.state, ended.failure and ended.failure.code) == (State.ROLLED_BACK, "UPDATE_NOT_MARKED")
    assert world.board.booted == "A"


def test_a_reboot_that_does_not_come_is_asked_for_some_times(make: MakeWorld) -> None:
    world = make()
    world.reboots_ignored = 100

    async def act(life: Life) -> None:
        await life.updater.install(world.request(WELL, reboot=Reboot.NOW))
        await life.until("rebooting", "reboot")
        await asyncio.sleep(5000)
        assert 90 < world.reboots_ignored < 100

    world.live(act)
    world.reboot()
    assert world.to_the_end().state is State.GOOD


@pytest.mark.parametrize("state", ["verified", "installing", "installed"])
def test_a_full_disk_holds_an_update_up_and_does_not_end_it(
    make: MakeWorld, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    world = make()
    write, full = atomic.write, False

    def maybe(path: Path, data: bytes, **options: int) -> None:
        if full:
            raise OSError(28, "No space left on device")
        write(path, data, **options)

    monkeypatch.setattr(atomic, "write", maybe)

    async def act(life: Life) -> None:
        nonlocal full
        await life.updater.install(world.request(WELL, require_confirmation=state == "verified"))
        await life.until(state)
        if state == "verified":
            await life.updater.confirm()
        full = True
        await asyncio.sleep(120)
        full = False
        await life.until("installed", "reboot")

    world.live(act)
    assert (world.board.contents["B"], world.board.primary) == (WELL, "rootfs.1")


def test_a_fault_of_homeds_own_ends_an_update_and_nothing_else(make: MakeWorld) -> None:
    world = make()
    well, broken = world.healthy, True

    def observe() -> Findings:
        if broken:
            raise RuntimeError("a fault")
        return well()

    world.healthy = observe
    begin(world)
    assert code(world) == ("failed", "UPDATE_ERROR")
    broken = False
    begin(world)
    assert world.to_the_end().state is State.GOOD


def test_old_updates_are_forgotten(make: MakeWorld) -> None:
    world = make(kept=2)
    world.board.refuses = "no"
    for _ in range(4):
        begin(world)
    assert [update.id for update in world.updates()] == ["4", "3"]


def test_the_state_is_copied_once_more_where_homed_ends_before_the_reboot(make: MakeWorld) -> None:
    world = make()

    async def act(life: Life) -> None:
        await life.updater.install(world.request(WELL))
        await life.until("installed", "reboot")
        copy = world.folder / "updates" / "1" / "state"
        copy.rmdir()
        await life.parts.stop()
        assert copy.is_dir()

    world.live(act)


def test_a_copy_that_was_put_back_is_told_of(make: MakeWorld) -> None:
    world = make()
    begin(world, SICK)
    world.to_the_end()

    async def act(life: Life) -> None:
        life.parts.load("1")
        assert life.parts.desk.ledger.get("1").state_restored

    world.live(act)
    assert world.updates()[0].state_restored


def test_the_guard_is_told_from_the_installation_to_the_verdict(make: MakeWorld) -> None:
    world = make()
    pending = world.folder / "updates" / "pending"
    seen: dict[str, bool] = {}

    async def act(life: Life) -> None:
        def look(event: Event) -> None:
            if event.type == "update.state":
                seen[str(event.data["state"])] = pending.exists()

        life.events.listen(look)
        await life.updater.install(world.request(WELL, reboot=Reboot.NOW))
        await life.to_the_end()

    world.live(act)
    assert "bootname=B\n" in pending.read_text()
    assert seen == {
        "downloading": False, "verified": False, "backing_up_state": False, "installing": True, "installed": True,
        "rebooting": True,
    }  # fmt: skip
    world.to_the_end()
    assert not pending.exists()
