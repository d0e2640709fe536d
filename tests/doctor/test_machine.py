"""The machine beneath homed, judged from what it says of itself."""

from datetime import UTC, datetime

import pytest

from homed import config
from homed.bus.systemd1 import UnitFile
from homed.doctor import machine
from homed.doctor.findings import Finding, Level
from homed.doctor.machine import Disk

GIB, MIB = 1 << 30, 1 << 20


def level(found: list[Finding]) -> Level:
    (finding,) = found
    return finding.level


@pytest.mark.parametrize(
    ("disk", "expected"),
    [
        (Disk("/", 5 * GIB, 10 * GIB, 100, 200), Level.OK),
        (Disk("/", 3 * GIB, 1000 * GIB), Level.OK),  # a small part of much is enough
        (Disk("/", 200 * MIB, 2 * GIB), Level.WARNING),
        (Disk("/", 300 * MIB, 10 * GIB), Level.WARNING),
        (Disk("/", 20 * MIB, 2 * GIB), Level.BAD),
        (Disk("/", 5 * GIB, 10 * GIB, 1, 200), Level.BAD),
        (Disk("/", 5 * GIB, 10 * GIB, 5, 200), Level.WARNING),
        (Disk("/", 5 * GIB, 10 * GIB, read_only=True), Level.BAD),
        (Disk("/", 0, 0), Level.BAD),
    ],
)
def test_a_disk_is_judged_by_what_is_left(disk: Disk, expected: Level) -> None:
    assert level(machine.disk_findings([disk])) is expected


def test_the_units_limit_is_held_against_the_budgets() -> None:
    plain, large = config.check({}), config.check({"api": {"memory_budget": 200 * MIB}})
    assert level(machine.memory_findings(plain, 256 * MIB, 4 * GIB)) is Level.OK
    assert level(machine.memory_findings(plain, None, 4 * GIB)) is Level.OK
    (finding,) = machine.memory_findings(large, 256 * MIB, 4 * GIB)
    assert finding.level is Level.WARNING and "MemoryMax" in finding.text
    assert level(machine.memory_findings(plain, None, 256 * MIB)) is Level.WARNING


@pytest.mark.parametrize(
    ("year", "synchronized", "expected"),
    [(2026, True, Level.OK), (2026, None, Level.OK), (2026, False, Level.WARNING), (1970, True, Level.BAD)],
)
def test_a_clock_is_kept_and_not_before_this_homed(year: int, synchronized: bool | None, expected: Level) -> None:
    assert level(machine.clock_findings(datetime(year, 6, 1, tzinfo=UTC), synchronized)) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, Level.WARNING),
        ("{}", Level.WARNING),
        ('{"log-driver": "json-file", "log-opts": {"max-file": "3"}}', Level.WARNING),
        ('{"log-opts": {"max-size": "10m"}}', Level.OK),
        ('{"log-driver": "local"}', Level.OK),
        ('{"log-driver": "journald"}', Level.OK),
        ("{", Level.BAD),
        ("[]", Level.BAD),
        ('{"log-opts": 3}', Level.BAD),
    ],
)
def test_dockers_logs_must_be_bounded(text: str | None, expected: Level) -> None:
    assert level(machine.log_findings(text)) is expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, Level.BAD),
        ("restic 0.14.0 compiled with go1.19 on linux/arm64", Level.WARNING),
        ("restic 0.16.4 compiled with go1.21", Level.OK),
        ("restic 0.18.0 compiled with go1.24", Level.OK),
        ("something else", Level.WARNING),
    ],
)
def test_restic_is_judged_where_it_is_needed(said: str | None, expected: Level) -> None:
    assert machine.program_findings(config.check({}), said, rclone=False) == []
    wanted = config.check({"backups": {"repository": {"url": "/mnt/repository"}}})
    assert level(machine.program_findings(wanted, said, rclone=False)) is expected


def test_rclone_is_needed_by_targets_alone() -> None:
    wanted = config.check({"backups": {"targets": [{"name": "far", "url": "s3://bucket/x"}]}})
    assert level(machine.program_findings(wanted, None, rclone=False)) is Level.BAD
    assert machine.program_findings(wanted, None, rclone=True) == []


def test_what_fights_homed_is_named() -> None:
    texts = {
        "web.service": "[Service]\nExecStart=/usr/bin/docker compose up\n",
        "old.service": "[Service]\nExecStart=/usr/bin/docker-compose -f x up\n",
        "off.service": "[Service]\nExecStart=/usr/bin/docker run x\n",
        "second.service": "[Service]\nExecStart=/opt/other/bin/homed serve --port 81\n",
        "docker.service": "[Service]\nExecStart=/usr/bin/dockerd -H fd://\n",
        "homed.service": "[Service]\nExecStart=/usr/bin/homed serve\n",
    }
    units = [UnitFile(f"/lib/{name}", "disabled" if name == "off.service" else "enabled") for name in texts]
    found = machine.rival_findings(units, lambda path: texts[path[5:]], ["nginx:1", "containrrr/watchtower:latest"])
    assert {finding.about: finding.level for finding in found} == {
        "web.service": Level.WARNING,
        "old.service": Level.WARNING,
        "second.service": Level.BAD,
        "containrrr/watchtower:latest": Level.WARNING,
    }
    assert machine.rival_findings(None, lambda path: "", []) == []
