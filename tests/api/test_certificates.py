"""The certificate that is made at first start, and the owner's."""

import asyncio
import os
import socket
import ssl
from pathlib import Path

import pytest

from homed.api import certificates
from homed.config import Tls
from homed.errors import ConfigError


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
        certificates.make_self_signed(tmp_path / "other.pem", key, "y")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError):
        certificates.context(Tls(enabled=True, certificate=str(certificate), key=str(key)), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
