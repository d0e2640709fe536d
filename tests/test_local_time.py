"""The board's zone, which somebody may change while homed runs."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from homed.local_time import LocalZone

ZONES = Path("/usr/share/zoneinfo")
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)


def offset(zone: LocalZone) -> timedelta | None:
    return NOON.astimezone(zone()).utcoffset()


def test_another_link_is_another_zone_at_once(tmp_path: Path) -> None:
    path = tmp_path / "localtime"
    path.symlink_to(ZONES / "Europe/Berlin")
    zone = LocalZone(path)
    assert offset(zone) == timedelta(hours=2)
    (tmp_path / "new").symlink_to(ZONES / "America/New_York")
    os.replace(tmp_path / "new", path)  # as timedatectl does it
    assert offset(zone) == timedelta(hours=-4)
    path.unlink()
    assert offset(zone) == timedelta(0), "no file: UTC"


def test_a_copy_may_be_written_over(tmp_path: Path) -> None:
    path = tmp_path / "localtime"
    path.write_bytes((ZONES / "Asia/Kolkata").read_bytes())
    zone = LocalZone(path)
    assert offset(zone) == timedelta(hours=5, minutes=30)
    path.write_bytes((ZONES / "Europe/Berlin").read_bytes())
    assert offset(zone) == timedelta(hours=2)


def test_what_is_no_zone_leaves_what_was_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "localtime"
    path.write_bytes((ZONES / "Asia/Kolkata").read_bytes())
    zone = LocalZone(path)
    zone()
    path.write_bytes(b"nonsense")
    assert offset(zone) == offset(zone) == timedelta(hours=5, minutes=30)
    assert caplog.text.count("Cannot read the time zone") == 1


def test_the_variable_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = LocalZone(tmp_path / "none")
    monkeypatch.setenv("TZ", ":Asia/Kolkata")
    assert offset(zone) == timedelta(hours=5, minutes=30)
    monkeypatch.setenv("TZ", "no/such zone")
    assert offset(zone) == timedelta(hours=5, minutes=30)
