"""Hosts that are old, that speak other languages, or that want to harm: with Debian's sshd, and asyncssh's server."""

import time
from collections.abc import Sequence
from pathlib import Path

import asyncssh
import msgspec
import pytest

from homed.errors import HostError
from homed.jobs.hosts import AuthType, Host, HostChange, NewHost
from homed.jobs.ssh.algorithms import LEGACY, MODERN, Algorithms, mismatch, spoken
from homed.jobs.ssh.check import Checks, Status
from homed.jobs.ssh.protocol import _Exchange
from tests.support.ssh_server import AnybodyMayLogIn, by_sh
from tests.support.ssh_world import SshWorld, ssh_world
from tests.support.sshd import sshd

_GERMAN = "Ger\udce4t"
_LATIN = "Zugriff nur für Befugte, ß\n".encode("latin-1")


async def _works(world: SshWorld, host: Host) -> None:
    result, run = await world.run(host, "echo in")
    assert (result.good, run.stdout) == (True, "in\n")


async def test_a_banner_in_any_encoding_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "banner").write_bytes(_LATIN * 20 + b"\xff\xfe\0" + b"\n")
    with sshd(tmp_path, lines=f"Banner {tmp_path}/banner") as server:
        async with ssh_world(tmp_path) as world:
            host = await world.by_key(server)
            await _works(world, host)
            assert (await Checks(world.hosts, world.connections).check(host.id)).status is Status.CONNECTED


async def test_a_version_and_a_question_in_any_encoding_are_no_obstacle(tmp_path: Path) -> None:
    """The bytes of the version take part in the key exchange: if they were changed, it would fail."""

    class Asking(asyncssh.SSHServer):
        def get_kbdint_challenge(
            self, username: str, lang: str, submethods: str
        ) -> tuple[str, str, str, list[tuple[str, bool]]]:
            return "Gr\udcfc\udcdfe", "\udcff", "en", [("Contrase\udcf1a: ", False)]

        def kbdint_auth_supported(self) -> bool:
            return True

        def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> bool:
            return list(responses) == ["secret"]

    async with _server(tmp_path, Asking, server_version=_GERMAN) as listener, ssh_world(tmp_path) as world:
        await _works(world, await _host(world, listener.get_port()))


def _server(folder: Path, kind: type[asyncssh.SSHServer] = AnybodyMayLogIn, **more: object):  # type: ignore[no-untyped-def]
    key = asyncssh.generate_private_key("ssh-ed25519")
    return asyncssh.listen(
        "127.0.0.1", 0, server_factory=kind, server_host_keys=[key], process_factory=by_sh, encoding=None, **more
    )


async def _host(world: SshWorld, port: int, **more: object) -> Host:
    return await world.hosts.create(
        NewHost(
            name="foreign", hostname="127.0.0.1", port=port, user="me", auth_type=AuthType.PASSWORD, password="secret",
            **more,  # type: ignore[arg-type]
        )
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _bytes_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have asyncssh's server send bytes that are no UTF-8, written as halves of characters."""
    check = asyncssh.connection._validate_version
    version = _Version(_GERMAN.encode("utf-8", "surrogateescape"))
    monkeypatch.setattr("asyncssh.connection._validate_version", lambda one: version if one == _GERMAN else check(one))
    for module in ("asyncssh.auth", "asyncssh.connection"):
        monkeypatch.setattr(f"{module}.String", _string)


class _Version(bytes):
    """Lets the server send what it would refuse to."""

    def __radd__(self, other: bytes) -> "_Version":
        return _Version(bytes(other) + bytes(self))

    def decode(self, encoding: str = "", errors: str = "") -> str:
        return super().decode("latin-1")


def _string(value: bytes | str) -> bytes:
    data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
    return len(data).to_bytes(4, "big") + data


_OLD = [
    ("host key", "HostKeyAlgorithms ssh-rsa", "ssh-rsa"),
    ("key exchange", "KexAlgorithms diffie-hellman-group1-sha1", "diffie-hellman-group1-sha1"),
    pytest.param("cipher", "Ciphers aes128-cbc,3des-cbc", "aes128-cbc, 3des-cbc", marks=pytest.mark.thorough),
    pytest.param("MAC", "Ciphers aes128-ctr\nMACs hmac-md5", "hmac-md5", marks=pytest.mark.thorough),
]


@pytest.mark.parametrize(("kind", "lines", "named"), _OLD)
async def test_an_outdated_algorithm_is_named_and_can_be_allowed_for_that_host(
    tmp_path: Path, kind: str, lines: str, named: str
) -> None:
    asyncssh.generate_private_key("ssh-rsa").write_private_key(tmp_path / "rsa")
    (tmp_path / "rsa").chmod(0o600)
    with sshd(tmp_path, lines=f"HostKey {tmp_path}/rsa\n{lines}") as server:
        async with ssh_world(tmp_path) as world:
            host = await world.by_key(server)
            with pytest.raises(HostError) as caught:
                await world.run(host, "true")
            assert caught.value.code == "HOST_ALGORITHMS"
            assert f"no {kind} algorithm but {named}" in caught.value.message
            assert "legacy_algorithms" in caught.value.message
            checked = await Checks(world.hosts, world.connections).check(host.id)
            assert (checked.status, checked.code) == (Status.DISCONNECTED, "HOST_ALGORITHMS")
            await world.hosts.update(host.id, HostChange(legacy_algorithms=True))
            await _works(world, host)
            await world.hosts.update(host.id, HostChange(legacy_algorithms=False))
            with pytest.raises(HostError):
                await world.run(host, "true")


async def test_a_group_that_the_host_chooses_costs_milliseconds(tmp_path: Path) -> None:
    """OpenSSL would prove that it is made of primes: 1.5 s at 2,048 bits, 22 s at 4,096, with the loop stopped."""
    with sshd(tmp_path, lines="KexAlgorithms diffie-hellman-group-exchange-sha256") as server:
        async with ssh_world(tmp_path) as world:
            host = await world.by_key(server)
            await Checks(world.hosts, world.connections).check(host.id)
            world.connections.drop(host.id)
            began = time.thread_time()
            await _works(world, host)
            assert time.thread_time() - began < 0.25


@pytest.mark.parametrize(
    ("generator", "prime"),
    [(2, 1 << 8192 | 1), (2, 1 << 1000 | 1), (2, 1 << 2048), (1, 1 << 2048 | 1), (2, 0), (2, -7)],
)
def test_no_group_of_another_size_is_computed_with(generator: int, prime: int) -> None:
    with pytest.raises(asyncssh.ProtocolError):
        _Exchange(generator, prime)


def test_a_shared_secret_is_never_a_number_that_anybody_knows() -> None:
    prime = (1 << 2048) - 1
    exchange = _Exchange(2, prime)
    for theirs in (0, 1, prime - 1, prime, prime + 1, -1):
        with pytest.raises(asyncssh.ProtocolError):
            exchange.get_shared(theirs)


async def test_a_key_that_an_older_homed_kept_is_judged_before_it_is_used(tmp_path: Path) -> None:
    async with _server(tmp_path) as listener, ssh_world(tmp_path) as world:
        host = await _host(world, listener.get_port())
        secret = world.vault.seal(
            "-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----", f"hosts/{host.id}"
        )
        kept = world.hosts._entries[host.id]
        world.hosts._entries[host.id] = kept._replace(
            host=msgspec.structs.replace(kept.host, secret=secret, auth_type=AuthType.KEY)
        )
        with pytest.raises(HostError, match="DSA") as caught:
            await world.run(host, "true")
        assert caught.value.code == "HOST_REFUSED"


def test_what_is_offered_is_compared_kind_by_kind() -> None:
    ours = spoken(legacy=False)
    assert mismatch(ours, MODERN) is None
    assert mismatch(spoken(legacy=True), LEGACY) is None
    found = mismatch(ours, Algorithms(MODERN.key_exchange, ("x" * 500, "ssh-rsa"), MODERN.encryption, MODERN.mac))
    assert found is not None
    assert (found.kind, found.offered, found.legacy) == ("host key", ["x" * 64, "ssh-rsa"], ["ssh-rsa"])
    gcm = Algorithms(MODERN.key_exchange, MODERN.host_key, ("aes256-gcm@openssh.com",), ("hmac-md5",))
    assert mismatch(ours, gcm) is None
    assert spoken(
        {"key_exchange": [], "host_key": ["ssh-rsa"], "encryption": [], "mac": []}, legacy=True
    ) == Algorithms((), ("ssh-rsa",), (), ())
