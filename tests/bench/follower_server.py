"""`python -m tests.bench.follower_server PORT FOLDER LINES SECONDS`: homed's streaming of one job, and nothing else.

A request of `/start` has a process print the lines into the job's files; each says when it was printed.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from aiohttp import web

from homed.access.scopes import LOCAL, Principal
from homed.api.newremora.stream import JobStream
from homed.api.routes import Call
from homed.api.sse import EventStreams
from homed.containers.logs import FollowerLimit
from homed.jobs.following import Following, Item
from homed.jobs.ledger import Entry
from homed.jobs.output.order import Stream
from homed.jobs.output.outputs import Outputs
from homed.jobs.records import Command, Job, Origin, Result, State

_PRINT = """
import os, sys, time
rate, seconds = int(sys.argv[1]), float(sys.argv[2])
began = time.monotonic()
for number in range(int(rate * seconds)):
    while (left := began + number / rate - time.monotonic()) > 0:
        time.sleep(left)
    os.write(1, b"%.6f %d a line of output\\n" % (time.monotonic(), number))
"""


class OneJob:
    """What the stream needs of jobs; its states are set here."""

    def __init__(self, outputs: Outputs):
        at = datetime.now(UTC)
        job = Job(id="job", origin=Origin.NEWREMORA, work=Command("true"), created_at=at, updated_at=at)
        self.held = Entry(msgspec.structs.replace(job, state=State.RUNNING, attempt=1, started_at=at), 1)
        self.following = Following(self, outputs)

    async def entry(self, id: str) -> Entry:
        return self.held

    async def get(self, id: str) -> Job:
        return self.held.job

    def follow(self, id: str, last_event_id: str = "") -> AsyncGenerator[Item, None]:
        return self.following.follow(id, last_event_id)

    def succeeded(self) -> None:
        job, at = self.held.job, datetime.now(UTC)
        self.held.tell(
            msgspec.structs.replace(job, state=State.SUCCEEDED, result=Result(exit_code=0), finished_at=at), 2
        )


async def serve(port: int, folder: Path, rate: str, seconds: str) -> None:
    outputs = Outputs(folder, lambda: 16 << 20)
    watch = asyncio.create_task(outputs.run())
    output = outputs.create("job", 1)
    jobs = OneJob(outputs)

    async def holds(principal: Principal) -> bool:
        return True

    streams = EventStreams(FollowerLimit(10_000), lambda: None, holds)
    stream = JobStream(jobs, streams)
    ended = asyncio.Event()

    async def follow(request: web.Request) -> web.StreamResponse:
        return await stream.follow(Call(request, LOCAL, "", {"job_id": "job"}))

    async def start(request: web.Request) -> web.StreamResponse:
        with output.path(Stream.STDOUT).open("ab") as file:
            job = await asyncio.create_subprocess_exec(sys.executable, "-c", _PRINT, rate, seconds, stdout=file)
        await job.wait()
        await output.finish()
        jobs.succeeded()
        return web.Response(text="printed")

    async def stop(request: web.Request) -> web.StreamResponse:
        ended.set()
        return web.Response()

    application = web.Application()
    application.router.add_get("/stream", follow)
    application.router.add_get("/start", start)
    application.router.add_get("/stop", stop)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=2048).start()
    await ended.wait()
    await streams.close()
    await runner.cleanup()
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch
    outputs.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
