"""Whole updates, from the bundle to the verdict and back."""

from itertools import pairwise
from typing import Any

from tests.rauc.bundles import Bundles
from tests.rauc.machine import Machine
from tests.rauc.server import BundleServer
from tests.support.rauc import ATTEMPTS
from tests.support.sockets import Follower
from tests.support.wait import stays, until

EVENTS = "/ws/events?type=update.*"
PASSED = ["verified", "backing_up_state", "installing", "installed", "rebooting"]


def states(update: dict[str, Any]) -> list[str]:
    return [step["state"] for step in update["steps"]]


def await_judging(board: Machine, identity: str, boot: int) -> None:
    """Wait until the boot of this number into the new system is judged."""
    until(
        f"boot {boot} to be judged",
        lambda: (found := board.update(identity))["state"] == "judging" and found["judgement"]["boots"] == boot,
    )


def test_an_update_is_installed_tried_and_kept(board: Machine, bundles: Bundles) -> None:
    before, bundle = board.slot("A").digest(), bundles.good()
    with Follower(board.api, EVENTS) as events:
        identity = board.begin(bundle, reboot="now")
        board.await_wish()
        events.await_event("update.state", id=identity, state="rebooting")
    told = [event["data"]["state"] for event in events.of("update.state")]
    assert told[-len(PASSED) :] == PASSED
    order = [(event["type"], event["data"]) for event in events.events]
    begun = next(n for n, (_, data) in enumerate(order) if data.get("state") == "installing")
    progress = [data for kind, data in order[begun:] if kind == "update.progress"]
    assert {data["id"] for data in progress} == {identity}
    assert all(one["percentage"] <= two["percentage"] for one, two in pairwise(progress)), progress
    assert any("rootfs.1" in data["message"] for data in progress)

    written = board.update(identity)
    assert (written["from_slot"], written["to_slot"]) == ("rootfs.0", "rootfs.1")
    assert written["bundle"]["version"] == "2.0"
    assert board.slot("B").holds(bundle.image)
    assert board.status()["primary"] == "rootfs.1"
    assert board.status()["booted"] == "rootfs.0"
    board.sick = {"B"}
    assert board.reboot().booted == "B"

    judged = board.await_state(identity, "judging")
    assert board.status()["update"]["id"] == identity
    assert not any(mark == "B good" for mark in board.rauc.bootloader.marks)
    assert "check:well" in judged["judgement"]["required"]
    with Follower(board.api, EVENTS) as events:
        board.heal()
        events.await_event("update.judgement", id=identity, waiting_on=[])
        events.await_event("update.state", id=identity, state="good")
    good = board.await_state(identity, "good")
    assert good["judgement"]["verdict"] == "good"
    assert good["error"] is None
    assert good["finished_at"]
    assert states(good)[-len(PASSED) - 2 :] == [*PASSED, "judging", "good"]
    assert board.rauc.bootloader.read()[1]["B"] == ATTEMPTS
    assert board.slot_status("rootfs.1")["boot_status"] == "good"
    assert board.status()["update"] is None
    assert board.slot("A").digest() == before


def test_the_next_update_goes_back_into_the_first_slot(board: Machine, bundles: Bundles) -> None:
    first = board.begin(bundles.good("2.0"), reboot="now")
    board.reboot().await_state(first, "good")
    before = board.slot("B").digest()
    second = board.begin(bundles.good("3.0"), reboot="now")
    board.reboot().await_state(second, "good")
    assert board.booted == "A"
    assert board.slot("A").holds(bundles.good("3.0").image)
    assert board.slot("B").digest() == before
    assert [(one["id"], one["bundle"]["version"], one["state"]) for one in board.history()] == [
        (second, "3.0", "good"),
        (first, "2.0", "good"),
    ]


def test_an_update_comes_from_a_server(board: Machine, bundles: Bundles) -> None:
    bundle = bundles.good()
    with BundleServer(bundle.path.parent) as server:
        identity = board.begin(server.url(bundle.path), reboot="now")
        board.await_wish()
    assert server.asked
    good = board.reboot().await_state(identity, "good")
    assert states(good)[0] == "downloading"
    assert good["bundle"]["sha256"] == bundle.sha256
    assert good["source"]["url"].endswith(bundle.path.name)
    assert board.slot("B").holds(bundle.image)
    assert board.downloads() == []


def test_a_system_that_is_not_well_is_left_again(board: Machine, bundles: Bundles) -> None:
    board.configure(deadline=1.0)
    board.restart_homed()
    before = board.slot("A").digest()
    identity = board.begin(bundles.good(), reboot="now")
    board.sick = {"B"}
    board.reboot()
    judged = board.await_state(identity, "judging", "rolling_back")
    assert board.booted == "B"
    board.await_wish()
    assert not board.rauc.bootloader.is_good("B")
    assert board.rauc.bootloader.primary == "A"
    judged = board.update(identity)
    assert judged["state"] == "rolling_back"
    assert judged["judgement"]["verdict"] == "bad"
    assert "check:well" in [one["probe"] for one in judged["judgement"]["waiting_on"]]

    assert board.reboot().booted == "A"
    left = board.await_state(identity, "rolled_back")
    assert "check:well" in left["error"]["message"]
    assert left["finished_at"]
    assert board.slot("A").digest() == before
    assert board.slot_status("rootfs.1")["boot_status"] == "bad"
    # Whether there is a journal is the machine's affair: boards have one.
    journal = board.api.get(f"/api/v1/update/history/{identity}/journal")
    assert (journal.status == 200) == left["has_journal"]

    # The same version again, now that it is well.
    board.sick = set()
    again = board.begin(bundles.good(), reboot="now")
    board.reboot().await_state(again, "good")
    assert board.booted == "B"
    assert [one["state"] for one in board.history()] == ["good", "rolled_back"]


def test_what_a_newer_homed_wrote_is_not_read_by_the_old_one(board: Machine, bundles: Bundles) -> None:
    board.api.create("old", image="none:1")
    board.configure(deadline=1.0)
    board.restart_homed()
    identity = board.begin(bundles.good(), reboot="now")
    board.sick = board.newer = {"B"}
    board.reboot()
    assert [one["name"] for one in board.api.get("/api/v1/services").json["services"]] == ["old"]
    board.api.create("new", image="none:2")
    board.reboot().await_state(identity, "rolled_back")
    assert [one["name"] for one in board.api.get("/api/v1/services").json["services"]] == ["old"]
    assert board.update(identity)["state_restored"]
    assert any((board.homed.state / "updates" / identity / "newer-state").iterdir())


def test_a_system_that_never_comes_up_is_given_up_by_the_bootloader(board: Machine, bundles: Bundles) -> None:
    identity = board.begin(bundles.good(), reboot="now")
    board.broken = {"B"}
    assert board.reboot().booted == "A"
    left = board.await_state(identity, "rolled_back")
    assert left["error"]["code"] == "UPDATE_FELL_BACK"
    assert board.status()["primary"] == "rootfs.0"
    assert board.slot_status("rootfs.1")["boot_status"] == "bad"
    board.broken = set()
    again = board.begin(bundles.good(), reboot="now")
    board.reboot().await_state(again, "good")


def test_power_cuts_while_it_is_judged_are_not_held_against_a_system(board: Machine, bundles: Bundles) -> None:
    identity = board.begin(bundles.good(), reboot="now")
    board.sick = {"B"}
    board.reboot()
    for boot in range(1, ATTEMPTS):
        await_judging(board, identity, boot)
        board.cut_power()
        assert board.boot().booted == "B"
    await_judging(board, identity, ATTEMPTS)
    board.cut_power()
    # The bootloader's attempts are used up: homed in the old system gives the new one another chance.
    board.sick = set()
    assert board.boot().booted == "A"
    assert board.reboot().booted == "B"
    good = board.await_state(identity, "good")
    assert good["judgement"]["boots"] == ATTEMPTS + 1
    assert board.rauc.bootloader.read()[1]["B"] == ATTEMPTS


def test_power_cuts_without_end_leave_the_old_system(board: Machine, bundles: Bundles) -> None:
    identity = board.begin(bundles.good(), reboot="now")
    board.sick = {"B"}
    board.reboot()
    boots = 0
    while board.booted == "B" or board.update(identity)["state"] != "rolled_back":
        if board.booted == "B":
            boots += 1
            assert boots <= 4 * ATTEMPTS
            await_judging(board, identity, boots)
            board.cut_power()
        else:
            until("a wish or an end", lambda: board.logind.asked or board.update(identity)["state"] == "rolled_back")
            if not board.logind.asked:
                break
            board.shut_down()
        board.boot()
    assert board.booted == "A"
    assert boots == 3 * ATTEMPTS
    assert board.update(identity)["error"]["code"] == "UPDATE_FELL_BACK"
    board.sick = set()
    again = board.begin(bundles.good(), reboot="now")
    board.reboot().await_state(again, "good")


def test_where_logind_is_away_systemd_reboots(machine: Machine, bundles: Bundles) -> None:
    machine.without_logind()
    machine.boot()
    identity = machine.begin(bundles.good(), reboot="now")
    machine.await_wish()
    assert machine.logind.asked[0].startswith("org.freedesktop.systemd1.Manager")
    machine.reboot().await_state(identity, "good")


def test_an_ordinary_boot_is_marked_good_once(board: Machine) -> None:
    marks = board.rauc.bootloader
    until("the mark to be noted", (board.homed.state / "updates" / "marked").exists)
    assert marks.marks == ["A good"]
    assert marks.read()[1]["A"] == ATTEMPTS
    board.homed.restart()
    board.homed.kill()
    board.homed.start()
    until("RAUC to be seen", lambda: board.status()["rauc"] == "available")
    stays("one mark", lambda: marks.marks == ["A good"], 1)
    board.shut_down()
    board.boot()
    until("the next mark", lambda: marks.marks == ["A good", "A good"])


def test_power_cuts_of_an_ordinary_system_do_not_leave_it(board: Machine) -> None:
    for _ in range(ATTEMPTS + 1):
        until("the mark", lambda: board.rauc.bootloader.read()[1]["A"] == ATTEMPTS)
        board.cut_power()
        assert board.boot().booted == "A"
    assert board.history() == []
