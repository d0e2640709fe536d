"""The certificate that is made at first start, and the owner's."""

import asyncio
import errno
import hashlib
import logging
import os
import socket
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from homed import atomic, clock
from homed.api import certificates
from homed.api.certificates import Names
from homed.config import Api, Tls
from homed.errors import ConfigError
from homed.host import addresses
from homed.host.addresses import Addresses


async def handshake(server: ssl.SSLContext, ca: Path, name: str) -> str | None:
    """The TLS version that a client gets who trusts only this certificate."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=server)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        client = ssl.create_default_context(cafile=str(ca))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
        version = writer.get_extra_info("ssl_object").version()
        await reader.read()
        writer.close()
        return str(version)


def test_without_tls_there_is_nothing(tmp_path: Path) -> None:
    assert certificates.context(Tls(), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", socket.gethostname()])
async def test_a_client_verifies_what_was_made(tmp_path: Path, name: str) -> None:
    server = certificates.context(Tls(enabled=True), tmp_path)
    assert server is not None
    assert await handshake(server, tmp_path / "tls" / "certificate.pem", name) in ("TLSv1.2", "TLSv1.3")


def test_it_is_made_once_and_kept(tmp_path: Path) -> None:
    certificates.context(Tls(enabled=True), tmp_path)
    made = (tmp_path / "tls" / "certificate.pem").read_bytes()
    certificates.context(Tls(enabled=True), tmp_path)
    assert (tmp_path / "tls" / "certificate.pem").read_bytes() == made


def test_its_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        certificates.context(Tls(enabled=True), tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "tls" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("lost", ["key.pem", "certificate.pem"])
def test_half_of_a_pair_is_made_anew(tmp_path: Path, lost: str) -> None:
    certificates.context(Tls(enabled=True), tmp_path)
    (tmp_path / "tls" / lost).unlink()
    assert certificates.context(Tls(enabled=True), tmp_path) is not None


def test_a_name_longer_than_a_certificates_own_field_is_no_hindrance(tmp_path: Path) -> None:
    certificates.make_self_signed(tmp_path / "c.pem", tmp_path / "k.pem", "b" * 63 + ".example.org")
    assert (tmp_path / "c.pem").exists()


async def test_the_owners_files_are_used(tmp_path: Path) -> None:
    certificates.make_self_signed(tmp_path / "own.crt", tmp_path / "own.key", "own.example")
    tls = Tls(enabled=True, certificate=str(tmp_path / "own.crt"), key=str(tmp_path / "own.key"))
    server = certificates.context(tls, tmp_path / "state")
    assert server is not None and not (tmp_path / "state").exists()
    assert await handshake(server, tmp_path / "own.crt", "own.example")


def test_credentials_that_systemd_gives_come_before_a_made_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "credentials"
    given.mkdir()
    certificates.make_self_signed(given / "homed.tls.crt", given / "homed.tls.key", "x")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    assert certificates.files(Tls(enabled=True), tmp_path) == (given / "homed.tls.crt", given / "homed.tls.key")


@pytest.mark.parametrize("broken", ["missing", "garbage", "another's key"])
def test_files_that_cannot_be_used_are_an_error_and_not_replaced(tmp_path: Path, broken: str) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificates.make_self_signed(certificate, key, "x")
    if broken == "missing":
        key.unlink()
    elif broken == "garbage":
        certificate.write_text("garbage")
    else:
        key.unlink()
        certificates.make_self_signed(tmp_path / "other.pem", key, "y")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError):
        certificates.context(Tls(enabled=True, certificate=str(certificate), key=str(key)), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def san(path: Path) -> set[str]:
    return set(certificates.describe(path).names)


async def test_it_names_the_board_and_its_addresses(tmp_path: Path) -> None:
    server = certificates.context(Tls(enabled=True), tmp_path, ["panel.example"])
    path = tmp_path / "tls" / "certificate.pem"
    short = socket.gethostname().partition(".")[0]
    expected = {socket.gethostname(), f"{short}.local", "localhost", "127.0.0.1", "::1", "panel.example"}
    assert san(path) >= expected | set(addresses.read().lasting)
    assert server is not None and await handshake(server, path, "panel.example")


def test_what_a_certificate_says_is_told_at_each_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    certificates.context(Tls(enabled=True), tmp_path)
    caplog.clear()
    certificates.context(Tls(enabled=True), tmp_path)
    path = tmp_path / "tls" / "certificate.pem"
    der = ssl.PEM_cert_to_DER_cert(path.read_text())
    pairs = hashlib.sha256(der).hexdigest().upper()
    shown = certificates.describe(path)
    assert shown.fingerprint.replace(":", "") == pairs and len(shown.fingerprint) == 95
    (line,) = [one.getMessage() for one in caplog.records]
    assert str(path) in line and shown.fingerprint in line and "localhost" in line
    said = subprocess.run(
        ["openssl", "x509", "-in", path, "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.fingerprint in said.stdout, "as openssl shows it, so that people can compare"


def _names(*more: str) -> Names:
    return certificates.board_names("board", [], Addresses(more, more))


def test_a_new_address_renews_it_with_its_key_and_keeps_the_names_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(addresses, "read", lambda: Addresses(["192.0.2.1"], ["192.0.2.1", "2001:db8::1"]))
    certificates.context(Tls(enabled=True), tmp_path)
    path, key = tmp_path / "tls" / "certificate.pem", tmp_path / "tls" / "key.pem"
    first, first_key = path.read_bytes(), key.read_bytes()
    monkeypatch.setattr(addresses, "read", lambda: Addresses(["192.0.2.1"], ["192.0.2.1", "2001:db8::2"]))
    certificates.context(Tls(enabled=True), tmp_path)
    assert path.read_bytes() == first, "a global IPv6 address may be another each day"
    monkeypatch.setattr(addresses, "read", lambda: Addresses(["192.0.2.7"], ["192.0.2.7"]))
    certificates.context(Tls(enabled=True), tmp_path)
    assert path.read_bytes() != first and key.read_bytes() == first_key
    assert {"192.0.2.1", "192.0.2.7", "2001:db8::1"} <= san(path)
    assert "it does not name 192.0.2.7" in caplog.text
    monkeypatch.setattr(addresses, "read", lambda: Addresses(["192.0.2.1"], ["192.0.2.1"]))
    renewed = path.read_bytes()
    certificates.context(Tls(enabled=True), tmp_path)
    assert path.read_bytes() == renewed, "back at the first one, nothing is missing"


def test_it_is_renewed_before_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tls" / "certificate.pem"
    certificates.context(Tls(enabled=True), tmp_path)
    told = certificates.describe(path)
    assert told.not_after - clock.now() > timedelta(days=3600)
    names = certificates.board_names("board", [], addresses.read())
    assert certificates.why_renew(told, names._replace(needed=told.names), told.not_after - timedelta(days=31)) == ""
    assert "it ends on " in certificates.why_renew(told, names, told.not_after - timedelta(days=29))
    late = told.not_after - timedelta(days=3)
    monkeypatch.setattr(clock, "now", lambda: late)
    certificates.context(Tls(enabled=True), tmp_path)
    assert certificates.describe(path).not_after > late + timedelta(days=3600)


def test_a_clock_that_is_far_behind_makes_none_that_is_over_when_it_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "now", lambda: datetime(1970, 1, 1, 0, 1, tzinfo=UTC))
    certificates.context(Tls(enabled=True), tmp_path)
    told = certificates.describe(tmp_path / "tls" / "certificate.pem")
    assert told.not_before.year == 1970 and told.not_after.year >= 2035


def test_one_that_somebody_else_signed_is_not_ours_to_renew(tmp_path: Path) -> None:
    certificates.context(Tls(enabled=True), tmp_path)
    told = certificates.describe(tmp_path / "tls" / "certificate.pem")
    assert certificates.why_renew(told, _names("192.0.2.99"), clock.now())
    assert certificates.why_renew(told._replace(self_signed=False), _names("192.0.2.99"), told.not_after) == ""


@pytest.mark.parametrize("name", ["certificate.pem", "key.pem"])
@pytest.mark.parametrize("damage", ["empty", "garbage", "folder", "cut"])
async def test_a_damaged_one_of_homeds_own_is_set_aside_and_made_anew(tmp_path: Path, name: str, damage: str) -> None:
    certificates.context(Tls(enabled=True), tmp_path)
    path = tmp_path / "tls" / name
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "garbage": b"\xff" * 300, "cut": content[: len(content) // 2]}[damage])
    server = certificates.context(Tls(enabled=True), tmp_path)
    assert server is not None
    assert await handshake(server, tmp_path / "tls" / "certificate.pem", "localhost")
    assert path.with_name(f"{name}.bad").exists()


def test_a_state_that_cannot_be_written_keeps_the_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    certificates.context(Tls(enabled=True), tmp_path)

    def full(path: Path, data: bytes, *, mode: int = 0o600) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(atomic, "write", full)
    monkeypatch.setattr(addresses, "read", lambda: Addresses(["192.0.2.7"], ["192.0.2.7"]))
    assert certificates.context(Tls(enabled=True), tmp_path) is not None
    assert "Cannot renew the self-signed certificate" in caplog.text
    with pytest.raises(ConfigError) as raised:
        certificates.context(Tls(enabled=True), tmp_path / "other")
    assert "cannot create" in raised.value.message


def test_a_host_name_that_no_certificate_can_hold_is_left_out() -> None:
    names = certificates.board_names("b\u00f6ard", ["a b", "x" * 300, "good.example"], Addresses([], []))
    assert list(names.needed) == ["localhost", "good.example", "127.0.0.1", "::1"]


async def test_a_certificate_that_was_renewed_by_others_is_served_within_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "CHECK_INTERVAL", 0.05)
    path, key = tmp_path / "own.crt", tmp_path / "own.key"
    certificates.make_self_signed(path, key, "first.example")
    api = Api(tls=Tls(enabled=True, certificate=str(path), key=str(key)))
    server = certificates.context(api.tls, tmp_path)
    assert server is not None
    task = asyncio.create_task(certificates.renew(server, lambda: api, tmp_path))
    path.write_text("garbage")
    await asyncio.sleep(0.2)
    assert not task.done(), "one that is broken for a while ends nothing"
    certificates.make_self_signed(path, key, "second.example")
    await asyncio.sleep(0.3)
    assert await handshake(server, path, "second.example")
    task.cancel()
