"""Logging in at a host: with what its record holds and nothing else of this machine; its key is checked by the pinned.

No agent, no configuration and no known_hosts of root take part, and nothing is forwarded.
"""

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Final

import asyncssh

from homed.config.jobs import JobSsh
from homed.errors import HomedError, HostError
from homed.jobs.hosts import Host, Login

_UNANSWERED: Final = 3
_TRIES: Final = 4
_AGAIN: Final = 0.3


async def dial(host: Host, login: Login, config: JobSsh) -> tuple[asyncssh.SSHClientConnection, str]:
    """A connection, and the host's key as text.

    HostError: HOST_UNREACHABLE, HOST_REFUSED (it lets nobody in with that), HOST_KEY_CHANGED.
    """
    for tries_left in range(_TRIES - 1, -1, -1):
        guard = _Guard(host)
        try:
            async with asyncio.timeout(config.connect_timeout):
                connection = await _connect(host, login, config, guard)
            break
        except asyncssh.ConnectionLost as error:
            # An sshd that has many at its door (MaxStartups) turns some away before it says who it is.
            if guard.met or not tries_left:
                raise _explained(host, config, guard, error) from error
            await asyncio.sleep(_AGAIN * (_TRIES - tries_left))
        except (OSError, asyncssh.Error, ValueError) as error:
            raise _explained(host, config, guard, error) from error
    return connection, guard.shown


async def _connect(host: Host, login: Login, config: JobSsh, guard: "_Guard") -> asyncssh.SSHClientConnection:
    by_key = bool(login.private_key)
    return await asyncssh.connect(
        host.hostname,
        host.port,
        client_factory=lambda: guard,
        config=None,
        known_hosts=([], [], []),
        server_host_key_algs=_algorithms(host),
        username=host.user,
        password=None if by_key else login.password,
        client_keys=[asyncssh.import_private_key(login.private_key)] if by_key else None,
        preferred_auth=["publickey"] if by_key else ["password", "keyboard-interactive"],
        agent_path=None,
        agent_forwarding=False,
        x11_forwarding=False,
        gss_host=None,
        compression_algs=None,
        connect_timeout=None,
        login_timeout=config.connect_timeout,
        keepalive_interval=config.keepalive,
        keepalive_count_max=_UNANSWERED,
    )


class _Guard(asyncssh.SSHClient):
    """Asked for each key that is shown. `met`: the host has shown one; `shown` is that key, `changed` another one's
    fingerprint.
    """

    def __init__(self, host: Host):
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


def _text(key: asyncssh.SSHKey) -> str:
    """As OpenSSH writes it, without a comment."""
    return " ".join(key.export_public_key("openssh").decode().split()[:2])


def _algorithms(host: Host) -> Sequence[str]:
    """The pinned key's first, for a host that has several; then any, so that another one is told by its fingerprint."""
    pinned = [name.decode() for pin in host.pins for name in asyncssh.import_public_key(pin.key).sig_algorithms]
    return [*pinned, *(name for name in _ANY if name not in pinned)]


_ANY: Final = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)


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
