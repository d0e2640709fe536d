"""Who can reach the board, and with what."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from homed import config
from homed.access.keys import Key
from homed.access.scopes import Scope
from homed.api.certificates import Certificate
from homed.doctor import access
from homed.doctor.findings import Finding, Level

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def key(scope: Scope = Scope.ADMIN, expires: datetime | None = None) -> Key:
    return Key("1" * 8, "op", scope, "0" * 64, NOW - 90 * DAY, expires)


def levels(found: list[Finding]) -> dict[str, Level]:
    return {finding.about: finding.level for finding in found}


def exposure(keys: list[Key] | None, **api: Any) -> dict[str, Level]:
    return levels(access.exposure_findings(config.check({"api": api}), keys, NOW))


def test_a_board_for_itself_needs_no_key() -> None:
    assert exposure([]) == {"exposure": Level.OK}
    assert exposure([], listen=["[::1]:81", "unix:/run/x.sock"]) == {"exposure": Level.OK}


@pytest.mark.parametrize("api", [{"host": "0.0.0.0"}, {"listen": ["192.0.2.1:81"]}, {"host": "board"}])
def test_a_board_for_others_needs_a_key_that_is_valid(api: dict[str, Any]) -> None:
    assert exposure([], **api) == {"exposure": Level.BAD}
    assert exposure([key(expires=NOW)], **api) == {"exposure": Level.BAD}
    assert exposure(None, **api) == {"exposure": Level.WARNING}
    assert exposure([key()], tls={"enabled": True}, **api) == {"exposure": Level.OK}
    assert exposure([key()], **api) == {"exposure": Level.OK, "api.tls": Level.WARNING}
    assert exposure([key(Scope.READ)], tls={"enabled": True}, **api)["keys"] is Level.WARNING


def test_the_metrics_port_counts_too() -> None:
    checked = config.check({"monitoring": {"metrics_host": "0.0.0.0", "metrics_port": 9091}})
    assert levels(access.exposure_findings(checked, [], NOW)) == {"exposure": Level.BAD}


def test_keys_that_end_are_named_in_time() -> None:
    keys = [key(), key(expires=NOW + 40 * DAY), key(expires=NOW + 10 * DAY), key(expires=NOW - DAY)]
    said = [finding.text for finding in access.key_findings(keys, NOW)]
    assert [text.split()[0] for text in said] == ["expires", "expired"]
    assert "homed key revoke 11111111" in said[1]


def certificate(**given: Any) -> Certificate:
    made = Certificate(Path("/c.pem"), ["board", "board.local"], NOW - DAY, NOW + 300 * DAY, "AA", False)
    return made._replace(**given)


@pytest.mark.parametrize(
    ("given", "level"),
    [
        ({}, Level.OK),
        ({"not_after": NOW}, Level.BAD),
        ({"not_before": NOW + DAY}, Level.BAD),
        ({"not_after": NOW + 20 * DAY}, Level.WARNING),
        ({"not_after": NOW + 20 * DAY, "self_signed": True}, Level.OK),  # homed renews its own
        ({"names": ["other"]}, Level.WARNING),
    ],
)
def test_a_certificate_is_judged_by_its_time_and_names(given: dict[str, Any], level: Level) -> None:
    (finding,) = access.certificate_findings(certificate(**given), ["board"], NOW)
    assert (finding.level, finding.about) == (level, "/c.pem")


def test_a_certificate_that_cannot_be_read_is_bad() -> None:
    (finding,) = access.certificate_findings(None, [], NOW, "/c.pem cannot be used: no such file")
    assert finding.level is Level.BAD and "/c.pem" in finding.text
    assert access.certificate_findings(None, [], NOW) == []
