"""Updates on a booted board: RAUC's own service, two slots, real reboots, systems that are well and that are not."""

from pathlib import Path

import pytest

from .homed import STATE, UNIT, Homed, build_wheel, names
from .rig.board import Board
from .rig.images import busybox_image, load_image
from .rig.install import LOCKS, dependencies
from .rig.network import Network
from .rig.process import command, until
from .rig.rack import Rack
from .slots import INTACT, Slots
from .updating import HOLD_AFTER, HOLD_BEFORE, SERVICE, WELL, Bundles, Updates, way

# The first test of a cold run builds the root and the layer of the dependencies as well.
pytestmark = pytest.mark.timeout(300)

RAUC = "de.pengutronix.rauc.Installer"

# As meta-rauc brings it.
MARKS_GOOD = """
[Service]
Type=oneshot
ExecStart=/usr/bin/rauc status mark-good
[Install]
WantedBy=multi-user.target
"""

# What is written of a state by a homed that this one does not know.
AS_A_NEWER_HOMED = f"""
import json, pathlib, sqlite3
sqlite3.connect("{STATE}/homed.db", isolation_level=None, timeout=20).execute("PRAGMA user_version = 1000")
stamp = pathlib.Path("{STATE}/stamp.json")
stamp.write_text(json.dumps({{**json.loads(stamp.read_text()), "homed": "1000.0", "schema": 1000}}))
"""
SCHEMA = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version').fetchone()[0])"

INSTALLATION = ["backing_up_state", "installing", "installed", "rebooting", "judging"]


@pytest.fixture(scope="module")
def board(module_boards: Rack, board_root: Path) -> Board:
    """A booted board with Docker Engine, an image, and what homed needs."""
    board = module_boards("board", layers=[dependencies(board_root, *LOCKS)])
    load_image(board, busybox_image(board_root))
    return board


@pytest.fixture(scope="module")
def delivered(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Updates:
    bundles = Bundles(tmp_path_factory.mktemp("updates"))
    slots = Slots(board, bundles.keyring)
    return Updates(Homed(board, build_wheel(tmp_path_factory.mktemp("wheel"))), slots, bundles)


@pytest.fixture
def updates(delivered: Updates) -> Updates:
    """The board as delivered, for tests that need no other configuration."""
    return delivered.deliver()


def test_new_system_in_which_all_is_well_stays(updates: Updates, board_network: Network) -> None:
    bundle = updates.bundles.make("2")
    updates.hold(HOLD_AFTER)
    with updates.served(bundle, board_network.host_address) as source:
        identity = updates.install(source, reboot="now")
        updates.wait_held(HOLD_AFTER)
    status = updates.status()
    assert (status["rauc"], status["operation"], status["booted"]) == ("available", "installing", "rootfs.0")
    assert status["progress"]["percentage"] >= 46
    assert (status["update"]["id"], status["update"]["state"]) == (identity, "installing")

    with updates.board.rebooting():
        updates.release(HOLD_AFTER)
    update = updates.wait_for(identity, "good")

    assert updates.boots() == ["A: version=1", "B: version=2"]
    assert way(update)[-6:] == [*INSTALLATION, "good"]
    assert update["bundle"]["version"] == "2"
    assert f"service:{SERVICE}" in update["judgement"]["required"]
    # The first start took one attempt of three; the mark gave it back.
    assert updates.slots.bootloader() == {"ORDER": "B A", "LEFT_A": "3", "LEFT_B": "3"}
    status = updates.status()
    assert (status["booted"], status["primary"], status["update"]) == ("rootfs.1", "rootfs.1", None)
    assert updates.slot("B")["boot_status"] == "good"
    assert updates.slot("B")["bundle"]["version"] == "2"
    assert updates.homed.status(SERVICE) == "running"
    assert updates.board.run("docker", "exec", SERVICE, "cat", "/system/release").stdout == "version=2\n"
    assert updates.board.failed_units() == ()


def test_new_system_in_which_a_service_does_not_come_up_is_left_again(delivered: Updates) -> None:
    updates = delivered.deliver(deadline=3)
    bundle = updates.bundles.make("2", breaks="service")
    before = updates.slots.digest("A")

    identity = updates.install(bundle, reboot="now")
    update = updates.wait_for(identity, "rolled_back")
    updates.wait_for_service()

    assert updates.boots() == ["A: version=1", "B: version=2 breaks=service", "A: version=1"]
    assert way(update)[-7:] == [*INSTALLATION, "rolling_back", "rolled_back"]
    assert [complaint["probe"] for complaint in update["judgement"]["waiting_on"]] == [f"service:{SERVICE}"]
    assert SERVICE in update["error"]["message"]
    assert updates.slots.bootloader()["LEFT_B"] == "0"
    assert updates.slots.digest("A") == before
    status = updates.status()
    assert (status["booted"], status["primary"], status["update"]) == ("rootfs.0", "rootfs.0", None)
    assert updates.slot("B")["boot_status"] == "bad"
    assert update["has_journal"]
    journal = updates.homed.call("GET", f"/api/v1/update/history/{identity}/journal").body
    assert "booting B: version=2 breaks=service" in journal
    assert "booting A" not in journal

    # The slot is bad, and takes the next update all the same.
    updates.wait_for(updates.install(updates.bundles.make("3")), "installed")
    assert updates.slots.written("B") == "version=3\n"
    assert updates.slots.bootloader() == {"ORDER": "B A", "LEFT_A": "3", "LEFT_B": "3"}


def test_rollback_goes_back_to_the_other_system(updates: Updates) -> None:
    updates.wait_for(updates.install(updates.bundles.make("2"), reboot="now"), "good")

    with updates.board.rebooting():
        answer = updates.post("rollback")
        assert answer.status == 200, answer
    update = updates.wait_for(answer.body["id"], "good")

    assert update["kind"] == "rollback"
    assert updates.boots() == ["A: version=1", "B: version=2", "A: version=1"]
    assert updates.slots.bootloader() == INTACT


def test_reboot_by_hand_into_the_new_system_is_judged_too(updates: Updates) -> None:
    identity = updates.install(updates.bundles.make("2"))
    updates.wait_for(identity, "installed")
    until("it to wait", lambda: updates.status()["update"]["waiting_for"] == "reboot", timeout=20)
    assert updates.slots.booted == "A"

    updates.board.reboot()
    update = updates.wait_for(identity, "good")

    assert f"service:{SERVICE}" in update["judgement"]["required"]
    assert updates.slots.bootloader()["LEFT_B"] == "3"


def test_rauc_killed_in_mid_installation_is_asked_anew(updates: Updates) -> None:
    before = updates.slots.digest("A")
    updates.hold(HOLD_BEFORE)
    identity = updates.install(updates.bundles.make("2"))
    updates.wait_held(HOLD_BEFORE)

    updates.kill("rauc.service")
    updates.wait_held(HOLD_BEFORE)
    assert updates.status()["update"]["state"] == "installing"
    assert updates.slots.bootloader()["ORDER"] == "A B"
    updates.release(HOLD_BEFORE)
    update = updates.wait_for(identity, "installed")

    assert update["interruptions"] == 1
    assert updates.status()["primary"] == "rootfs.1"
    assert updates.slots.written("B") == "version=2\n"
    assert updates.slots.digest("A") == before


@pytest.mark.parametrize("point", [HOLD_BEFORE, HOLD_AFTER])
def test_power_cut_in_mid_installation_leaves_the_booted_slot_alone(updates: Updates, point: str) -> None:
    before = updates.slots.digest("A")
    updates.hold(point)
    identity = updates.install(updates.bundles.make("2"))
    updates.wait_held(point)

    updates.board.cut_power()
    updates.board.start()
    update = updates.wait_for(identity, "installed")

    assert updates.boots() == ["A: version=1", "A: version=1"]
    assert update["interruptions"] == 1
    assert updates.status()["primary"] == "rootfs.1"
    assert updates.slots.written("B") == "version=2\n"
    assert updates.slots.digest("A") == before


def test_homed_killed_in_mid_judgement_goes_on_with_it(delivered: Updates) -> None:
    updates = delivered.deliver(gated=True)
    with updates.board.rebooting():
        identity = updates.install(updates.bundles.make("2"), reboot="now")
    begun = updates.wait_for(identity, "judging")["judgement"]
    pid = updates.homed.pid()

    updates.kill(UNIT)
    updates.homed.wait_for_successor(pid)
    assert updates.wait_for(identity, "judging")["judgement"]["deadline_at"] == begun["deadline_at"]
    updates.board.run("touch", WELL)
    updates.wait_for(identity, "good")

    assert updates.boots() == ["A: version=1", "B: version=2"]


def test_power_cuts_in_mid_judgement_are_no_verdict(delivered: Updates) -> None:
    """Not even when they use up the bootloader's attempts, and it goes back to the old system."""
    updates = delivered.deliver(gated=True)
    identity = updates.install(updates.bundles.make("2"), reboot="now")
    for boots in (1, 2, 3):
        updates.wait_for_judgement(identity, boots)
        updates.board.cut_power()
        updates.board.start(wait=False)
    updates.wait_for_judgement(identity, 4)
    updates.board.run("touch", WELL)
    updates.wait_for(identity, "good")

    assert [boot[0] for boot in updates.boots()] == ["A", "B", "B", "B", "A", "B"]
    assert updates.slots.bootloader()["LEFT_B"] == "3"


def test_new_system_in_which_homed_does_not_start_is_left_by_the_guard(updates: Updates) -> None:
    updates.hurry_guard()
    identity = updates.install(updates.bundles.make("2", breaks="homed"), reboot="now")
    update = updates.wait_for(identity, "rolled_back")
    updates.wait_for_service()

    assert updates.boots() == ["A: version=1", "B: version=2 breaks=homed", "A: version=1"]
    assert updates.slots.bootloader()["LEFT_B"] == "0"
    assert update["has_journal"]
    journal = updates.homed.call("GET", f"/api/v1/update/history/{identity}/journal").body
    assert "booting B: version=2 breaks=homed" in journal
    assert "nobody has judged the new system" in journal
    assert updates.status()["update"] is None


def test_new_system_in_which_rauc_does_not_start_is_left_by_the_bootloader(delivered: Updates) -> None:
    updates = delivered.deliver(deadline=1)
    identity = updates.install(updates.bundles.make("2", breaks="rauc"), reboot="now")
    update = updates.wait_for(identity, "rolled_back", timeout=150)
    updates.wait_for_service()

    assert [boot[0] for boot in updates.boots()] == ["A", "B", "B", "B", "A"]
    assert "RAUC" in update["error"]["message"]
    assert updates.status()["update"] is None


def test_state_that_a_newer_homed_wrote_is_set_aside_after_a_rollback(delivered: Updates) -> None:
    updates = delivered.deliver(gated=True)
    identity = updates.install(updates.bundles.make("2"), reboot="now")
    updates.wait_for(identity, "judging")
    updates.homed.create("newer", enabled=False)
    updates.board.run("python3", "-c", AS_A_NEWER_HOMED)

    answer = updates.post("mark-bad", slot="booted")
    assert answer.status == 200, answer
    update = updates.wait_for(identity, "rolled_back")
    updates.wait_for_service()

    assert update["state_restored"]
    assert names(updates.homed.call("GET", "/api/v1/services").body["services"]) == {SERVICE}
    aside = f"{STATE}/updates/{identity}/newer-state/homed.db"
    assert updates.board.run("python3", "-c", SCHEMA, aside).stdout == "1000\n"


def test_power_cut_frees_the_loop_devices_of_the_slots(updates: Updates) -> None:
    files = {updates.slots.image(name).stat().st_ino for name in "AB"}

    def behind_devices() -> int:
        listed = command("losetup", "--list", "--noheadings", "--output=BACK-INO")
        return len(files & {int(number) for number in listed.split()})

    assert behind_devices() == 2
    updates.board.cut_power()
    until("them to be free", lambda: behind_devices() == 0, timeout=20)


def test_only_root_may_call_rauc(updates: Updates) -> None:
    stranger = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--")
    for call in (
        ("org.freedesktop.DBus.Properties", "Get", "ss", RAUC, "Operation"),
        (RAUC, "Mark", "ss", "bad", "booted"),
        (RAUC, "InstallBundle", "sa{sv}", "/srv/2.raucb", "0"),
    ):
        asked = ("busctl", "call", "de.pengutronix.rauc", "/", *call)
        refused = updates.board.run(*stranger, *asked, check=False)
        assert refused.returncode != 0
        assert "denied" in refused.stderr.lower()

    assert updates.slots.rauc()["booted"] == "A"
    assert updates.slots.bootloader()["LEFT_A"] == "3"
    assert updates.status()["rauc"] == "available"


def test_doctor_is_content_with_the_board_until_a_unit_marks_good_unasked(updates: Updates) -> None:
    said = updates.board.run("homed", "doctor").stdout
    assert "bad" not in [line.split()[0] for line in said.splitlines()]

    unit = "/etc/systemd/system/rauc-mark-good.service"
    updates.board.write(unit, MARKS_GOOD)
    updates.board.run("systemctl", "enable", "rauc-mark-good.service")
    try:
        done = updates.board.run("homed", "doctor", check=False)
    finally:
        updates.board.run("systemctl", "disable", "rauc-mark-good.service")
        updates.board.run("rm", unit)

    assert done.returncode == 1
    assert [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("bad")] == [
        ["bad", "rauc-mark-good.service:"]
    ]


def test_restarted_bus_is_found_again(updates: Updates) -> None:
    updates.hold(HOLD_BEFORE)
    identity = updates.install(updates.bundles.make("2"), reboot="now")
    updates.wait_held(HOLD_BEFORE)

    updates.board.run("systemctl", "restart", "dbus.service")
    updates.release(HOLD_BEFORE)
    updates.wait_for(identity, "good", timeout=120)

    assert updates.boots() == ["A: version=1", "B: version=2"]
