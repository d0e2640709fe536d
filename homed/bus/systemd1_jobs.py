"""systemd's transient units: started, followed to their end, ended and let go, with few messages for each."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from dbus_next import Variant

from homed.bus.connection import Bus, CallError, Peer, Signal
from homed.errors import BusUnavailableError

_NAME = "org.freedesktop.systemd1"
_MANAGER = Peer(_NAME, "/org/freedesktop/systemd1", f"{_NAME}.Manager")
_UNITS = "/org/freedesktop/systemd1/unit"
_UNIT, _SERVICE = f"{_NAME}.Unit", f"{_NAME}.Service"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_EXISTS, _NO_SUCH_UNIT = f"{_NAME}.UnitExists", f"{_NAME}.NoSuchUnit"
# Of all that systemd says, only what a service's properties became.
_RULE = f",interface='{_PROPERTIES}',member='PropertiesChanged',path_namespace='{_UNITS}',arg0='{_SERVICE}'"
# The bus or systemd itself is on its way down or up: the same may be asked again.
_PASSING = frozenset(
    f"org.freedesktop.DBus.Error.{name}"
    for name in ("NoReply", "Disconnected", "ServiceUnknown", "NameHasNoOwner", "Timeout", "TimedOut", "LimitsExceeded")
) | {f"{_NAME}.{name}" for name in ("ShuttingDown", "TransactionIsDestructive")}
_PATIENCE = 60.0
_AT_ONCE = 64

Value = str | bool | int | Sequence[str] | tuple[bool, Sequence[str]]
# Of each property the type that systemd has for it.
_TYPES = {
    **dict.fromkeys(
        (
            "Description", "Type", "User", "Slice", "StandardInput", "StandardInputFile", "StandardOutputFileToAppend",
            "StandardErrorFileToAppend", "WorkingDirectory", "ProtectSystem", "ProtectHome", "ProtectProc",
            "ProcSubset", "KillMode", "OOMPolicy", "KeyringMode", "DevicePolicy", "SyslogIdentifier",
        ),
        "s",
    ),
    **dict.fromkeys(
        (
            "RemainAfterExit", "IgnoreSIGPIPE", "DynamicUser", "PrivateTmp", "PrivateNetwork", "PrivateDevices",
            "PrivateIPC", "NoNewPrivileges", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs",
            "ProtectControlGroups", "ProtectClock", "ProtectHostname", "RestrictSUIDSGID", "RestrictRealtime",
            "LockPersonality", "MemoryDenyWriteExecute", "SendSIGKILL",
        ),
        "b",
    ),
    **dict.fromkeys(
        (
            "MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec", "TasksMax", "CPUWeight", "IOWeight", "RuntimeMaxUSec",
            "TimeoutStartUSec", "TimeoutStopUSec", "CapabilityBoundingSet", "RestrictNamespaces", "LimitCORE",
        ),
        "t",
    ),
    **dict.fromkeys(("Nice", "OOMScoreAdjust", "SystemCallErrorNumber"), "i"),
    "UMask": "u",
    **dict.fromkeys(
        ("Environment", "UnsetEnvironment", "Before", "SystemCallArchitectures", "InaccessiblePaths"),
        "as",
    ),
    **dict.fromkeys(("SystemCallFilter", "RestrictAddressFamilies"), "(bas)"),
}  # fmt: skip


class Program(NamedTuple):
    """What a unit runs, and its settings by systemd's names. `shown` are files that it sees, read-only, elsewhere than
    they are: (from, to); `hidden` folders that it sees empty; `denied` system calls, of those that are allowed.
    """

    argv: Sequence[str]
    settings: Mapping[str, Value]
    shown: Sequence[tuple[str, str]] = ()
    hidden: Sequence[str] = ()
    denied: Sequence[str] = ()


class Main(NamedTuple):
    """A unit's main process: `pid` 0 where none runs, `code` 0 where none has ended, else 1 (exited with `status`), 2
    (killed by the signal `status`) or 3 (that, and a core was dumped). `result` is systemd's word for the unit's end.
    """

    pid: int
    code: int
    status: int
    result: str

    @property
    def succeeded(self) -> bool:
        return self.code == 1 and self.status == 0 and self.result == "success"


class Standing(NamedTuple):
    """How a unit stands: `active` (running, or held after its end: `sub` is exited), `failed`, `inactive`, …"""

    active: str
    sub: str

    @property
    def over(self) -> bool:
        """Nothing of it runs any more."""
        return self.active in ("failed", "inactive") or self.sub == "exited"


class UnitExistsError(CallError):
    """There is a unit of that name: a start is never done twice."""


Told = Callable[[Main | None], None]


class TransientUnits:
    """To be made before the bus runs. CallError where systemd refuses; BusUnavailableError where it cannot be asked
    now, or nobody knows whether it heard.

    Who follows a unit is told what becomes of its main process, and (None) that something may have been missed, as
    after the bus was away.
    """

    def __init__(self, bus: Bus):
        self._bus = bus
        self._followed: dict[str, Told] = {}
        self._held: Counter[str] = Counter()
        # A bus lets each wait for so many answers (128), and homed asks other things too.
        self._asking = asyncio.Semaphore(_AT_ONCE)
        bus.watch(_NAME, self._heard, self._owned, _RULE)

    @contextmanager
    def followed(self, name: str, told: Told) -> Iterator[None]:
        path = _path(name)
        self._followed[path] = told
        try:
            yield
        finally:
            if self._followed.get(path) is told:
                del self._followed[path]

    async def start(self, name: str, program: Program) -> None:
        """Returns when it is queued to be started. It is held until `release`, or until homed is gone and it has ended
        well. UnitExistsError.
        """
        # Held for us: systemd tells those who hold a unit of it, and so needs to tell nobody of all others.
        properties = [*_properties(program), ["AddRef", Variant("b", True)]]
        self._held[name] += 1
        await self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", properties, [])

    async def hold(self, name: str) -> None:
        """Hold one that an earlier homed has started, so that it is told of it; where it is refused, it is not."""
        self._held[name] += 1
        with suppress(CallError):
            await self._call("RefUnit", "s", name)

    async def stop(self, name: str) -> None:
        """Returns when systemd has begun to end it, also where there is no such unit."""
        try:
            await self._call("StopUnit", "ss", name, "replace")
        except CallError as error:
            if error.name != _NO_SUCH_UNIT:
                raise

    def release(self, name: str, *, failed: bool | None) -> None:
        """Let it go, whichever way it has ended (None: nobody knows), and end what it has left running. Nobody waits
        for this.
        """
        for _ in range(self._held.pop(name, 0)):
            self._bus.tell(_MANAGER, "UnrefUnit", "s", name)
        if not failed:
            self._bus.tell(_MANAGER, "StopUnit", "ss", name, "replace")
        if failed or failed is None:
            self._bus.tell(_MANAGER, "ResetFailedUnit", "s", name)

    async def standings(self, pattern: str) -> dict[str, Standing]:
        """Those units that systemd has, by name."""
        (found,) = await self._call("ListUnitsByPatterns", "asas", [], [pattern])
        return {str(unit[0]): Standing(str(unit[3]), str(unit[4])) for unit in found}

    async def main(self, name: str) -> Main:
        values = [
            await self._property(name, _SERVICE, key) for key in ("MainPID", "ExecMainCode", "ExecMainStatus", "Result")
        ]
        return Main(int(values[0]), int(values[1]), int(values[2]), str(values[3]))

    async def was_active(self, name: str) -> bool:
        """Whether its program ever ran, and not only what systemd does before it."""
        return bool(await self._property(name, _UNIT, "ActiveEnterTimestampMonotonic"))

    async def lasted(self, name: str) -> float:
        """Seconds that the main process of an ended unit ran."""
        first, last = [
            await self._property(name, _SERVICE, f"ExecMain{moment}TimestampMonotonic") for moment in ("Start", "Exit")
        ]
        return max(0.0, (int(last) - int(first)) / 1e6)

    async def _property(self, name: str, interface: str, key: str) -> Any:
        (value,) = await self._asked(Peer(_NAME, _path(name), _PROPERTIES), "Get", "ss", interface, key)
        return value

    async def _call(self, member: str, signature: str, *body: object) -> list[Any]:
        return await self._asked(_MANAGER, member, signature, *body)

    async def _asked(self, peer: Peer, member: str, signature: str, *body: object) -> list[Any]:
        async with self._asking:
            try:
                return await self._bus.call(peer, member, signature, *body, deadline=_PATIENCE)
            except CallError as error:
                if error.name in _PASSING:
                    raise BusUnavailableError(f"systemd cannot be asked now: {error.message}") from error
                if error.name == _EXISTS:
                    raise UnitExistsError(error.name, error.message) from error
                raise

    def _heard(self, signal: Signal) -> None:
        told = self._followed.get(signal.path)
        if told is not None and signal.member == "PropertiesChanged" and signal.body[0] == _SERVICE:
            main = _main(signal.body[1])
            if main is not None:
                told(main)

    def _owned(self, there: bool) -> None:
        """systemd or the bus has come back: what was said meanwhile was not heard."""
        if there:
            for told in list(self._followed.values()):
                told(None)


def _main(changed: Mapping[str, Any]) -> Main | None:
    try:
        return Main(changed["MainPID"], changed["ExecMainCode"], changed["ExecMainStatus"], changed["Result"])
    except KeyError:
        return None  # something else has changed


def _properties(program: Program) -> list[list[object]]:
    properties: list[list[object]] = [[key, _variant(key, value)] for key, value in program.settings.items()]
    # Not ExecStartEx with no-env-expand: systemd 252 cannot read back what it writes down of it, at the next reload.
    command = [program.argv[0], [word.replace("$", "$$") for word in program.argv], False]
    properties.append(["ExecStart", Variant("a(sasb)", [command])])
    if program.shown:
        shown = [[source, target, False, 0] for source, target in program.shown]
        properties.append(["BindReadOnlyPaths", Variant("a(ssbt)", shown)])
    if program.hidden:
        hidden = [[path, "ro,mode=0755"] for path in program.hidden]
        properties.append(["TemporaryFileSystem", Variant("a(ss)", hidden)])
    if program.denied:
        properties.append(["SystemCallFilter", Variant("(bas)", [False, list(program.denied)])])
    return properties


def _variant(key: str, value: Value) -> Variant:
    return Variant(_TYPES[key], list(value) if isinstance(value, tuple) else value)


def _path(name: str) -> str:
    return f"{_UNITS}/" + re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):02x}", name)
