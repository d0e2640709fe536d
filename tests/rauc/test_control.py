"""What a person says about updates: when to reboot, yes and no, marks, the way back, and what may be looked at."""

from datetime import datetime, timedelta

import pytest

from tests.rauc.bundles import Bundles
from tests.rauc.machine import Machine
from tests.rauc.server import BundleServer
from tests.support.rauc import COMPATIBLE, SLOT_SIZE
from tests.support.wait import stays, until


def installed(board: Machine, bundles: Bundles, version: str = "2.0") -> str:
    """An update to a version, carried through to its good end: its id."""
    identity = board.begin(bundles.good(version), reboot="now")
    board.reboot().await_state(identity, "good")
    return identity


def hours(first: int, last: int) -> str:
    """A window from so many hours from now to so many."""
    now = datetime.now().astimezone()
    return "-".join(f"{now + timedelta(hours=count):%H:%M}" for count in (first, last))


def test_the_status_tells_all_of_it(board: Machine) -> None:
    status = board.status()
    assert status["compatible"] == COMPATIBLE
    assert (status["booted"], status["primary"]) == ("rootfs.0", "rootfs.0")
    assert (status["rauc"], status["operation"], status["update"]) == ("available", "idle", None)
    assert status["as_of"].endswith("Z")
    assert [slot["name"] for slot in status["slots"]] == ["appfs.0", "appfs.1", "rootfs.0", "rootfs.1"]
    first, second = board.slot_status("rootfs.0"), board.slot_status("rootfs.1")
    assert (first["class"], first["type"], first["bootname"], first["state"]) == ("rootfs", "raw", "A", "booted")
    assert (second["bootname"], second["state"], second["installed"]) == ("B", "inactive", None)
    assert second["device"] == str(board.slot("B").device)
    assert second["description"] == "the second system"
    assert board.slot_status("appfs.1")["parent"] == "rootfs.1"


def test_by_itself_no_update_reboots_the_board(board: Machine, bundles: Bundles) -> None:
    identity = board.begin(bundles.good())
    board.await_state(identity, "installed")
    board.await_waiting(identity, "reboot")
    stays("no wish for a reboot", lambda: not board.logind.asked, 0.5)
    assert board.status()["primary"] == "rootfs.1"
    assert board.slot_status("rootfs.1")["installed"]["count"] == 1
    assert board.slot_status("rootfs.1")["bundle"]["version"] == "2.0"
    # Somebody reboots it by hand.
    board.shut_down()
    assert board.boot().booted == "B"
    board.await_state(identity, "good")


def test_in_a_window_the_board_reboots_once_it_is_open(board: Machine, bundles: Bundles) -> None:
    board.configure(window=hours(2, 3))
    board.restart_homed()
    identity = board.begin(bundles.good(), reboot="window")
    board.await_state(identity, "installed")
    board.await_waiting(identity, "window")
    stays("no wish for a reboot", lambda: not board.logind.asked, 0.5)
    board.configure(window=hours(-1, 1))
    board.homed.restart()
    board.reboot().await_state(identity, "good")


def test_a_window_without_a_time_is_refused(board: Machine, bundles: Bundles) -> None:
    answer = board.install(bundles.good(), reboot="window")
    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR"), answer
    assert board.history() == []


def test_an_update_waits_for_a_yes(board: Machine, bundles: Bundles) -> None:
    assert board.act("confirm").code == "NO_UPDATE"
    identity = board.begin(bundles.good(), require_confirmation=True)
    waiting = board.await_waiting(identity, "confirmation")
    assert waiting["state"] == "verified"
    assert waiting["bundle"]["version"] == "2.0"
    assert waiting["bundle"]["signers"][0]["subject"] == "CN=Release 1"
    stays("it waits", lambda: board.update(identity)["state"] == "verified", 0.5)
    assert board.act("confirm").status == 200
    board.await_state(identity, "installed")


def test_a_no_is_kept_too(board: Machine, bundles: Bundles) -> None:
    assert board.act("cancel").code == "NO_UPDATE"
    identity = board.begin(bundles.good(), require_confirmation=True)
    board.await_waiting(identity, "confirmation")
    assert board.act("cancel").status == 200
    assert board.await_state(identity, "cancelled")["error"]["code"] == "UPDATE_CANCELLED"
    assert board.rauc.bootloader.marks in ([], ["A good"])
    installed(board, bundles)


def test_a_download_is_cancelled(board: Machine, bundles: Bundles) -> None:
    bundle = bundles.good()
    with BundleServer(bundle.path.parent) as server:
        server.stop_at = 300_000
        identity = board.begin_download(server.url(bundle.path))
        assert board.update(identity)["state"] == "downloading"
        assert board.act("cancel").status == 200
        board.await_state(identity, "cancelled")
        server.stop_at = None
        assert board.downloads() == []
        again = board.begin(server.url(bundle.path))
        board.await_state(again, "installed")


def test_what_rauc_has_begun_to_write_is_not_cancelled(board: Machine, bundles: Bundles) -> None:
    identity = board.begin(bundles.slow())
    until("half of it to be written", lambda: bundles.gate.reached)
    refused = board.act("cancel")
    assert (refused.status, refused.code) == (409, "UPDATE_NOT_CANCELLABLE")
    assert board.update(identity)["state"] == "installing"
    bundles.gate.open()
    board.await_state(identity, "installed")
    assert board.act("cancel").code == "UPDATE_NOT_CANCELLABLE"


def test_the_status_is_told_while_rauc_is_busy(board: Machine, bundles: Bundles) -> None:
    identity = board.begin(bundles.slow())
    until("half of it to be written", lambda: bundles.gate.reached)
    status = board.status()
    assert status["operation"] == "installing"
    assert status["update"]["id"] == identity
    assert status["progress"]["percentage"] > 0
    assert len(status["slots"]) == 4
    for verb, body in (("mark-good", None), ("mark-bad", {"slot": "other"}), ("rollback", None)):
        refused = board.act(verb, body)
        assert (refused.status, refused.code) == (409, "UPDATE_BUSY"), (verb, refused)
    bundles.gate.open()
    board.await_state(identity, "installed")


def test_slots_are_marked_by_hand(board: Machine) -> None:
    until("the boot's own mark", lambda: board.rauc.bootloader.marks == ["A good"])
    assert board.act("mark-good").json["status"] == "success"
    assert board.rauc.bootloader.marks == ["A good", "A good"]
    assert board.act("mark-bad", {"slot": "other"}).status == 200
    assert board.slot_status("rootfs.1")["boot_status"] == "bad"
    assert not board.rauc.bootloader.is_good("B")
    # One good slot is left in any case.
    refused = board.act("mark-bad", {"slot": "booted"})
    assert (refused.status, refused.code) == (409, "UPDATE_NO_GOOD_SLOT")
    board.rauc.command("status", "mark-good", "other")
    assert board.act("mark-bad", {"slot": "rootfs.0"}).status == 200
    assert board.slot_status("rootfs.0")["boot_status"] == "bad"
    assert board.act("mark-good").status == 200
    assert board.slot_status("rootfs.0")["boot_status"] == "good"
    for wrong in ("rootfs.7", "appfs.1", ""):
        assert board.act("mark-bad", {"slot": wrong}).status == 400, wrong


def test_a_mark_that_is_not_kept_is_told_of(board: Machine) -> None:
    until("the boot's own mark", lambda: board.rauc.bootloader.marks == ["A good"])
    board.act("mark-bad", {"slot": "booted"})
    board.rauc.bootloader.deaf = True
    answer = board.act("mark-good")
    assert answer.status == 500, answer
    assert board.slot_status("rootfs.0")["boot_status"] == "bad"


@pytest.mark.parametrize(("verb", "end"), [("mark-good", "good"), ("mark-bad", "rolled_back")])
def test_a_person_may_end_the_judging(board: Machine, bundles: Bundles, verb: str, end: str) -> None:
    identity = board.begin(bundles.good(), reboot="now")
    board.sick = {"B"}
    board.reboot()
    board.await_state(identity, "judging")
    assert board.act(verb, {"slot": "booted"} if verb == "mark-bad" else None).status == 200
    if end == "rolled_back":
        assert board.reboot().booted == "A"
    board.await_state(identity, end)
    assert board.rauc.bootloader.is_good("B") == (end == "good")


def test_an_installed_system_is_withdrawn(board: Machine, bundles: Bundles) -> None:
    identity = board.begin(bundles.good())
    board.await_waiting(identity, "reboot")
    assert board.act("mark-bad", {"slot": "other"}).status == 200
    board.await_state(identity, "cancelled")
    assert board.rauc.bootloader.primary == "A"
    installed(board, bundles)


def test_the_other_system_is_gone_back_to(board: Machine, bundles: Bundles) -> None:
    installed(board, bundles)
    answer = board.act("rollback")
    assert answer.status == 200, answer
    assert board.reboot().booted == "A"
    back = board.history()[0]
    assert back["kind"] == "rollback"
    assert (back["from_slot"], back["to_slot"]) == ("rootfs.1", "rootfs.0")
    board.await_state(back["id"], "good")
    assert board.rauc.bootloader.primary == "A"
    # And forward again.
    assert board.act("rollback").status == 200
    assert board.reboot().booted == "B"
    board.await_state(board.history()[0]["id"], "good")


def test_a_bad_system_is_not_gone_back_to(board: Machine, bundles: Bundles) -> None:
    installed(board, bundles)
    assert board.act("mark-bad", {"slot": "other"}).status == 200
    refused = board.act("rollback")
    assert (refused.status, refused.code) == (409, "UPDATE_NO_GOOD_SLOT")
    assert board.rauc.bootloader.primary == "B"


def test_a_way_back_that_leads_nowhere_is_left(board: Machine, bundles: Bundles) -> None:
    installed(board, bundles)
    board.configure(deadline=1.0)
    board.restart_homed()
    board.sick = {"A"}
    assert board.act("rollback").status == 200
    assert board.reboot().booted == "A"
    assert board.reboot().booted == "B"
    assert board.await_state(board.history()[0]["id"], "rolled_back")["kind"] == "rollback"


def test_a_bundle_is_inspected(board: Machine, bundles: Bundles) -> None:
    good = bundles.good()
    found = board.act("inspect", {"bundle_path": str(good.path)})
    assert found.status == 200, found
    shown = found.json
    assert (shown["version"], shown["compatible"]) == ("2.0", COMPATIBLE)
    assert shown["format"] in ("plain", "")  # RAUC 1.8 does not tell
    assert shown["description"] == "the system 2.0"
    assert shown["size"] == good.path.stat().st_size
    assert shown["fits"] and shown["compatible_with_board"]
    (image,) = shown["images"]
    assert (image["slot_class"], image["filename"], image["size"]) == ("rootfs", "rootfs.img", len(good.image))
    assert (image["slot"], image["slot_size"], image["fits"]) == ("rootfs.1", SLOT_SIZE, True)
    assert image["device"] == str(board.slot("B").device)
    (signer,) = shown["signers"]
    assert (signer["subject"], signer["issuer"]) == ("CN=Release 1", "CN=Homed Test CA")
    assert board.history() == []

    large = board.act("inspect", {"bundle_path": str(bundles.too_large(SLOT_SIZE).path)})
    assert large.status == 200, large
    assert not large.json["fits"]
    other = board.act("inspect", {"bundle_path": str(bundles.incompatible().path)})
    assert other.status == 200, other
    assert not other.json["compatible_with_board"]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("tampered", "UPDATE_SIGNATURE"),
        ("of_a_stranger", "UPDATE_SIGNATURE"),
        ("of_an_expired_signer", "UPDATE_SIGNATURE"),
        ("nonsense", "UPDATE_BUNDLE"),
        ("truncated", "UPDATE_BUNDLE"),
    ],
)
def test_a_bundle_that_cannot_be_trusted_is_not_described(
    board: Machine, bundles: Bundles, kind: str, code: str
) -> None:
    answer = board.act("inspect", {"bundle_path": str(getattr(bundles, kind)().path)})
    assert (answer.status, answer.code) == (422, code)


def test_whether_a_bundle_is_newer_is_told(board: Machine, bundles: Bundles) -> None:
    def newer(version: str) -> bool | None:
        found = board.act("inspect", {"bundle_path": str(bundles.good(version).path)})
        return bool(found.json["newer"]) if found.json["newer"] is not None else None

    assert newer("1.0") is None
    installed(board, bundles)
    assert newer("1.0") is False
    assert newer("3.0") is True


def test_what_is_not_there_is_not_found(board: Machine, bundles: Bundles) -> None:
    missing = str(bundles.good().path) + ".missing"
    for verb in ("install", "inspect"):
        answer = board.act(verb, {"bundle_path": missing})
        assert (answer.status, answer.code) == (404, "BUNDLE_NOT_FOUND"), answer
    assert board.api.get("/api/v1/update/history/7").status == 404
    assert board.api.get("/api/v1/update/history/7/journal").status == 404
    identity = installed(board, bundles)
    assert board.api.get(f"/api/v1/update/history/{identity}/journal").status == 404


def test_an_install_names_one_source(board: Machine, bundles: Bundles) -> None:
    path = str(bundles.good().path)
    for body in ({}, {"bundle_path": path, "bundle_url": "http://127.0.0.1/x"}, {"bundle_url": "file:///etc/passwd"}):
        assert board.act("install", body).status == 400, body
    assert board.history() == []


def test_updates_are_for_those_who_may_operate(machine: Machine, bundles: Bundles) -> None:
    machine.homed.tables["api"]["require_key"] = True
    machine.homed.write_config()
    reader, _ = machine.homed.make_key("reader", "read")
    operator, _ = machine.homed.make_key("operator", "operate")
    nobody = machine.api
    read, operate = nobody.with_key(reader), nobody.with_key(operator)
    machine.api = operate
    machine.boot()
    body = {"bundle_path": str(bundles.good().path)}
    assert nobody.get("/api/v1/update/status").status == 401
    assert read.get("/api/v1/update/status").status == 200
    assert read.get("/api/v1/update/history").status == 200
    for verb in ("install", "inspect", "confirm", "cancel", "mark-good", "mark-bad", "rollback"):
        assert nobody.post(f"/api/v1/update/{verb}", body).status == 401, verb
        assert read.post(f"/api/v1/update/{verb}", body).status == 403, verb
    assert operate.post("/api/v1/update/install", body).status == 200
