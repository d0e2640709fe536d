"""NewRemora's stream of a job, over real connections: two clients, one slow; taken up again at every event."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import pytest
from aiohttp import web

from homed.access.scopes import LOCAL, Principal
from homed.api.newremora.stream import JobStream
from homed.api.routes import Call
from homed.api.sse import EventStreams
from homed.containers.logs import FollowerLimit
from homed.errors import NotFoundError
from homed.jobs.following import Following, Item
from homed.jobs.hosts import Host
from homed.jobs.ledger import Entry
from homed.jobs.output.order import Stream
from homed.jobs.output.output import Output
from homed.jobs.output.outputs import Outputs
from homed.jobs.records import Command, Job, Origin, Result, State

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Event(NamedTuple):
    id: str
    kind: str
    data: dict[str, Any]


class NoHosts:
    """The job runs on the board itself."""

    def get(self, id: str) -> Host:
        raise NotFoundError(id)


class OneJob:
    """A job whose states are set by the test, and what it prints."""

    def __init__(self, outputs: Outputs):
        job = Job(id="job", origin=Origin.NEWREMORA, work=Command("true"), created_at=AT, updated_at=AT)
        self.held = Entry(job, 1)
        self.outputs = outputs
        self.port = 0
        self._following = Following(self, outputs)

    async def entry(self, id: str) -> Entry:
        return self.held

    async def look(self, id: str) -> Job:
        return self.held.job

    def output(self, job: Job) -> Output | None:
        return self.outputs.find(job.id, job.attempt)

    def follow(self, id: str, last_event_id: str = "") -> AsyncGenerator[Item, None]:
        return self._following.follow(id, last_event_id)

    def set(self, state: State, **changes: Any) -> None:
        self.held.tell(msgspec.structs.replace(self.held.job, state=state, **changes), 2)

    async def run(self, code: str) -> None:
        """In a process of its own, to its end."""
        self.set(State.ASSIGNED, attempt=1)
        output = self.outputs.create("job", 1)
        self.set(State.RUNNING, started_at=AT)
        with output.path(Stream.STDOUT).open("ab") as stdout, output.path(Stream.STDERR).open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=stdout, stderr=stderr)
        await process.wait()
        await output.finish()
        self.set(State.SUCCEEDED, result=Result(exit_code=0), finished_at=AT)

    async def events(self, last: str = "", hold: asyncio.Event | None = None) -> list[Event]:
        return [event async for event in self.stream(last, hold)]

    async def stream(self, last: str = "", hold: asyncio.Event | None = None) -> AsyncGenerator[Event, None]:
        """`hold`: read nothing after the first bytes until it is set."""
        headers = {"Last-Event-ID": last} if last else {}
        url = f"http://127.0.0.1:{self.port}/"
        async with aiohttp.ClientSession(read_bufsize=4096) as session, session.get(url, headers=headers) as answer:
            assert answer.status in (200, 204)
            waiting = b""
            async for data in answer.content.iter_any():
                *whole, waiting = (waiting + data).split(b"\n\n")
                for event in whole:
                    fields = dict(line.split(": ", 1) for line in event.decode().splitlines())
                    yield Event(fields["id"], fields["event"], json.loads(fields["data"]))
                if hold is not None:
                    await hold.wait()


@pytest.fixture
async def job(tmp_path: Path) -> AsyncIterator[OneJob]:
    outputs = Outputs(tmp_path, lambda: 16 << 20)
    watch = asyncio.create_task(outputs.run())
    made = OneJob(outputs)

    async def holds(principal: Principal) -> bool:
        return True

    streams = EventStreams(FollowerLimit(100), lambda: None, holds)
    stream = JobStream(made, NoHosts(), streams)

    async def follow(request: web.Request) -> web.StreamResponse:
        return await stream.follow(Call(request, LOCAL, "", {"job_id": "job"}))

    application = web.Application()
    application.router.add_get("/", follow)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await streams.close()
    await runner.cleanup()
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch
    outputs.close()


def content(events: list[Event], kind: str) -> str:
    return "".join(e.data["content"] for e in events if e.kind == "output" and e.data["type"] == kind)


async def test_two_clients_read_all_of_one_stream_of_which_one_is_slow(job: OneJob) -> None:
    job.set(State.QUEUED)
    go_on = asyncio.Event()
    fast, slow = asyncio.create_task(job.events()), asyncio.create_task(job.events(hold=go_on))
    await asyncio.sleep(0.1)
    await job.run("import sys\nfor n in range(300000): print(n, 'ä', file=(sys.stdout, sys.stderr)[n % 2])")
    quick = await fast
    go_on.set()
    out, err = ("".join(f"{number} ä\n" for number in range(first, 300_000, 2)) for first in (0, 1))
    for events in (quick, await slow):
        assert (content(events, "stdout"), content(events, "stderr")) == (out, err)
        assert events[0].data["status"] == "queued"
        assert [e.data["status"] for e in events[-2:]] == ["completed", "completed"]
        assert [e.kind for e in events].index("complete") == len(events) - 1
        assert len({e.id for e in events}) == len(events)


async def test_from_every_event_on_exactly_the_rest_comes(job: OneJob) -> None:
    following = asyncio.create_task(job.events())
    await asyncio.sleep(0.05)
    await job.run("import os, time\nfor n in range(12): os.write(1 + n % 2, b'%d\\n' % n); time.sleep(0.07)")
    events = await following
    assert [e.data["status"] for e in events if e.kind == "status"] == ["queued", "running", "completed"]
    for number, event in enumerate(events):
        rest = await job.events(event.id)
        for kind in ("stdout", "stderr"):
            assert content(rest, kind) == content(events[number + 1 :], kind)
        states = [e.data["status"] for e in rest if e.kind != "output"]
        assert states == ["completed", "completed"][max(0, 2 - (len(events) - number - 1)) :]


async def test_output_that_is_taken_up_while_it_goes_on_is_whole(job: OneJob) -> None:
    """A client that loses its connection after each event."""
    running = asyncio.create_task(
        job.run("import os, time\nfor n in range(40): os.write(1, b'%d\\n' % n); time.sleep(0.03)")
    )
    await asyncio.sleep(0.05)
    events: list[Event] = []
    while not events or events[-1].kind != "complete":
        async with contextlib.aclosing(job.stream(events[-1].id if events else "")) as stream:
            events.append(await anext(stream))
    await running
    assert content(events, "stdout") == "".join(f"{number}\n" for number in range(40))
    assert [e.data["status"] for e in events if e.kind == "status"] == ["running", "completed"]


async def test_fields_are_those_that_clients_read(job: OneJob) -> None:
    await job.run("import os; os.write(2, b'wrong\\n')")
    status, output, complete = await job.events()
    assert (status.kind, output.kind, complete.kind) == ("status", "output", "complete")
    expected: dict[str, Any] = {"status": "completed", "job_id": "job", "id": "job"}
    expected["started_at"] = "2026-01-01T00:00:00Z"
    assert {name: status.data[name] for name in expected} == expected
    assert output.data.pop("timestamp").endswith("Z")
    assert output.data == {
        "type": "stderr", "content": "wrong\n", "job_id": "job", "output": "wrong\n", "is_stderr": True
    }  # fmt: skip
    expected = {"status": "completed", "exit_code": 0, "job_id": "job", "stdout": "", "stderr": "wrong\n"}
    assert {name: complete.data[name] for name in expected} == expected


async def test_the_last_event_has_the_beginning_and_the_end_of_much_output(job: OneJob) -> None:
    await job.run("import os; os.write(1, b'begin' + b'x' * 1_000_000 + b'end')")
    complete = (await job.events())[-1].data
    assert complete["stdout_truncated"] and complete["output_truncated"] and not complete["stderr_truncated"]
    assert complete["stdout"].startswith("begin") and complete["stdout"].endswith("end")
    assert len(complete["stdout"]) < 70_000 and len(complete["output"]) < 70_000


async def test_who_has_seen_the_end_is_told_not_to_come_again(job: OneJob) -> None:
    await job.run("pass")
    last = (await job.events())[-1]
    url, headers = f"http://127.0.0.1:{job.port}/", {"Last-Event-ID": last.id}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        assert answer.status == 204
