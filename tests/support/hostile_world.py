"""A homed in 256 MiB of memory, and what an attack costs it: CPU time per callback, memory above idle, health's lag."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.boards.rig.process import spawn
from tests.support import measured
from tests.support.homed import Homed

MEMORY_LIMIT = 256 << 20
_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@contextmanager
def memory_cgroup() -> Iterator[Path | None]:
    """A control group that ends who takes more than 256 MiB; None if this machine lets nobody make one."""
    v1 = (_V1 / "memory.limit_in_bytes").exists()
    root, limit = (_V1, "memory.limit_in_bytes") if v1 else (_V2, "memory.max")
    group = root / f"homed-tests-{os.getpid()}"
    try:
        if not v1 and "memory" not in (_V2 / "cgroup.subtree_control").read_text():
            raise OSError("no memory controller")
        group.mkdir()
        (group / limit).write_text(str(MEMORY_LIMIT))
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        for _ in range(50):  # until what was in it is gone
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.05)


class MeasuredHomed(Homed):
    """`cgroup` bounds its memory."""

    def __init__(self, folder: Path, cgroup: Path | None, tables: Mapping[str, Mapping[str, Any]] | None = None):
        super().__init__(folder, f"unix://{folder}/no-engine.sock", tables)
        self.callbacks = folder / "callbacks"
        self.callbacks.touch()
        self._cgroup = cgroup

    def launch(self) -> None:
        around: list[str | Path] = [sys.executable, "-P", measured.__file__, self.callbacks]
        around += [self._cgroup] if self._cgroup is not None else []
        serve: list[str | Path] = ["--", "serve", "--config", self.config, "--state", self.state]
        with (self.folder / "homed.log").open("ab") as log:
            self.process = spawn([*around, *serve], self._environment(), log)

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), "MALLOC_ARENA_MAX": "2"}  # as in its unit

    def status(self, name: str) -> int:
        """A figure of its memory (VmRSS, VmHWM) in bytes."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@dataclass
class Cost:
    """`cpu` seconds of the longest callback, and what it was; `memory` bytes above idle; `lags` of /health, seconds."""

    cpu: float = 0.0
    callback: str = ""
    memory: int = 0
    lags: list[float] = field(default_factory=list)

    @property
    def lag_p99(self) -> float:
        return sorted(self.lags)[int(len(self.lags) * 0.99)] if self.lags else 0.0


class World:
    """A homed, and clients of many addresses."""

    def __init__(self, homed: MeasuredHomed):
        self.homed = homed
        self.idle = homed.status("VmRSS")
        self._descriptors = homed.descriptors()

    @asynccontextmanager
    async def measured(self) -> AsyncIterator[Cost]:
        """Measure what homed is put to meanwhile."""
        cost = Cost()
        start = self.homed.callbacks.stat().st_size
        self.homed.forget_peak()
        watcher = asyncio.create_task(self._watch(cost))
        try:
            yield cost
            await self.settle()
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        assert self.homed.runs, f"homed was ended: {self.homed.log[-3000:]}"
        cost.memory = max(0, self.homed.status("VmHWM") - self.idle)
        with self.homed.callbacks.open() as told:
            told.seek(start)
            for line in told:
                spent, _, what = line.partition(" ")
                if float(spent) > cost.cpu:
                    cost.cpu, cost.callback = float(spent), what.strip()

    async def settle(self) -> None:
        """Wait until homed has let go of what an attack left: what it reads of it still belongs to it."""
        for _ in range(200):
            if self.homed.descriptors() <= self._descriptors + 4:
                return
            await asyncio.sleep(0.05)

    async def _watch(self, cost: Cost) -> None:
        """Ask for health again and again, from an address that nobody else has."""
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await self.connect("127.0.9.9")
                try:
                    while True:
                        before = time.monotonic()
                        writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
                        head = await reader.readuntil(b"\r\n\r\n")
                        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
                        await reader.readexactly(length)
                        cost.lags.append(time.monotonic() - before)
                        await asyncio.sleep(0.02)
                finally:
                    writer.close()
            await asyncio.sleep(0.02)

    async def connect(self, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.homed.port, local_addr=(source, 0))

    async def send(self, data: bytes, source: str = "127.0.0.1", patience: float = 10.0) -> int:
        """The status of the answer to bytes; 0 if the connection ends without one."""
        try:
            reader, writer = await self.connect(source)
        except OSError:
            return 0
        sender = asyncio.create_task(_write(writer, data))
        try:
            async with asyncio.timeout(patience):
                line = await reader.readline()
            return int(line.split(b" ")[1]) if line.startswith(b"HTTP/1.") else 0
        except (OSError, TimeoutError):
            return 0
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            writer.transport.abort()

    async def hold(self, data: bytes, sources: list[str], seconds: float) -> list[int]:
        """Send bytes from each address, read nothing, and hold all connections for a while: how many stayed open."""
        writers = []
        for source in sources:
            with contextlib.suppress(OSError):
                _, writer = await self.connect(source)
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(data)
                writers.append(writer)
        await asyncio.sleep(seconds)
        for writer in writers:
            writer.transport.abort()
        return [len(writers)]


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(OSError):
        for start in range(0, len(data), 1 << 16):
            writer.write(data[start : start + (1 << 16)])
            await writer.drain()


def sources(count: int, each: int = 60) -> list[str]:
    """Addresses of clients, each of which may have that many connections."""
    return [f"127.0.{1 + i // each // 200}.{1 + i // each % 200}" for i in range(count)]
