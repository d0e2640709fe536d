"""homed killed with -9 at every state of an update: what it says afterwards is true, and the update gets to its end."""

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from homed.updates.records import State
from tests.rauc.bundles import Bundles
from tests.rauc.machine import ENDED, Machine
from tests.rauc.server import BundleServer
from tests.support.wait import until


@pytest.fixture
def untouched(board: Machine) -> Callable[[], bool]:
    """Whether the first system is as it was delivered."""
    before = board.slot("A").digest()
    return lambda: board.slot("A").digest() == before


def kill_in(board: Machine, identity: str, state: State) -> None:
    """kill -9 as soon as the disk says that the update has this state."""
    seen: set[str] = set()
    until_time = time.monotonic() + 30
    while time.monotonic() < until_time:
        found = board.on_disk(identity).get("state", "")
        if found == state:
            board.homed.kill()
            return
        seen.add(found)
        assert found not in ENDED, (found, seen)
    raise AssertionError(f"{state} was not seen in 30 s, but {seen}")


def finish(board: Machine, identity: str) -> dict[str, Any]:
    """What a board does from here on: it reboots when it is told to, until the update has ended."""

    def ended() -> bool:
        return board.update(identity)["state"] in ENDED

    until("a wish or an end", lambda: board.logind.asked or ended(), deadline=60)
    if not ended():
        board.shut_down()
        board.boot()
        until("an end", lambda: ended() or board.logind.asked, deadline=60)
        if not ended():
            board.shut_down()
            board.boot()
            until("an end", ended, deadline=60)
    return board.update(identity)


def test_killed_while_it_downloads(board: Machine, bundles: Bundles, untouched: Callable[[], bool]) -> None:
    bundle = bundles.good()
    with BundleServer(bundle.path.parent) as server:
        server.stop_at = 700_000
        identity = board.begin_download(server.url(bundle.path), reboot="now", sha256=bundle.sha256)
        kill_in(board, identity, State.DOWNLOADING)
        board.homed.start()
        assert board.update(identity)["state"] == "downloading"
        server.drop()
        server.stop_at = None
        assert finish(board, identity)["state"] == "good"
    assert board.booted == "B"
    assert board.slot("B").holds(bundle.image)
    assert untouched()


def test_killed_while_it_waits_for_a_yes(board: Machine, bundles: Bundles, untouched: Callable[[], bool]) -> None:
    identity = board.begin(bundles.good(), reboot="now", require_confirmation=True)
    board.await_waiting(identity, "confirmation")
    kill_in(board, identity, State.VERIFIED)
    board.homed.start()
    board.await_waiting(identity, "confirmation")
    assert board.act("confirm").status == 200
    assert finish(board, identity)["state"] == "good"
    assert untouched()


@pytest.mark.parametrize(
    "state", [State.DOWNLOADING, State.VERIFIED, State.BACKING_UP_STATE, State.INSTALLING, State.INSTALLED]
)
def test_killed_in_passing(board: Machine, bundles: Bundles, untouched: Callable[[], bool], state: State) -> None:
    """The states that last for milliseconds: some kills come a little after them."""
    bundle = bundles.good()
    with BundleServer(bundle.path.parent) as server:
        board.install_without_waiting(server.url(bundle.path), reboot="now")
        kill_in(board, "1", state)
        board.homed.start()
        assert finish(board, "1")["state"] == "good"
    assert board.slot("B").holds(bundle.image)
    assert board.booted == "B"
    assert untouched()


@pytest.mark.parametrize("away", ["for a moment", "until it is installed"])
def test_killed_while_rauc_writes(board: Machine, bundles: Bundles, untouched: Callable[[], bool], away: str) -> None:
    identity = board.begin(bundles.slow(), reboot="now")
    until("half of it to be written", lambda: bundles.gate.reached)
    kill_in(board, identity, State.INSTALLING)
    if away == "for a moment":
        board.homed.start()
        until("it to be seen", lambda: board.status()["operation"] == "installing")
        assert board.update(identity)["state"] == "installing"
        bundles.gate.open()
    else:
        bundles.gate.open()
        until("RAUC to have done it", lambda: board.rauc.bootloader.primary == "B")
        board.homed.start()
    done = finish(board, identity)
    assert (done["state"], done["interruptions"]) == ("good", 0)
    assert untouched()


def test_killed_while_rauc_writes_and_rauc_too(board: Machine, bundles: Bundles, untouched: Callable[[], bool]) -> None:
    identity = board.begin(bundles.slow(), reboot="now")
    until("half of it to be written", lambda: bundles.gate.reached)
    kill_in(board, identity, State.INSTALLING)
    board.start_rauc()
    bundles.gate.open()
    board.homed.start()
    done = finish(board, identity)
    assert (done["state"], done["interruptions"]) == ("good", 1)
    assert untouched()


def test_killed_while_it_waits_for_a_reboot(board: Machine, bundles: Bundles, untouched: Callable[[], bool]) -> None:
    identity = board.begin(bundles.good())
    board.await_waiting(identity, "reboot")
    kill_in(board, identity, State.INSTALLED)
    board.homed.start()
    board.await_waiting(identity, "reboot")
    assert not board.logind.asked
    board.shut_down()
    board.boot()
    board.await_state(identity, "good")
    assert untouched()


def test_killed_when_it_has_asked_for_the_reboot(
    board: Machine, bundles: Bundles, untouched: Callable[[], bool]
) -> None:
    identity = board.begin(bundles.good(), reboot="now")
    board.await_wish()
    kill_in(board, identity, State.REBOOTING)
    board.homed.start()
    assert finish(board, identity)["state"] == "good"
    assert board.booted == "B"
    assert untouched()


def test_killed_while_it_judges(board: Machine, bundles: Bundles, untouched: Callable[[], bool]) -> None:
    identity = board.begin(bundles.good(), reboot="now")
    board.sick = {"B"}
    board.reboot()
    for _ in range(2):
        kill_in(board, identity, State.JUDGING)
        board.homed.start()
        assert board.await_state(identity, "judging")["judgement"]["boots"] == 1
    board.heal()
    assert board.await_state(identity, "good")["judgement"]["verdict"] == "good"
    assert board.rauc.bootloader.marks[-1] == "B good"
    assert untouched()


def test_killed_on_its_way_back(board: Machine, bundles: Bundles, untouched: Callable[[], bool]) -> None:
    board.configure(deadline=1.0)
    board.restart_homed()
    identity = board.begin(bundles.good(), reboot="now")
    board.sick = {"B"}
    board.reboot()
    kill_in(board, identity, State.ROLLING_BACK)
    # The check works again, and the verdict stands all the same.
    board.heal()
    board.homed.start()
    left = finish(board, identity)
    assert left["state"] == "rolled_back"
    assert "check:well" in left["error"]["message"]
    assert board.booted == "A"
    assert not board.rauc.bootloader.is_good("B")
    assert untouched()


@pytest.mark.parametrize("state", [State.GOOD, State.ROLLED_BACK, State.FAILED, State.CANCELLED])
def test_killed_at_the_end(board: Machine, bundles: Bundles, untouched: Callable[[], bool], state: State) -> None:
    if state is State.FAILED:
        board.install(bundles.tampered())
        identity = board.history()[0]["id"]
    elif state is State.CANCELLED:
        identity = board.begin(bundles.good(), require_confirmation=True)
        board.await_waiting(identity, "confirmation")
        board.act("cancel")
    else:
        board.broken = {"B"} if state is State.ROLLED_BACK else set()
        identity = board.begin(bundles.good(), reboot="now")
        board.reboot()
    ended = board.await_state(identity, state)
    board.homed.kill()
    board.homed.start()
    assert board.update(identity) == ended
    board.await_rauc()
    board.broken = set()
    again = board.begin(bundles.good("3.0"))
    board.await_state(again, "installed")
    assert untouched() or board.booted == "B"


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_time_and_often(
    board: Machine, bundles: Bundles, untouched: Callable[[], bool], seed: int
) -> None:
    chance = random.Random(seed)
    bundle = bundles.good()
    with BundleServer(bundle.path.parent) as server:
        board.install_without_waiting(server.url(bundle.path), reboot="now")
        until("it to be begun", lambda: board.on_disk("1"))
        for _ in range(6):
            time.sleep(chance.uniform(0, 0.12))
            board.homed.kill()
            board.homed.launch()
            if chance.random() < 0.5:
                board.await_homed()
        board.await_homed()
        assert finish(board, "1")["state"] == "good"
    assert board.booted == "B"
    assert board.slot("B").holds(bundle.image)
    assert untouched()
