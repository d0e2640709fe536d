"""What goes wrong outside of homed: each time the status is true, what runs is untouched, and the next update works."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.boards.rig.process import RigError
from tests.rauc.bundles import Bundle, Bundles
from tests.rauc.machine import Machine
from tests.rauc.server import BundleServer
from tests.support.rauc import SLOT_SIZE
from tests.support.wait import until


@pytest.fixture
def intact(board: Machine) -> Callable[[], None]:
    """`intact()` holds that the booted system is as it was, starts next, and that the next update goes well."""
    assert board.booted is not None
    slot, name = board.slot(board.booted), board.booted
    before = slot.digest()

    def look() -> None:
        assert slot.digest() == before
        assert board.booted == name
        assert board.rauc.bootloader.primary == name
        status = board.status()
        assert status["booted"] == status["primary"] == slot.name
        assert status["update"] is None
        works(board)
        assert slot.digest() == before

    return look


def works(board: Machine) -> None:
    """An update, as far as to the reboot."""
    bundle = board.bundles.good("9.0")
    identity = board.begin(bundle)
    board.await_state(identity, "installed")
    other = "B" if board.booted == "A" else "A"
    assert board.slot(other).holds(bundle.image)
    assert board.rauc.bootloader.primary == other


def too_large(bundles: Bundles) -> Bundle:
    return bundles.too_large(SLOT_SIZE)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (Bundles.tampered, "UPDATE_SIGNATURE"),
        (Bundles.truncated, "UPDATE_BUNDLE"),
        (Bundles.nonsense, "UPDATE_BUNDLE"),
        (Bundles.of_a_stranger, "UPDATE_SIGNATURE"),
        (Bundles.of_an_expired_signer, "UPDATE_SIGNATURE"),
        (Bundles.incompatible, "UPDATE_INCOMPATIBLE"),
        (too_large, "UPDATE_TOO_LARGE"),
    ],
)
def test_a_bad_bundle_is_refused_before_anything_is_touched(
    board: Machine, bundles: Bundles, intact: Callable[[], None], make: Callable[[Bundles], Bundle], code: str
) -> None:
    marks, other = list(board.rauc.bootloader.marks), board.slot("B").digest()
    for attempt in (1, 2):
        refused = board.install(make(bundles))
        assert (refused.status, refused.code) == (422, code), refused
        assert len(board.history()) == attempt
        failed = board.history()[0]
        assert (failed["state"], failed["error"]["code"]) == ("failed", code)
        assert failed["error"]["message"] == refused.json["error"]["message"]
    assert "B bad" not in board.rauc.bootloader.marks[len(marks) :]
    assert board.slot("B").digest() == other
    intact()


def test_what_rauc_refuses_by_itself_is_told_in_its_words(
    board: Machine, bundles: Bundles, intact: Callable[[], None]
) -> None:
    for _ in range(2):
        failed = board.await_state(board.begin(bundles.unwilling()), "failed")
        assert failed["error"]["code"] == "UPDATE_REFUSED"
        assert "not on a Monday" in failed["error"]["rauc"]
        assert failed["interruptions"] == 0
    intact()


def test_a_bundle_that_goes_away_while_it_waits_ends_the_update(
    board: Machine, bundles: Bundles, intact: Callable[[], None], tmp_path: Path
) -> None:
    path = tmp_path / "update.raucb"
    shutil.copy(bundles.good().path, path)
    identity = board.begin(replace(bundles.good(), path=path), require_confirmation=True)
    board.await_waiting(identity, "confirmation")
    path.unlink()
    board.act("confirm")
    assert board.await_state(identity, "failed")["error"]["code"] in ("BUNDLE_NOT_FOUND", "UPDATE_BUNDLE")
    intact()


def test_a_bundle_that_is_exchanged_while_it_waits_is_not_installed(
    board: Machine, bundles: Bundles, intact: Callable[[], None], tmp_path: Path
) -> None:
    path = tmp_path / "update.raucb"
    shutil.copy(bundles.good().path, path)
    identity = board.begin(replace(bundles.good(), path=path), require_confirmation=True)
    board.await_waiting(identity, "confirmation")
    shutil.copy(bundles.too_large(SLOT_SIZE).path, path)
    board.act("confirm")
    board.await_state(identity, "failed")
    assert "B bad" not in board.rauc.bootloader.marks
    intact()


def test_an_older_version_is_refused_unless_it_is_meant(board: Machine, bundles: Bundles) -> None:
    first = board.begin(bundles.good("2.0"), reboot="now")
    board.reboot().await_state(first, "good")
    refused = board.install(bundles.good("1.0"))
    assert (refused.status, refused.code) == (422, "UPDATE_OLDER")
    assert board.rauc.bootloader.primary == "B"
    meant = board.begin(bundles.good("1.0"), allow_downgrade=True)
    board.await_state(meant, "installed")
    assert board.slot("A").holds(bundles.good("1.0").image)


def test_an_incompatible_bundle_goes_in_where_it_is_meant(board: Machine, bundles: Bundles) -> None:
    identity = board.begin(bundles.incompatible(), ignore_compatible=True)
    board.await_state(identity, "installed")


def test_another_bundle_than_was_meant_is_refused(board: Machine, bundles: Bundles, intact: Callable[[], None]) -> None:
    refused = board.install(bundles.good(), sha256="0" * 64)
    assert (refused.status, refused.code) == (422, "UPDATE_CHECKSUM")
    identity = board.begin(bundles.good(), sha256=bundles.good().sha256, require_confirmation=True)
    board.await_waiting(identity, "confirmation")
    board.act("cancel")
    board.await_state(identity, "cancelled")
    intact()


def test_a_download_that_does_not_fit_on_the_disk_is_refused(machine: Machine, bundles: Bundles) -> None:
    disk = machine.with_disk(2**20)
    machine.boot()
    before, bundle = machine.slot("A").digest(), bundles.good()
    with BundleServer(bundle.path.parent) as server:
        refused = machine.install(server.url(bundle.path))
        assert (refused.status, refused.code) == (507, "UPDATE_NO_SPACE")
        assert machine.history()[0]["error"]["code"] == "UPDATE_NO_SPACE"
        assert [path for path in machine.downloads() if path.stat().st_size > 4096] == []
        disk.resize(256 * 2**20)
        identity = machine.begin(server.url(bundle.path))
        machine.await_state(identity, "installed")
    assert machine.slot("A").digest() == before


def test_a_disk_that_fills_up_during_a_download_ends_it(machine: Machine, bundles: Bundles) -> None:
    disk = machine.with_disk(128 * 2**20)
    machine.boot()
    bundle = bundles.good()
    with BundleServer(bundle.path.parent) as server:
        server.stop_at = 500_000
        identity = machine.begin_download(server.url(bundle.path))
        with pytest.raises(RigError):
            disk.run("dd", "if=/dev/zero", f"of={disk.path}/other", "bs=1M", "status=none")
        server.stop_at = None
        failed = machine.await_state(identity, "failed")
        assert failed["error"]["code"] == "UPDATE_NO_SPACE"
        disk.run("rm", f"{disk.path}/other")
        again = machine.begin(server.url(bundle.path))
        machine.await_state(again, "installed")


def test_a_bundle_larger_than_allowed_is_not_fetched(machine: Machine, bundles: Bundles) -> None:
    machine.configure(max_bundle_size=1_000_000)
    machine.boot()
    bundle = bundles.good()
    with BundleServer(bundle.path.parent) as server:
        refused = machine.install(server.url(bundle.path))
        assert (refused.status, refused.code) == (422, "UPDATE_TOO_LARGE")


def test_a_server_that_dies_in_the_middle_and_comes_back_is_gone_on_with(board: Machine, bundles: Bundles) -> None:
    bundle = bundles.good()
    with BundleServer(bundle.path.parent) as server:
        server.stop_at = 600_000
        identity = board.begin_download(server.url(bundle.path))
        server.die()
        assert board.update(identity)["state"] == "downloading"
        server.stop_at = None
        server.start()
        board.await_state(identity, "installed")
        assert board.slot("B").holds(bundle.image)
        assert server.asked[-1][1] > 0, "it began anew"


@pytest.mark.parametrize("begun", ["at once", "in the middle"])
def test_a_bundle_that_is_not_there_is_not_asked_for_again_and_again(
    board: Machine, bundles: Bundles, intact: Callable[[], None], begun: str
) -> None:
    bundle = bundles.good()
    with BundleServer(bundle.path.parent) as server:
        if begun == "at once":
            answer = board.install(server.url(bundle.path) + ".missing")
            assert (answer.status, answer.code) == (502, "UPDATE_DOWNLOAD")
        else:
            server.stop_at = 600_000
            identity = board.begin_download(server.url(bundle.path))
            server.missing = True
            server.drop()
            board.await_state(identity, "failed")
    failed = board.history()[0]
    assert (failed["state"], failed["error"]["code"]) == ("failed", "UPDATE_DOWNLOAD")
    assert "404" in failed["error"]["message"]
    intact()


def test_a_second_update_does_not_disturb_the_first(board: Machine, bundles: Bundles) -> None:
    identity = board.begin(bundles.slow())
    until("half of it to be written", lambda: bundles.gate.reached)
    for _ in range(2):
        refused = board.install(bundles.good("3.0"))
        assert (refused.status, refused.code) == (409, "UPDATE_BUSY")
    with pytest.raises(RigError):
        board.rauc.command("install", bundles.good("3.0").path)
    # RAUC calls itself idle now, and is not.
    assert board.update(identity)["state"] == "installing"
    bundles.gate.open()
    board.await_state(identity, "installed")
    assert board.slot("B").holds(bundles.slow().image)
    assert len(board.history()) == 1
    assert board.update(identity)["interruptions"] == 0


def test_an_installation_by_hand_is_seen_and_left_alone(board: Machine, bundles: Bundles) -> None:
    installing = board.rauc.by_hand("install", bundles.slow().path)
    until("half of it to be written", lambda: bundles.gate.reached)
    until("homed to see it", lambda: board.status()["operation"] == "installing")
    refused = board.install(bundles.good("3.0"))
    assert (refused.status, refused.code) == (409, "UPDATE_BUSY")
    bundles.gate.open()
    assert installing.wait(timeout=30) == 0
    until("homed to see its end", lambda: board.status()["primary"] == "rootfs.1")
    assert board.slot_status("rootfs.1")["bundle"]["version"] == "2.0"
    assert board.status()["operation"] == "idle"
    works(board)


def test_rauc_that_is_killed_in_the_middle_begins_anew(board: Machine, bundles: Bundles) -> None:
    before = board.slot("A").digest()
    identity = board.begin(bundles.slow())
    until("half of it to be written", lambda: bundles.gate.reached)
    board.rauc.kill()
    until("homed to see it", lambda: board.status()["rauc"] == "unavailable")
    assert board.update(identity)["state"] == "installing"
    assert board.rauc.bootloader.primary == "A"
    bundles.gate.open()
    board.start_rauc()
    done = board.await_state(identity, "installed")
    assert done["interruptions"] == 1
    assert board.slot("B").holds(bundles.slow().image)
    assert board.slot("A").digest() == before


def test_rauc_that_is_killed_again_and_again_ends_the_update(
    board: Machine, bundles: Bundles, intact: Callable[[], None]
) -> None:
    identity = board.begin(bundles.slow())
    for _ in range(4):
        until("half of it to be written", lambda: bundles.gate.reached)
        bundles.gate.close()
        board.start_rauc()
    failed = board.await_state(identity, "failed")
    assert failed["error"]["code"] == "UPDATE_INTERRUPTED"
    assert board.slot_status("rootfs.1")["boot_status"] == "bad"
    intact()


def test_the_bus_dies_and_comes_back(board: Machine, bundles: Bundles) -> None:
    board.bus.kill()
    refused = board.install(bundles.good())
    assert (refused.status, refused.code) == (503, "RAUC_UNAVAILABLE")
    assert board.api.is_live()
    board.restart_bus()
    until("homed to see it", lambda: board.status()["rauc"] == "available")
    identity = board.begin(bundles.good(), reboot="now")
    board.reboot().await_state(identity, "good")


def test_the_bus_dies_in_the_middle_of_an_installation(board: Machine, bundles: Bundles) -> None:
    identity = board.begin(bundles.slow(), reboot="now")
    until("half of it to be written", lambda: bundles.gate.reached)
    bundles.gate.close()
    board.restart_bus()
    until("it to be begun anew", lambda: bundles.gate.reached)
    bundles.gate.open()
    board.reboot()
    good = board.await_state(identity, "good")
    assert good["interruptions"] == 1
    assert board.booted == "B"


def test_the_bus_dies_while_a_system_is_judged(board: Machine, bundles: Bundles) -> None:
    identity = board.begin(bundles.good(), reboot="now")
    board.sick = {"B"}
    board.reboot()
    board.await_state(identity, "judging")
    board.bus.kill()
    board.heal()
    board.restart_bus()
    board.await_state(identity, "good")
    assert board.rauc.bootloader.marks[-1] == "B good"


def test_a_power_cut_in_the_middle_of_an_installation(board: Machine, bundles: Bundles) -> None:
    before = board.slot("A").digest()
    identity = board.begin(bundles.slow(), reboot="now")
    until("half of it to be written", lambda: bundles.gate.reached)
    board.cut_power()
    assert board.boot().booted == "A"
    assert board.slot("A").digest() == before
    bundles.gate.open()
    board.reboot()
    assert board.booted == "B"
    good = board.await_state(identity, "good")
    assert good["interruptions"] == 1
    assert board.slot("B").holds(bundles.slow().image)


def test_a_board_without_rauc_does_everything_else(machine: Machine, bundles: Bundles) -> None:
    machine.with_rauc = False
    machine.boot()
    refusals = [machine.install(bundles.good())]
    refusals += [machine.act(verb) for verb in ("mark-good", "rollback")]
    refusals += [machine.act("mark-bad", {"slot": "other"})]
    refusals += [machine.act("inspect", {"bundle_path": str(bundles.good().path)})]
    assert [(one.status, one.code) for one in refusals] == [(503, "RAUC_UNAVAILABLE")] * len(refusals)
    status = machine.status()
    assert (status["rauc"], status["slots"], status["as_of"]) == ("unavailable", [], None)
    assert machine.history() == []
    assert machine.act("cancel").code == "NO_UPDATE"
    assert machine.api.is_live()
    assert machine.api.get("/api/v1/services").status == 200
    # It comes.
    machine.with_rauc = True
    machine.start_rauc()
    until("homed to see it", lambda: machine.status()["rauc"] == "available")
    works(machine)
