"""Runs jobs on a board by homed's runner of units alone: `python unit_driver.py < orders.json`, results on stdout.

Orders: {"jobs": [{"id", "work", "timeout", "user", "kill_after", "handle"}], "config", "resume", "die_after"}; times in
seconds, `resume` for what an earlier driver has started.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from homed.bus.connection import Bus
from homed.bus.systemd1_jobs import TransientUnits
from homed.clock import now
from homed.config.jobs import Jobs as Config
from homed.host.boot import boot_id
from homed.jobs.output.order import Stream
from homed.jobs.output.outputs import Outputs
from homed.jobs.ports import Attempt
from homed.jobs.records import Handle, Job, Origin, State, Work
from homed.jobs.runners.units import UnitRunner

STATE = Path("/var/lib/homed")
_LIMIT = 64 << 20


class Driver:
    def __init__(self, orders: dict[str, Any]):
        self.orders = orders
        self.config = msgspec.convert(orders.get("config", {}), Config)
        self.bus = Bus()
        self.runner = UnitRunner(TransientUnits(self.bus), STATE / "uploads", boot_id(), lambda: self.config)
        self.outputs = Outputs(STATE / "jobs", lambda: _LIMIT)

    async def run(self) -> list[dict[str, Any]]:
        STATE.mkdir(0o700, exist_ok=True)
        works = [asyncio.create_task(self.bus.run()), asyncio.create_task(self.outputs.run())]
        while not self.bus.connected:
            await asyncio.sleep(0.01)
        if "die_after" in self.orders:
            asyncio.get_running_loop().call_later(self.orders["die_after"], os.kill, os.getpid(), signal.SIGKILL)
        results = await asyncio.gather(*(self._one(spec) for spec in self.orders["jobs"]))
        # What is told without waiting is sent before the connection ends.
        await self.runner._units.standings("none")
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        return results

    async def _one(self, spec: dict[str, Any]) -> dict[str, Any]:
        handle = Handle(runner="units", **{"boot": boot_id(), **spec.get("handle", {})})
        job = Job(
            id=spec["id"], origin=Origin.NEWREMORA, work=msgspec.convert(spec["work"], Work), state=State.ASSIGNED,
            attempt=1, timeout=spec.get("timeout", 300), user=spec.get("user", ""), created_at=now(), updated_at=now(),
            handle=handle,
        )  # fmt: skip
        began: list[str] = []

        async def started(handle: Handle) -> None:
            began.append(handle.unit)

        output = self.outputs.create(job.id, 1)
        attempt = Attempt(job, output, started, lambda _: None)
        running = self.runner.resume(attempt) if self.orders.get("resume") else self.runner.run(attempt)
        task = asyncio.ensure_future(running)
        if "kill_after" in spec:
            await asyncio.sleep(spec["kill_after"])
            await self.runner.kill(job)
        result = await task
        await output.finish()
        await self.runner.release(job)
        told = {} if result is None else msgspec.structs.asdict(result)
        texts = {str(stream.name).lower(): output.read(stream).decode("latin-1") for stream in Stream}
        return {**told, **texts, "none": result is None, "began": began}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(Driver(json.load(sys.stdin)).run())))
