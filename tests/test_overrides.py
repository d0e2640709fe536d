"""What the environment says of settings: found by name, read as TOML or as text, refused by its name if it is wrong."""

import logging

import pytest

from homed import config
from homed.config import overrides
from homed.errors import ConfigError


def test_each_setting_has_its_variable() -> None:
    found = overrides.from_environment(
        {
            "HOMED_NAME": "porch",
            "HOMED_API_PORT": "81",
            "HOMED_API_REQUIRE_KEY": "true",
            "HOMED_API_LISTEN": '["127.0.0.1:82"]',
            "HOMED_API_LIMITS_TASKS_BURST": "3",
            "HOMED_LOG_LEVEL": "debug",
            "HOMED_MONITORING_METRICS_PORT": "9090",
            "PATH": "/bin",
        }
    )
    checked = config.check(found)
    assert (checked.name, checked.api.port, checked.api.require_key) == ("porch", 81, True)
    assert (checked.api.listen, checked.api.limits.tasks_burst) == (("127.0.0.1:82",), 3)
    assert (checked.log.level, checked.monitoring.metrics_port) == ("debug", 9090)


@pytest.mark.parametrize("text", ["81", "true", "2026-01-01", "a = b", "", "[", "'x'"])
def test_what_a_text_looks_like_does_not_matter(text: str) -> None:
    name = config.check(overrides.from_environment({"HOMED_NAME": text or "-"})).name
    assert name == {"": "-", "'x'": "x"}.get(text, text)


@pytest.mark.parametrize(
    ("name", "text"), [("HOMED_API_PORT", "99999"), ("HOMED_API_PORT", "x"), ("HOMED_API_HOST", "not a host!!")]
)
def test_a_wrong_value_is_refused_with_the_variables_name(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        overrides.from_environment({name: text})


def test_a_typing_mistake_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert overrides.from_environment({"HOMED_API_REQUIRE_KEYS": "true", "HOMED_JOB_ID": "1"}) == {}
    assert [record.args for record in caplog.records] == [("HOMED_API_REQUIRE_KEYS",)]
