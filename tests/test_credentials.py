"""Credentials of systemd: given, not given, and set to the value that stands for neither."""

from pathlib import Path

import pytest

from homed import credentials


@pytest.mark.parametrize("content", [b"none", b"none\n"])
def test_the_value_that_the_unit_sets_counts_as_not_given(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "homed.tls.crt").write_bytes(content)
    assert credentials.find("homed.tls.crt", tmp_path) is None


def test_a_credential_is_found_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "homed.tls.crt"
    path.write_bytes(b"nonesuch")
    assert credentials.find("homed.tls.crt", tmp_path) == path
    assert credentials.find("homed.tls.key", tmp_path) is None
    assert credentials.find("homed.tls.crt", None) is None


def test_the_directory_is_the_one_that_systemd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert credentials.directory() == tmp_path
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert credentials.directory() is None
