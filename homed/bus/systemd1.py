"""systemd's Manager, as far as homed asks it: which units there are, starting and stopping them, when timers elapse."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from homed.bus.connection import Bus, CallError, Peer
from homed.errors import BusUnavailableError

_PEER = Peer("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
_UNIT = "org.freedesktop.systemd1.Unit"
_TIMER = "org.freedesktop.systemd1.Timer"
BAD_SETTING = "org.freedesktop.systemd1.BadUnitSetting"
_NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = (0, 2**64 - 1)


class UnitFile(NamedTuple):
    """`state` is enabled, disabled, static, masked, … as `systemctl list-unit-files` says."""

    path: str
    state: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Unit(NamedTuple):
    """`load_state` is loaded, not-found, bad-setting, …; `active_state` active, inactive, failed, …; `stale`: its files
    have changed since systemd read them.
    """

    load_state: str
    active_state: str
    stale: bool


class Timer(NamedTuple):
    """When it starts its unit next, and when it did last; None for never."""

    next: datetime | None
    last: datetime | None


class JobError(CallError):
    """What systemd was to do with a unit did not succeed: `name` is the job's result (failed, timeout, canceled, …)."""


class Units:
    """CallError or BusUnavailableError where systemd cannot be asked, or refuses."""

    def __init__(self, bus: Bus):
        self._bus = bus

    async def files(self) -> list[UnitFile]:
        """Every unit file. systemd reads all of them for this: seconds on a slow card."""
        (found,) = await self._bus.call(_PEER, "ListUnitFiles", deadline=60)
        return [UnitFile(str(path), str(state)) for path, state in found]

    async def reload(self) -> None:
        """Have systemd read all unit files anew: seconds on a slow card."""
        await self._bus.call(_PEER, "Reload", deadline=90)

    async def start(self, name: str, deadline: float = 90) -> None:
        """Returns when it has started, as its type has it; JobError where it does not."""
        await self._job("StartUnit", name, deadline)

    async def restart(self, name: str, deadline: float = 90) -> None:
        await self._job("RestartUnit", name, deadline)

    async def stop(self, name: str, deadline: float = 90) -> None:
        """Returns when it is stopped, also where there is no such unit."""
        try:
            await self._job("StopUnit", name, deadline)
        except CallError as error:
            if error.name != _NO_SUCH_UNIT:
                raise

    async def unit(self, name: str) -> Unit:
        found = await self._bus.properties((await self._peer(name))._replace(interface=_UNIT))
        return Unit(str(found["LoadState"]), str(found["ActiveState"]), bool(found["NeedDaemonReload"]))

    async def timer(self, name: str) -> Timer:
        found = await self._bus.properties((await self._peer(name))._replace(interface=_TIMER))
        return Timer(_time(found["NextElapseUSecRealtime"]), _time(found["LastTriggerUSec"]))

    async def _peer(self, name: str) -> Peer:
        (path,) = await self._bus.call(_PEER, "LoadUnit", "s", name)
        return _PEER._replace(path=str(path))

    async def _job(self, member: str, name: str, deadline: float) -> None:
        """Queue a job (it takes the place of one that contradicts it), and wait until it is done."""
        async with _within(deadline, f"{member} of {name}"), self._bus.signals(_PEER, "JobRemoved") as heard:
            (job,) = await self._bus.call(_PEER, member, "ss", name, "replace", deadline=deadline)
            while signal := await heard.get():
                _, path, _, result = signal.body
                if path != job:
                    continue
                if result != "done":
                    raise JobError(str(result), f"{member} of {name}: {result}; its journal says more")
                return
            raise BusUnavailableError(f"the system bus was lost in {member} of {name}")


@asynccontextmanager
async def _within(deadline: float, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(deadline):
            yield
    except TimeoutError as error:
        raise BusUnavailableError(f"{what} was not done within {deadline:g} s") from error


def _time(microseconds: int) -> datetime | None:
    return None if microseconds in _NEVER else _EPOCH + timedelta(microseconds=microseconds)
