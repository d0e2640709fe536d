"""What the units say, as systemd reads it; that they work is seen on boards (`tests/boards/test_homed.py`)."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from homed.backups.schedules import drop_ins
from homed.config.backups import BackupSchedule

UNITS = Path(__file__).resolve().parents[2] / "units"
HIGHEST_EXPOSURE = 4.0
BACKUP_EXPOSURES = {"homed-backup@.service": 1.0, "homed-backup-worker@.service": 4.5}
# What would hide the board's paths from the check of what a service mounts.
HIDING = ("PrivateTmp", "PrivateDevices", "InaccessiblePaths", "TemporaryFileSystem", "RootDirectory", "RootImage")
# What would make a folder a mount of its own, which a rename does not cross, or keep what is in it from being written.
HINDERING = (
    *HIDING, "ProtectSystem", "ProtectHome", "ReadWritePaths", "ReadOnlyPaths", "BindPaths", "StateDirectory",
    "ProtectKernelModules", "RestrictSUIDSGID", "DynamicUser", "User",
)  # fmt: skip


def test_exposure_is_low_enough() -> None:
    said = tool("systemd-analyze", "security", "--offline=yes", "--no-pager", str(UNITS / "homed.service"))

    found = re.search(r"Overall exposure level for homed\.service: ([0-9.]+)", said)
    assert found, said
    assert float(found[1]) <= HIGHEST_EXPOSURE


def test_systemd_knows_every_word_of_the_units(tmp_path: Path) -> None:
    service = (UNITS / "homed.service").read_text()
    present = tmp_path / "homed.service"
    present.write_text(service.replace("/usr/bin/homed", shutil.which("true") or "/bin/true"))
    (tmp_path / "homed.socket").write_text((UNITS / "homed.socket").read_text())

    assert tool("systemd-analyze", "verify", str(present), str(tmp_path / "homed.socket")) == ""


@pytest.mark.parametrize(("unit", "most"), BACKUP_EXPOSURES.items())
def test_what_backups_run_in_is_exposed_as_little_as_can_be(unit: str, most: float) -> None:
    said = tool("systemd-analyze", "security", "--offline=yes", "--no-pager", str(UNITS / unit))

    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found, said
    assert float(found[1]) <= most


def test_systemd_knows_every_word_of_the_units_of_backups(tmp_path: Path) -> None:
    made = []
    for unit in ("homed-backup@.timer", "homed-backup@.service", "homed-backup-worker@.service"):
        text = (UNITS / unit).read_text().replace("/usr/bin/homed", shutil.which("true") or "/bin/true")
        made.append(tmp_path / unit.replace("@", "@nightly"))
        made[-1].write_text(text)
    schedule = BackupSchedule(name="nightly", calendar="Mon..Fri *-*-* 02:30 UTC")
    for name, text in drop_ins([schedule]).items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)

    assert tool("systemd-analyze", "verify", *map(str, made)) == ""


def test_a_timer_of_backups_has_no_calendar_but_homeds() -> None:
    timer = settings("homed-backup@.timer")

    assert not [name for name in timer if name.startswith("On")]
    assert timer["Persistent"] == ["yes"]
    assert settings("homed.service")["ReadWritePaths"] == ["-/run/homed", "-/run/systemd/system"]


def test_nothing_hinders_the_worker_of_backups() -> None:
    worker = settings("homed-backup-worker@.service")

    assert not {*worker} & {*HINDERING}
    assert worker["Type"] == ["exec"]
    powers = " ".join(worker["CapabilityBoundingSet"]).split()
    assert {"CAP_CHOWN", "CAP_FOWNER", "CAP_FSETID", "CAP_SETFCAP", "CAP_MKNOD", "CAP_DAC_OVERRIDE"} < {*powers}


def test_nothing_hides_the_boards_paths() -> None:
    service = settings("homed.service")

    assert not {*service} & {*HIDING}
    assert service["ProtectHome"] == ["read-only"]
    assert service["ProtectSystem"] == ["strict"]


def test_a_board_is_never_given_up() -> None:
    service = settings("homed.service")

    assert service["Restart"] == ["always"]
    assert service["StartLimitIntervalSec"] == ["0"]
    assert not {"RestartPreventExitStatus", "Requires", "BindsTo", "Requisite"} & {*service}
    assert settings("homed.socket")["TriggerLimitIntervalSec"] == ["0"]


def test_no_name_of_systemd_homed_is_taken() -> None:
    for name in ("homed.service", "homed.socket"):
        assert not {"Alias", "BusName"} & {*settings(name)}


def test_every_file_is_told_of_and_installed() -> None:
    text = (UNITS / "README.md").read_text()
    commands = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S))

    for path in UNITS.rglob("*"):
        if path.is_file() and path.name != "README.md":
            name = str(path.relative_to(UNITS))
            assert f"| `{name}` |" in text
            assert f"units/{name}" in commands


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def tool(*command: str) -> str:
    """What a program of systemd's prints; the test is skipped where there is none of its age."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode and "unrecognized option" in done.stderr:
        pytest.skip(f"{command[0]} is too old")
    return done.stdout + done.stderr
