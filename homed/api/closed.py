"""Loopback-only serving, for a board that must not admit remote clients."""

import socket
from collections.abc import Sequence
from typing import Final

import msgspec

from homed.api.listeners import is_loopback
from homed.config import Config, Tls, parse_address

# The settings that determine where and how homed listens.
SETTINGS: Final = (
    "api.host", "api.port", "api.listen", "api.tls", "monitoring.metrics_host", "monitoring.metrics_port",
)  # fmt: skip


def config(wanted: Config) -> Config:
    """Return the configuration reduced to loopback addresses and Unix sockets."""
    api = wanted.api
    own = tuple(one for one in api.listen if _is_own(parse_address(one)))
    host = api.host if is_loopback(api.host) else "127.0.0.1"
    return msgspec.structs.replace(
        wanted,
        api=msgspec.structs.replace(api, host=host, listen=own, tls=Tls()),
        monitoring=msgspec.structs.replace(wanted.monitoring, metrics_host="127.0.0.1"),
    )


def sockets(passed: Sequence[socket.socket]) -> list[socket.socket]:
    """Return the sockets passed by systemd that only the board itself can reach."""
    return [one for one in passed if one.family == socket.AF_UNIX or is_loopback(str(one.getsockname()[0]))]


def _is_own(address: tuple[str, int | None]) -> bool:
    host, port = address
    return port is None or is_loopback(host)
