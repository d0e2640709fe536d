"""systemd's Manager, as far as homed asks it: which units there are and which are started by themselves."""

from typing import NamedTuple

from homed.bus.connection import Bus, Peer

_PEER = Peer("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")


class UnitFile(NamedTuple):
    """`state` is enabled, disabled, static, masked, … as `systemctl list-unit-files` says."""

    path: str
    state: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Units:
    """CallError or BusUnavailableError where systemd cannot be asked."""

    def __init__(self, bus: Bus):
        self._bus = bus

    async def files(self) -> list[UnitFile]:
        """Every unit file. systemd reads all of them for this: seconds on a slow card."""
        (found,) = await self._bus.call(_PEER, "ListUnitFiles", deadline=60)
        return [UnitFile(str(path), str(state)) for path, state in found]
