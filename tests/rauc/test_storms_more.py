"""Everything at once: kills, restarts and power cuts at random moments of an update. What it comes to is true."""

import random
import time

import pytest

from tests.rauc.bundles import Bundles
from tests.rauc.machine import ENDED, Machine
from tests.rauc.server import BundleServer
from tests.support.wait import until

_DISTURBANCES = 7


def disturb(board: Machine, chance: random.Random) -> str:
    """One bad thing; the board is up again afterwards."""
    kind = chance.choice(("homed", "homed", "rauc", "bus", "power", "power"))
    if kind == "homed":
        board.homed.kill()
        board.homed.start()
    elif kind == "rauc":
        board.start_rauc()
    elif kind == "bus":
        board.restart_bus()
    else:
        board.cut_power()
        board.boot()
    return kind


def follow(board: Machine, identity: str, seconds: float = 90) -> str:
    """What a board does without disturbances: it reboots when it is told to. The state that the update ends in."""

    def ended() -> bool:
        return bool(board.update(identity)["state"] in ENDED)

    deadline = time.monotonic() + seconds
    while not ended():
        until("a wish or an end", lambda: board.logind.asked or ended(), deadline=deadline - time.monotonic())
        if board.logind.asked and not ended():
            board.shut_down()
            board.boot()
    return str(board.update(identity)["state"])


@pytest.mark.parametrize("seed", range(200, 240))
def test_whatever_happens_the_board_runs_and_tells_the_truth(board: Machine, bundles: Bundles, seed: int) -> None:
    chance = random.Random(seed)
    before, bundle = board.slot("A").digest(), bundles.good()
    happened: list[str] = []
    with BundleServer(bundle.path.parent) as server:
        board.install_without_waiting(server.url(bundle.path), reboot="now")
        until("it to be begun", lambda: board.on_disk("1"))
        for _ in range(_DISTURBANCES):
            time.sleep(chance.uniform(0, 0.5))
            if board.logind.asked and chance.random() < 0.7:
                board.shut_down()
                board.boot()
                happened.append("reboot")
            else:
                happened.append(disturb(board, chance))
        end = follow(board, "1")
    told = board.update("1")
    assert board.slot("A").digest() == before, happened
    if end == "good":
        assert board.booted == "B", (happened, told)
        assert board.slot("B").holds(bundle.image), (happened, told)
        assert board.rauc.bootloader.is_good("B"), (happened, told)
    else:
        # Only because of what happened, and it is told.
        assert told["error"]["code"] in ("UPDATE_INTERRUPTED", "UPDATE_FELL_BACK", "RAUC_UNAVAILABLE"), (happened, told)
        assert board.booted == "A", (happened, told)
    until("RAUC to be heard", lambda: board.act("mark-good").status == 200)
    status = board.status()
    assert status["update"] is None
    assert status["booted"] == {"A": "rootfs.0", "B": "rootfs.1"}[board.booted]

    following = board.begin(bundles.good("3.0"), reboot="now")
    assert follow(board, following) == "good", happened
    assert board.slot(board.booted).holds(bundles.good("3.0").image)
