"""What the doctor finds, from what it was told."""

from pathlib import Path

import pytest

from homed.bus.rauc import Properties
from homed.bus.systemd1 import UnitFile
from homed.config import Updates
from homed.doctor import Finding, Level
from homed.doctor import updates as doctor
from homed.doctor.updates import Board
from homed.updates import slots

_ROOT = Path(__file__).resolve().parent.parent.parent
_GUARD = UnitFile(f"/usr/lib/systemd/system/{doctor.GUARD}", "enabled")
_MARKING = "[Service]\nExecStart=/usr/bin/rauc status mark-good\n"
_TIMER = (_ROOT / "units" / doctor.GUARD).read_text(encoding="utf-8")


def board(boot_slot: str, **status: str) -> Board:
    """Two slots, A and B, with these boot statuses."""
    found = [
        (f"rootfs.{number}", {"class": "rootfs", "bootname": name, "state": "inactive", "boot-status": status[name]})
        for number, name in enumerate(sorted(status))
    ]
    return Board((), Properties("idle", "", "demo", "", boot_slot, (0, "")), slots.slots(found), "")


def levels(findings: list[Finding]) -> dict[str, Level]:
    return {finding.about: finding.level for finding in findings}


def units(*files: UnitFile, **texts: str) -> dict[str, Level]:
    """The findings for these unit files; `texts` by the unit's name, with _ for - and no ending."""
    by_path = {unit.path: texts.get(unit.name.partition(".")[0].replace("-", "_"), "") for unit in files}
    by_path[_GUARD.path] = _TIMER
    return levels(doctor.unit_findings(files, Updates(), lambda path: by_path.get(path, "")))


def test_a_board_without_rauc_is_bad() -> None:
    (finding,) = doctor.rauc_findings(Board(None, None, (), "the system bus cannot be reached"))
    assert finding.level is Level.BAD
    assert "the system bus cannot be reached" in finding.text


def test_a_board_that_nobody_means_to_update_lacks_rauc_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    without = Board((), None, (), "RAUC cannot be asked")
    assert levels(doctor.findings(without, Updates(), tmp_path)) == {"rauc": Level.WARNING}
    # With the guard, a setting or RAUC itself somebody means to, and every lack counts.
    assert levels(doctor.findings(without._replace(units=(_GUARD,)), Updates(), tmp_path))["rauc"] is Level.BAD
    found = levels(doctor.findings(without, Updates(reboot="window", window="02:00-04:00"), tmp_path))
    assert found["rauc"] is found[doctor.GUARD] is Level.BAD
    (tmp_path / "rauc").touch(mode=0o755)
    assert levels(doctor.findings(without, Updates(), tmp_path))["rauc"] is Level.BAD


def test_a_good_slot_is_well_and_a_bad_other_one_is_no_way_back() -> None:
    found = levels(doctor.rauc_findings(board("A", A="good", B="bad")))
    assert found == {"rauc": Level.OK, "rootfs.0": Level.OK, "rootfs.1": Level.WARNING}


def test_a_booted_slot_that_is_bad_is_bad() -> None:
    assert levels(doctor.rauc_findings(board("B", A="good", B="bad")))["rootfs.1"] is Level.BAD


def test_a_board_that_does_not_know_its_slot_is_bad() -> None:
    assert levels(doctor.rauc_findings(board("_external_", A="good", B="good")))["slots"] is Level.BAD


def test_a_unit_that_marks_good_unasked_is_found() -> None:
    rival = UnitFile("/usr/lib/systemd/system/rauc-mark-good.service", "enabled")
    assert units(rival, _GUARD, rauc_mark_good=_MARKING)["rauc-mark-good.service"] is Level.BAD


@pytest.mark.parametrize("state", ["disabled", "masked"])
def test_one_that_is_not_started_is_none(state: str) -> None:
    rival = UnitFile("/usr/lib/systemd/system/rauc-mark-good.service", state)
    assert units(rival, _GUARD, rauc_mark_good=_MARKING) == {"units": Level.OK, doctor.GUARD: Level.OK}


def test_one_under_another_name_is_found_too() -> None:
    call = "ExecStart=busctl call de.pengutronix.rauc / de.pengutronix.rauc.Installer Mark ss good booted\n"
    assert (
        units(UnitFile("/etc/systemd/system/ours.service", "enabled"), _GUARD, ours=call)["ours.service"] is Level.BAD
    )


def test_a_missing_guard_is_bad() -> None:
    assert units()[doctor.GUARD] is Level.BAD
    assert units(_GUARD._replace(state="disabled"))[doctor.GUARD] is Level.BAD


def test_the_guard_as_it_is_shipped_comes_after_the_judging_by_default() -> None:
    assert doctor.guard_finding(_TIMER, Updates()).level is Level.OK


def test_a_guard_that_comes_before_the_judging_is_over_is_bad() -> None:
    assert doctor.guard_finding("[Timer]\nOnBootSec=10min\n", Updates(deadline=600, soak=60)).level is Level.BAD


@pytest.mark.parametrize(
    ("text", "expected"),
    [("20min", 1200), ("1h 30 min", 5400), ("90", 90), ("1.5h", 5400), ("soon", None), ("", None), ("5 parsecs", None)],
)
def test_spans_are_read_as_systemd_writes_them(text: str, expected: float | None) -> None:
    assert doctor.seconds(text) == expected


def test_the_open_policy_is_bad_and_the_one_that_is_shipped_is_not(tmp_path: Path) -> None:
    opened = tmp_path / "de.pengutronix.rauc.conf"
    opened.write_text(
        '<busconfig><policy user="root"><allow own="de.pengutronix.rauc"/></policy>'
        '<policy context="default"><allow send_destination="de.pengutronix.rauc"/></policy></busconfig>'
    )
    assert [finding.level for finding in doctor.policy_findings([opened])] == [Level.BAD]
    shipped = _ROOT / "rauc" / "de.pengutronix.rauc.conf"
    assert [finding.level for finding in doctor.policy_findings([shipped])] == [Level.OK]


def test_a_file_that_is_no_policy_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "broken.conf").write_text("<busconfig>")
    assert levels(doctor.policy_findings([tmp_path / "broken.conf", tmp_path / "none.conf"])) == {"policy": Level.OK}


def test_a_journal_that_does_not_last_is_told_of(tmp_path: Path) -> None:
    assert levels(doctor.tool_findings(tmp_path))["journal"] is Level.WARNING
    (tmp_path / "var/log/journal").mkdir(parents=True)
    assert "journal" not in levels(doctor.tool_findings(tmp_path))


def test_a_span_set_for_one_board_counts() -> None:
    texts = {
        _GUARD.path: _TIMER,
        f"/etc/systemd/system/{doctor.GUARD}.d/override.conf": "[Timer]\nOnBootSec=\nOnBootSec=5min",
    }
    found = levels(doctor.unit_findings([_GUARD], Updates(), lambda path: texts.get(path, "")))
    assert found[doctor.GUARD] is Level.BAD
