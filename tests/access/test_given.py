"""The admin key of `--api-key`, of the environment, and of a credential."""

import logging
from pathlib import Path

import pytest

from homed.access import given
from homed.errors import ConfigError
from tests.support.homed import Homed
from tests.support.wait import until

GOOD = "0123456789abcdef0123456789abcdef"


def test_the_flag_comes_before_the_variable_and_that_before_the_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert given.take(None, {}) == ""
    (tmp_path / "homed.api.key").write_text("none\n")
    assert given.take(None, {}) == "", "what the unit says if there is none"
    (tmp_path / "homed.api.key").write_text(f"{GOOD}-credential\n")
    assert given.take(None, {}) == f"{GOOD}-credential"
    environment = {"HOMED_API_KEY": f"{GOOD}-variable", "HOME": "/"}
    assert given.take(None, environment) == f"{GOOD}-variable"
    assert environment == {"HOME": "/"}, "what homed starts must not have it"
    assert given.take(f"{GOOD}-flag", {"HOMED_API_KEY": GOOD}) == f"{GOOD}-flag"


@pytest.mark.parametrize(
    "text", ["", "1234567", "with a space in it", "tab\tin-it-too", "é" * 8, "new\nline-in-it", "\udcff" * 9]
)
def test_what_cannot_be_a_key_is_refused_without_being_told(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        given.checked(text, "--api-key")
    assert not text or text not in raised.value.message


def test_a_short_key_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    assert given.checked("12345678", "HOMED_API_KEY") == "12345678"
    assert "less than 32 bytes" in caplog.text and "12345678" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        assert given.checked(GOOD, "HOMED_API_KEY") == GOOD
    assert caplog.text == ""


def test_it_opens_everything_counts_as_a_key_and_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMED_API_KEY", GOOD)
    homed = Homed(tmp_path, f"unix://{tmp_path}/no-engine.sock", {"api": {"host": "0.0.0.0"}})
    with homed:
        nobody, admin = homed.api, homed.api.with_key(GOOD)
        assert nobody.get("/api/v1/services").status == 401
        assert nobody.with_key(f"{GOOD}x").get("/api/v1/services").status == 401
        assert admin.get("/api/v1/keys").json["keys"][0]["id"] == "given"
        assert nobody.get("/api/v1/audit", headers={"Authorization": f"Bearer {GOOD}"}).status == 200
        refused = admin.delete("/api/v1/keys/given")
        assert (refused.status, refused.code) == (409, "KEY_GIVEN")
        token = admin.post("/api/v1/auth/token", {"scope": "read"}).json["token"]
        assert nobody.with_key(token).get("/api/v1/services").status == 200
        assert admin.put("/api/v1/config", {"orchestrator": {"name": "other"}}).status == 200
        homed.stop()
    assert GOOD not in homed.log
    for path in homed.state.rglob("*"):
        assert not path.is_file() or GOOD.encode() not in path.read_bytes(), path
    monkeypatch.setenv("HOMED_API_KEY", "1234567")
    homed.launch()
    assert homed.wait() == 78
    until("it to say why", lambda: "HOMED_API_KEY: a key must have at least 8 bytes" in homed.log)
