"""What a person asks of updates: it is done, or refused with the reason; never half of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from homed.errors import HomedError, ValidationError
from homed.updates.records import Kind, Reboot, Source, State
from homed.updates.updater import Request
from tests.support.board_model import Behaviour, Content, Grub
from tests.support.update_world import Life, MakeWorld, World, rauc

NEW = Content("2.0")


async def refused(asked: Awaitable[Any]) -> tuple[str, int]:
    with pytest.raises(HomedError) as raised:
        await asked
    assert raised.value.message
    return raised.value.code, raised.value.status


def test_an_update_is_told_when_its_bundle_is_verified(world: World) -> None:
    async def act(life: Life) -> None:
        found = await life.updater.install(world.request(NEW, require_confirmation=True))
        assert (found.id, found.state, found.from_slot, found.to_slot) == ("1", State.VERIFIED, "rootfs.0", "rootfs.1")
        assert found.bundle is not None and (found.bundle.version, found.bundle.size) == ("2.0", 3)
        assert (found.reboot, found.allow_downgrade) == (Reboot.NEVER, False)
        await life.until("verified", "confirmation")

    world.live(act)


def test_what_the_configuration_says_is_taken_where_nothing_else_is_said(make: MakeWorld) -> None:
    world = make(reboot="window", window="00:00-00:01", require_confirmation=True, allow_downgrade=True)

    async def act(life: Life) -> None:
        found = await life.updater.install(world.request(NEW))
        assert (found.reboot, found.require_confirmation, found.allow_downgrade) == (Reboot.WINDOW, True, True)
        await life.updater.cancel()
        found = await life.updater.install(
            world.request(NEW, reboot=Reboot.NEVER, require_confirmation=False, allow_downgrade=False)
        )
        assert (found.reboot, found.require_confirmation, found.allow_downgrade) == (Reboot.NEVER, False, False)

    world.live(act)


def test_an_error_that_is_known_early_is_the_answer(world: World) -> None:
    async def act(life: Life) -> None:
        gone = Request(source=Source(path="/gone.raucb"))
        assert await refused(life.updater.install(gone)) == ("BUNDLE_NOT_FOUND", 404)
        stranger = world.folder / "stranger.raucb"
        stranger.write_bytes(b"x")
        assert await refused(life.updater.install(Request(source=Source(path=str(stranger))))) == (
            "UPDATE_SIGNATURE", 422,
        )  # fmt: skip
        wrong = world.request(NEW, sha256="0" * 64)
        assert await refused(life.updater.install(wrong)) == ("UPDATE_CHECKSUM", 422)
        assert [update.state for update in life.updater.ledger.all()] == [State.FAILED] * 3
        assert life.current is None

    world.live(act)


@pytest.mark.parametrize(
    "request_",
    [
        Request(source=Source(url="ftp://host/2.raucb")),
        Request(source=Source(url="http://")),
        Request(source=Source(path="/x"), reboot=Reboot.WINDOW),
    ],
)
def test_what_cannot_be_meant_begins_nothing(world: World, request_: Request) -> None:
    async def act(life: Life) -> None:
        with pytest.raises(ValidationError):
            await life.updater.install(request_)
        assert life.updater.ledger.all() == []

    world.live(act)


def test_there_is_one_update_at_a_time(world: World) -> None:
    async def act(life: Life) -> None:
        ask = world.request(NEW, require_confirmation=True)
        both = await asyncio.gather(*(life.updater.install(ask) for _ in range(5)), return_exceptions=True)
        errors = [one for one in both if isinstance(one, HomedError)]
        assert [(one.code, one.status) for one in errors] == [("UPDATE_BUSY", 409)] * 4
        assert errors[0].details == {"id": "1"}
        assert await refused(life.updater.rollback()) == ("UPDATE_BUSY", 409)
        assert len(life.updater.ledger.all()) == 1

    world.live(act)


def test_while_rauc_installs_for_somebody_else_nothing_is_begun(world: World) -> None:
    async def act(life: Life) -> None:
        await life.updater.facts()
        await rauc(life).install(str(world.bundle(Content("3.0"), "theirs")), {})
        assert await refused(life.updater.install(world.request(NEW))) == ("UPDATE_BUSY", 409)
        assert await refused(life.updater.inspect(str(world.bundle(NEW)))) == ("UPDATE_BUSY", 409)
        assert await refused(life.updater.mark_good()) == ("UPDATE_BUSY", 409)
        assert await refused(life.updater.mark_bad("other")) == ("UPDATE_BUSY", 409)
        assert await refused(life.updater.rollback()) == ("UPDATE_BUSY", 409)
        assert life.updater.ledger.all() == []

    world.live(act)


def test_without_rauc_nothing_is_begun(world: World) -> None:
    async def act(life: Life) -> None:
        world.rauc_away = True
        path = str(world.bundle(NEW))
        unavailable = ("RAUC_UNAVAILABLE", 503)
        assert await refused(life.updater.install(world.request(NEW))) == unavailable
        assert await refused(life.updater.inspect(path)) == unavailable
        assert await refused(life.updater.mark_good()) == unavailable
        assert await refused(life.updater.mark_bad("other")) == unavailable
        assert await refused(life.updater.rollback()) == unavailable
        assert life.updater.ledger.all() == []

    world.live(act)


def test_a_confirmation_is_given_once_and_only_where_it_is_waited_for(world: World) -> None:
    async def act(life: Life) -> None:
        assert await refused(life.updater.confirm()) == ("NO_UPDATE", 409)
        await life.updater.install(world.request(NEW, require_confirmation=True))
        both = await asyncio.gather(life.updater.confirm(), life.updater.confirm(), return_exceptions=True)
        assert [isinstance(one, HomedError) for one in both] == [False, True]
        await life.until("installed", "reboot")
        assert await refused(life.updater.confirm()) == ("UPDATE_BUSY", 409)

    world.live(act)


def test_an_update_can_be_cancelled_until_rauc_writes(world: World) -> None:
    async def act(life: Life) -> None:
        assert await refused(life.updater.cancel()) == ("NO_UPDATE", 409)
        await life.updater.install(world.request(NEW, require_confirmation=True))
        assert (await life.updater.cancel()).state is State.CANCELLED
        assert await refused(life.updater.cancel()) == ("NO_UPDATE", 409)
        await life.updater.install(world.request(NEW))
        await life.until("installing")
        assert await refused(life.updater.cancel()) == ("UPDATE_NOT_CANCELLABLE", 409)
        await life.until("installed")
        assert await refused(life.updater.cancel()) == ("UPDATE_NOT_CANCELLABLE", 409)

    world.live(act)
    assert world.board.contents["B"] == NEW


def test_a_cancellation_is_meant_for_one_update(world: World) -> None:
    """One that came too late for it must not end the next one."""

    async def act(life: Life) -> None:
        await life.updater.install(world.request(NEW, require_confirmation=True))
        await life.updater.cancel()
        found = await life.updater.install(world.request(NEW))
        assert found.id == "2"
        assert (await life.until("installed")).id == "2"

    world.live(act)


def test_a_cancellation_at_any_moment_is_told_truly(make: MakeWorld) -> None:
    """It says that it has cancelled and nothing was written, or that it has not and the update goes on."""
    told: set[str] = set()
    for moment in (*range(0, 200, 5), *range(200, 300)):
        world = make()

        async def act(life: Life, world: World = world, moment: int = moment) -> None:
            asked = asyncio.ensure_future(life.updater.install(world.request(NEW)))
            while life.current is None:
                await asyncio.sleep(0.0001)
            await asyncio.sleep(moment * 0.0005)
            try:
                ended = await life.updater.cancel()
            except HomedError as error:
                told.add(error.code)
                await asyncio.gather(asked, return_exceptions=True)
                assert (await life.until("installed")).state is State.INSTALLED
                assert world.board.contents["B"] == NEW
            else:
                told.add(ended.state)
                await asyncio.gather(asked, return_exceptions=True)
                await asyncio.sleep(200)
                assert life.updater.ledger.get("1").state is State.CANCELLED
                assert world.board.contents["B"] == Content("0.9")

        world.live(act)
    assert told == {"cancelled", "UPDATE_NOT_CANCELLABLE"}


def test_a_slot_is_marked_bad_only_where_a_good_one_is_left(world: World) -> None:
    async def act(life: Life) -> None:
        assert (await life.updater.mark_bad("other")).boot_status == "bad"
        assert await refused(life.updater.mark_bad("booted")) == ("UPDATE_NO_GOOD_SLOT", 409)
        assert await refused(life.updater.mark_bad("rootfs.0")) == ("UPDATE_NO_GOOD_SLOT", 409)
        assert (await life.updater.mark_bad("rootfs.1")).boot_status == "bad"
        for name in ("rootfs.7", "", "A"):
            with pytest.raises(ValidationError):
                await life.updater.mark_bad(name)

    world.live(act)
    assert world.board.bootloader.status("A") == "good"


def test_the_booted_slot_may_be_marked_bad_where_the_other_one_is_good(world: World) -> None:
    async def act(life: Life) -> None:
        assert (await life.updater.mark_bad("booted")).name == "rootfs.0"
        assert (await life.updater.mark_good()).booted == "rootfs.0"

    world.live(act)
    assert world.board.bootloader.status("A") == "good"


def test_a_mark_that_the_bootloader_does_not_take_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(life: Life) -> None:
        await life.updater.mark_bad("other")
        monkeypatch.setattr(world.board.bootloader, "mark", lambda *_: None)
        assert await refused(life.updater.mark_bad("booted")) == ("UPDATE_NO_GOOD_SLOT", 409)
        world.board.bootloader.left["B"] = 3  # type: ignore[attr-defined]
        world.board.bootloader.order = ["B", "A"]  # type: ignore[attr-defined]
        assert await refused(life.updater.mark_bad("booted")) == ("UPDATE_ERROR", 500)

    world.live(act)


def test_marking_an_installed_system_bad_cancels_its_update(world: World) -> None:
    async def act(life: Life) -> None:
        await life.updater.install(world.request(NEW))
        await life.until("installed", "reboot")
        await life.updater.mark_bad("other")
        assert life.current is None
        ended = life.updater.ledger.get("1")
        assert (ended.state, ended.failure and ended.failure.code) == (State.CANCELLED, "UPDATE_CANCELLED")

    world.live(act)
    world.reboot()
    assert world.board.booted == "A"


def judged(world: World, act: Callable[[Life], Awaitable[Any]], content: Content = NEW) -> None:
    """Update, and do this in the new system while it is judged."""

    async def begin(life: Life) -> None:
        await life.updater.install(world.request(content, reboot=Reboot.NOW))
        await life.to_the_end()

    async def then(life: Life) -> None:
        await life.until("judging")
        await asyncio.sleep(3)
        await act(life)
        await life.to_the_end()

    world.live(begin)
    world.live(then)


def test_a_person_may_judge_a_sick_system_good(make: MakeWorld) -> None:
    world = make(deadline=5000)

    async def act(life: Life) -> None:
        await life.updater.mark_good()
        assert life.updater.ledger.get("1").state is State.GOOD

    judged(world, act, Content("2.0", Behaviour.SICK))
    assert world.now < 1000
    assert world.to_the_end().state is State.GOOD


@pytest.mark.parametrize("which", ["booted", "rootfs.1"])
def test_a_person_may_judge_a_well_system_bad(make: MakeWorld, which: str) -> None:
    world = make(soak=5000)

    async def act(life: Life) -> None:
        assert (await life.updater.mark_bad(which)).name == "rootfs.1"
        assert life.updater.ledger.get("1").state is State.ROLLING_BACK

    judged(world, act)
    ended = world.to_the_end()
    assert (ended.state, world.board.booted) == (State.ROLLED_BACK, "A")
    assert ended.failure is not None and "by hand" in ended.failure.message


def test_with_grub_a_system_on_trial_can_be_judged_by_hand_too(make: MakeWorld) -> None:
    """There it is bad for RAUC until it is marked good, and the old one good."""
    world = make(Grub, soak=5000)

    async def act(life: Life) -> None:
        await life.updater.mark_bad("booted")

    judged(world, act)
    assert world.to_the_end().state is State.ROLLED_BACK


def test_going_back_is_judged_like_an_update(world: World) -> None:
    async def back(life: Life) -> None:
        found = await life.updater.rollback()
        assert (found.kind, found.state, found.from_slot, found.to_slot) == (
            Kind.ROLLBACK, State.INSTALLED, "rootfs.0", "rootfs.1",
        )  # fmt: skip
        await life.to_the_end()

    world.live(back)
    assert world.board.booted == "B"
    ended = world.to_the_end()
    assert (ended.state, ended.kind, ended.bundle) == (State.GOOD, Kind.ROLLBACK, None)


def test_there_is_no_going_back_to_a_slot_that_is_not_good(world: World) -> None:
    world.board.bootloader.mark("B", "bad")

    async def act(life: Life) -> None:
        assert await refused(life.updater.rollback()) == ("UPDATE_NO_GOOD_SLOT", 409)
        assert life.updater.ledger.all() == []

    world.live(act)
    assert world.board.bootloader.primary() == "A"


def test_the_board_is_told_as_it_was_where_rauc_does_not_answer(world: World) -> None:
    async def act(life: Life) -> None:
        before = await life.updater.facts()
        assert before.booted == "rootfs.0" and life.parts.watch.available
        await rauc(life).install(str(world.bundle(NEW, "theirs")), {})
        assert await life.updater.facts() == before
        rauc(life).crash()
        world.rauc_away = True
        assert await life.updater.facts() == before
        assert not life.parts.watch.available

    world.live(act)


def test_a_bundle_is_inspected_without_being_installed(world: World) -> None:
    async def act(life: Life) -> None:
        found = await life.updater.inspect(str(world.bundle(NEW)))
        assert (found.version, found.compatible_with_board, found.fits, found.size) == ("2.0", True, True, 3)
        assert await refused(life.updater.inspect("/gone")) == ("BUNDLE_NOT_FOUND", 404)
        assert await refused(life.updater.inspect("/dev")) == ("BUNDLE_NOT_FOUND", 404)
        assert await refused(life.updater.inspect("nul\0")) == ("BUNDLE_NOT_FOUND", 404)
        assert life.updater.ledger.all() == []

    world.live(act)
