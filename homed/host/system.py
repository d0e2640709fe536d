"""The board's facts, as `GET /api/v1/system/info` answers them."""

import asyncio
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil

from homed.host import board, network
from homed.host.board import Temperature, Throttling
from homed.host.cpu import CpuMeter
from homed.host.network import Interface, Route

T = TypeVar("T")


class Memory(msgspec.Struct, frozen=True):
    """Bytes; `percent` is what is not available."""

    total: int
    available: int
    percent: float


class Swap(msgspec.Struct, frozen=True):
    """Bytes."""

    total: int
    used: int
    free: int
    percent: float


class Disk(msgspec.Struct, frozen=True):
    """Bytes; `percent` is of what homed may use, as `df` counts: `used + free` can be less than `total`."""

    total: int
    used: int
    free: int
    percent: float


class Cpu(msgspec.Struct, frozen=True):
    """`percent` of all cores over the `over_seconds` before; MHz where the kernel tells."""

    percent: float
    per_core: tuple[float, ...]
    over_seconds: float
    frequency_mhz: float | None


class OperatingSystem(msgspec.Struct, frozen=True):
    """`NAME` and `VERSION_ID` of os-release; None where it has none."""

    name: str | None
    version: str | None


class SystemInfo(msgspec.Struct, frozen=True):
    """The seed's fields first. `uptime` in whole seconds; `load_average` over 1, 5 and 15 minutes.

    A part that could not be read is None, and `unavailable` says why under its name.
    """

    hostname: str
    platform: str
    architecture: str
    cpu_count: int
    memory: Memory
    disk: Disk | None
    uptime: int
    load_average: tuple[float, float, float]
    model: str | None
    kernel: str
    os: OperatingSystem
    cpu: Cpu
    swap: Swap
    temperatures: tuple[Temperature, ...] | None
    throttling: Throttling | None
    interfaces: tuple[Interface, ...] | None
    default_routes: tuple[Route, ...] | None
    boot_id: str | None
    booted_at: datetime
    homed_version: str
    unavailable: dict[str, str]


class System:
    """Reads on `executor`: a few milliseconds, of which netlink and the sensors take most."""

    def __init__(
        self,
        state_directory: Path,
        executor: Executor,
        *,
        homed_version: str,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.time,
        meter: CpuMeter | None = None,
    ):
        self._state_directory = state_directory
        self._executor = executor
        self._homed_version = homed_version
        self._root = root
        self._clock = clock
        self._meter = meter or CpuMeter()

    async def info(self, *, include_virtual: bool = False) -> SystemInfo:
        """All facts as they are now. `include_virtual`: also the containers' network interfaces."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(self._read, include_virtual))

    def _read(self, include_virtual: bool) -> SystemInfo:
        unavailable: dict[str, str] = {}
        attempt = partial(_attempt, unavailable)
        machine = os.uname()
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        return SystemInfo(
            hostname=socket.gethostname(),
            platform=sys.platform,
            architecture=machine.machine,
            cpu_count=os.cpu_count() or 1,
            memory=_memory(),
            disk=attempt("disk", partial(_disk, self._state_directory)),
            uptime=int(uptime),
            load_average=_load_average(),
            model=board.model(self._root),
            kernel=machine.release,
            os=_operating_system(self._root),
            cpu=self._cpu(),
            swap=_swap(),
            temperatures=board.temperatures(self._root),
            throttling=board.throttling(self._root),
            interfaces=attempt(
                "interfaces", partial(network.interfaces, include_virtual=include_virtual, root=self._root)
            ),
            default_routes=attempt("default_routes", network.default_routes),
            boot_id=attempt("boot_id", partial(_boot_id, self._root)),
            # From the clock as it is now: a board without a battery boots in the past and is set right later.
            booted_at=datetime.fromtimestamp(round(self._clock() - uptime), UTC),
            homed_version=self._homed_version,
            unavailable=unavailable,
        )

    def _cpu(self) -> Cpu:
        use = self._meter.read()
        return Cpu(use.percent, use.per_core, use.over_seconds, _frequency())


def _attempt(unavailable: dict[str, str], name: str, read: Callable[[], T]) -> T | None:
    """One part that fails must not take the others from who asks: its reason stands in the answer."""
    try:
        return read()
    except (OSError, ImportError) as error:
        unavailable[name] = f"{type(error).__name__}: {error}"
        return None


def _memory() -> Memory:
    memory = psutil.virtual_memory()
    return Memory(memory.total, memory.available, memory.percent)


def _swap() -> Swap:
    swap = psutil.swap_memory()
    return Swap(swap.total, swap.used, swap.free, swap.percent)


def _disk(directory: Path) -> Disk:
    usage = psutil.disk_usage(str(directory))
    return Disk(usage.total, usage.used, usage.free, usage.percent)


def _load_average() -> tuple[float, float, float]:
    one, five, fifteen = os.getloadavg()
    return round(one, 2), round(five, 2), round(fifteen, 2)


def _frequency() -> float | None:
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        # psutil raises either on kernels without cpufreq: the board does not tell.
        return None
    return round(frequency.current, 1) if frequency and frequency.current else None


def _boot_id(root: Path) -> str:
    return (root / "proc/sys/kernel/random/boot_id").read_text().strip()


def _operating_system(root: Path) -> OperatingSystem:
    for place in ("etc/os-release", "usr/lib/os-release"):
        try:
            text = (root / place).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        values = dict(_assignments(text))
        return OperatingSystem(values.get("NAME"), values.get("VERSION_ID") or values.get("VERSION"))
    return OperatingSystem(None, None)


def _assignments(text: str) -> list[tuple[str, str]]:
    """os-release is shell assignments: values may be quoted either way."""
    found = []
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or name.startswith("#"):
            continue
        try:
            words = shlex.split(value)
        except ValueError:
            words = [value]
        found.append((name, " ".join(words)))
    return found
