"""systemd-logind's Manager: a reboot that is announced to whoever is logged in and waits for no inhibitor's whim."""

import logging

from homed.bus.connection import Bus, CallError, Peer
from homed.errors import BusUnavailableError

log = logging.getLogger(__name__)
_LOGIN = Peer("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
_SYSTEMD = Peer("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")


class Power:
    """What restarts the board. `reboot` returns when the reboot was accepted, not when it is done."""

    def __init__(self, bus: Bus):
        self._bus = bus

    async def reboot(self) -> None:
        """Through logind; where a board has none, through systemd itself. CallError or BusUnavailableError."""
        try:
            await self._bus.call(_LOGIN, "Reboot", "b", False, deadline=10)
        except (CallError, BusUnavailableError) as error:
            if not self._bus.connected:
                raise
            log.warning("logind does not reboot the board (%s): systemd is asked", error.message)
            await self._bus.call(_SYSTEMD, "Reboot", deadline=30)
