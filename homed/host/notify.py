"""What systemd is told, and what it handed over: sd_notify(3), the watchdog, socket activation."""

import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 0.1
# As sd_booted(3) tells it.
_RUNS_HERE = Path("/run/systemd/system")


class ListenSocket(msgspec.Struct, frozen=True):
    """A socket that systemd listens on for homed.

    `name` is the unit's FileDescriptorName=, by default the unit's own name; `unknown` if systemd gave none.
    """

    name: str
    socket: socket.socket


class Notifier:
    """Speaks sd_notify's protocol itself: one datagram needs no library, and so none can be missing.

    Each call says whether systemd was told: False outside systemd, and where its socket took no message.
    """

    def __init__(self, environment: Mapping[str, str] | None = None):
        self._environment = os.environ if environment is None else environment
        self._address = _address(self._environment.get("NOTIFY_SOCKET", ""))

    def under_systemd(self) -> bool:
        """Whether this process is a unit of the systemd that runs here."""
        return bool(self._address) and _RUNS_HERE.is_dir()

    def ready(self, status: str) -> bool:
        """Started, or done with reloading."""
        return self._send("READY=1", f"STATUS={_line(status)}")

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(f"STATUS={_line(text)}")

    def reloading(self) -> bool:
        """Reading the configuration again; `ready` ends it. Type=notify-reload matches them by the time."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self) -> bool:
        return self._send("STOPPING=1")

    def watchdog(self) -> bool:
        """Alive: to be said every `watchdog_interval()` seconds."""
        return self._send("WATCHDOG=1")

    def watchdog_interval(self) -> float | None:
        """Half of WatchdogSec= in seconds; None where none is set or it is meant for another process."""
        try:
            microseconds = int(self._environment.get("WATCHDOG_USEC", ""))
            meant_for = int(self._environment.get("WATCHDOG_PID") or os.getpid())
        except ValueError:
            return None
        return microseconds / 2_000_000 if microseconds > 0 and meant_for == os.getpid() else None

    def _send(self, *assignments: str) -> bool:
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                # systemd's queue can be full for a moment while it reloads: worth a short wait, not a long.
                channel.settimeout(_PATIENCE_SECONDS)
                channel.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            log.warning("systemd was not told %s: %s", assignments[0], error)
            return False
        return True


def listen_sockets() -> list[ListenSocket]:
    """The sockets that systemd passed to this process, set non-blocking; [] where it passed none.

    Takes LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES out of the environment, so that no child takes them as its
    own: a second call gets none. RuntimeError where systemd passed sockets and systemd-python is missing.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    try:
        from systemd import daemon  # may be missing on a development machine
    except ImportError as error:
        raise RuntimeError("systemd passed sockets to homed, but systemd-python is not installed") from error
    passed = sorted(daemon.listen_fds_with_names().items())
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        # libsystemd took them out of the C environment, of which os.environ is a copy.
        os.environ.pop(name, None)
    return [_adopt(descriptor, name) for descriptor, name in passed]


def _adopt(descriptor: int, name: str) -> ListenSocket:
    adopted = socket.socket(fileno=descriptor)
    adopted.setblocking(False)
    return ListenSocket(name, adopted)


def _address(value: str) -> str | None:
    """A path, or with a leading `@` a name in the abstract namespace, where the kernel wants a NUL."""
    if value.startswith("@"):
        return "\0" + value[1:]
    return value if value.startswith("/") else None


def _line(text: str) -> str:
    """A line's end would begin another assignment."""
    return " ".join(text.split())
