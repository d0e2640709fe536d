"""Logging in at a host: with what its record holds and nothing else of this machine; its key is checked by the pinned.

No agent, no configuration and no known_hosts of root take part, and nothing is forwarded.
"""

import asyncio
import functools
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Final

import asyncssh
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs
from asyncssh.public_key import get_public_key_algs

from homed.config.jobs import JobSsh
from homed.errors import HomedError, HostError
from homed.jobs.hosts import Host, Login
from homed.jobs.ssh import keys
from homed.jobs.ssh.algorithms import Mismatch, mismatch, spoken
from homed.jobs.ssh.keyformat import KeyFormatError
from homed.jobs.ssh.protocol import Guard

_UNANSWERED: Final = 3
_TRIES: Final = 4
_AGAIN: Final = 0.3


async def dial(host: Host, login: Login, config: JobSsh) -> tuple[asyncssh.SSHClientConnection, str]:
    """A connection, and the host's key as text.

    HostError: HOST_UNREACHABLE, HOST_REFUSED (it lets nobody in with that), HOST_KEY_CHANGED, HOST_ALGORITHMS (only
    outdated ones would do).
    """
    try:
        key = keys.load(login.private_key) if login.private_key else None
    except KeyFormatError as error:
        raise HostError(f"the private key kept for {host.name} {error}", code="HOST_REFUSED") from error
    for tries_left in range(_TRIES - 1, -1, -1):
        guard = _Guard(host, login.password)
        try:
            async with asyncio.timeout(config.connect_timeout):
                connection = await _connect(host, login, key, config, guard)
            break
        except asyncssh.ConnectionLost as error:
            # An sshd that has many at its door (MaxStartups) turns some away before it says who it is.
            if guard.met or not tries_left:
                raise _explained(host, config, guard, error) from error
            await asyncio.sleep(_AGAIN * (_TRIES - tries_left))
        except (OSError, asyncssh.Error, ValueError) as error:
            raise _explained(host, config, guard, error) from error
    return connection, guard.shown


async def _connect(
    host: Host, login: Login, key: asyncssh.SSHKey | None, config: JobSsh, guard: "_Guard"
) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        host.hostname,
        host.port,
        client_factory=lambda: guard,
        config=None,
        known_hosts=([], [], []),
        kex_algs=guard.algorithms.key_exchange,
        encryption_algs=guard.algorithms.encryption,
        mac_algs=guard.algorithms.mac,
        server_host_key_algs=_preferred(host, guard.algorithms.host_key),
        username=host.user,
        password=None,
        client_keys=[key] if key else None,
        preferred_auth=["publickey"] if key else ["password", "keyboard-interactive"],
        agent_path=None,
        agent_forwarding=False,
        x11_forwarding=False,
        gss_host=None,
        compression_algs=None,
        connect_timeout=None,
        login_timeout=config.connect_timeout,
        keepalive_interval=config.keepalive,
        keepalive_count_max=_UNANSWERED,
        utf8_decode_errors="replace",
    )


class _Guard(Guard):
    """Asked for each key that is shown. `met`: the host has shown one; `shown` is that key, `changed` another one's
    fingerprint.
    """

    def __init__(self, host: Host, password: str):
        super().__init__(spoken(_known(), legacy=host.legacy_algorithms))
        self._password = password
        self._pinned = {pin.key for pin in host.pins}
        self.met = False
        self.shown = ""
        self.changed = ""

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.met = True
        self.shown = _text(key)
        if self._pinned and self.shown not in self._pinned:
            self.changed = key.get_fingerprint()
        return not self.changed

    def password_auth_requested(self) -> str | None:
        """Told once, by the one way or the other: a host may count what failed."""
        password, self._password = self._password, ""
        return password or None

    def kbdint_auth_requested(self) -> str | None:
        return "" if self._password else None

    def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> Sequence[str] | None:
        """The first question whose answer is not shown is for the password, in whatever language."""
        if not prompts:
            return []
        password = self.password_auth_requested()
        return [password] if len(prompts) == 1 and not prompts[0][1] and password else None


def _text(key: asyncssh.SSHKey) -> str:
    """As OpenSSH writes it, without a comment."""
    return " ".join(key.export_public_key("openssh").decode().split()[:2])


def _preferred(host: Host, allowed: Sequence[str]) -> Sequence[str]:
    """The pinned key's first, for a host that has several; then any, so that another one is told by its fingerprint."""
    pinned = {name.decode() for pin in host.pins for name in asyncssh.import_public_key(pin.key).sig_algorithms}
    return sorted(allowed, key=lambda name: name not in pinned)


@functools.cache
def _known() -> Mapping[str, Sequence[str]]:
    """Return the algorithms available in the library by kind: some need additional libraries."""
    return {
        "key_exchange": [name.decode() for name in get_kex_algs()],
        "host_key": [name.decode() for name in get_public_key_algs()],
        "encryption": [name.decode() for name in get_encryption_algs()],
        "mac": [name.decode() for name in get_mac_algs()],
    }


def _explained(host: Host, config: JobSsh, guard: _Guard, error: Exception) -> HomedError:
    where = f"{host.hostname}:{host.port}"
    if guard.changed:
        known = ", ".join(pin.fingerprint for pin in host.pins)
        return HostError(
            f"{where} shows another key ({guard.changed}) than it is known by ({known}): unless that is meant, "
            "somebody may be between; remove the pinned key to trust the new one",
            code="HOST_KEY_CHANGED",
            details={"pinned": [pin.fingerprint for pin in host.pins], "shown": guard.changed},
        )
    if guard.offered and (missed := mismatch(guard.algorithms, guard.offered)) is not None:
        return _outdated(host, where, missed)
    match error:
        case TimeoutError():
            said = f"{where} did not answer within {config.connect_timeout:g} s"
        case asyncssh.PermissionDenied():
            what = "password" if host.auth_type == "password" else "key"
            return HostError(f"{where} does not let {host.user} in with this {what}", code="HOST_REFUSED")
        case socket.gaierror():
            said = f"the name {host.hostname} is not known ({error.strerror})"
        case OSError():
            # asyncio puts the address in the place of the system's own words.
            said = f"{where} cannot be reached: {os.strerror(error.errno) if error.errno else error}"
        case asyncssh.ConnectionLost():
            said = f"{where} ended the connection before anybody could log in"
        case _:
            said = f"{where} cannot be spoken with: {error}"
    return HostError(said)


def _outdated(host: Host, where: str, missed: Mismatch) -> HostError:
    offered = ", ".join(missed.offered) or "none"
    if missed.legacy and not host.legacy_algorithms:
        advice = (
            f"which is outdated and not used unless this host may (legacy_algorithms: true allows "
            f"{', '.join(missed.legacy)}); better, update its SSH server"
        )
    else:
        advice = "which homed does not speak: update its SSH server"
    return HostError(
        f"{where} offers no {missed.kind} algorithm but {offered}, {advice}",
        code="HOST_ALGORITHMS",
        details={"kind": missed.kind, "offered": list(missed.offered), "legacy": list(missed.legacy)},
    )
