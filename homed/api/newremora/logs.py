"""All that a job has printed, sent piece by piece: as JSON with both streams in order, or one stream as it came."""

import asyncio
import codecs
from collections.abc import AsyncIterator, Iterator
from datetime import datetime

import msgspec
from aiohttp import web

from homed.api.newremora import aside, spaced
from homed.api.newremora.answers import JobShown
from homed.api.routes import STREAMED, Call
from homed.api.transfers import abort
from homed.clock import now
from homed.jobs.output.order import Stream
from homed.jobs.output.output import Output
from homed.jobs.records import Job

_CHUNK = 32 * 1024
_WRITE_DEADLINE = 30.0


class LogsMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The job and the size of its output in bytes: kept (`…_length`, also as `…_bytes`), and dropped beyond the limit.
    `has_errors`: it has written to standard error.
    """

    job: JobShown
    attempt: int
    stdout_length: int
    stderr_length: int
    has_output: bool
    has_errors: bool
    stdout_bytes: int
    stderr_bytes: int
    stdout_dropped: int
    stderr_dropped: int
    truncated: bool


class LogsShown(msgspec.Struct, frozen=True, kw_only=True):
    """The output of a job. `output` and `logs` are both streams in the order of arrival. `timeout` is in seconds,
    `duration` in nanoseconds.
    """

    job_id: str
    status: str
    command: str
    args: str
    exit_code: int | None
    timeout: int | float | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration: int | None
    output: str
    logs: str
    stdout: str
    stderr: str
    metadata: LogsMetadata


async def send_text(call: Call, output: Output | None, stream: Stream) -> web.StreamResponse:
    """A stream byte for byte, as far as it was kept; how much was not says the header X-Output-Dropped."""
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    if output is None:
        return web.Response(body=b"", headers=headers)
    await output.load()
    if dropped := output.dropped(stream):
        headers["X-Output-Dropped"] = str(dropped)
    return await _send(call, headers, _read(output, stream))


async def send_logs(call: Call, job: Job, output: Output | None, shown: JobShown) -> web.StreamResponse:
    if output is not None:
        await output.load()
    metadata = await asyncio.to_thread(_metadata, job, output, shown)
    return await _send(call, {"Content-Type": "application/json"}, _enveloped(shown, output, metadata))


def _metadata(job: Job, output: Output | None, shown: JobShown) -> LogsMetadata:
    sizes = [0, 0] if output is None else [output.files.size(stream) for stream in Stream]
    dropped = [0, 0] if output is None else [output.dropped(stream) for stream in Stream]
    return LogsMetadata(
        job=aside(shown),
        attempt=job.attempt,
        stdout_length=sizes[0],
        stderr_length=sizes[1],
        has_output=sizes[0] > 0,
        has_errors=sizes[1] > 0,
        stdout_bytes=sizes[0],
        stderr_bytes=sizes[1],
        stdout_dropped=dropped[0],
        stderr_dropped=dropped[1],
        truncated=any(dropped),
    )


# Short fields of the job, sent with its output.
_OF_JOB = (
    "status", "command", "args", "exit_code", "timeout", "created_at", "updated_at", "started_at", "finished_at",
    "duration",
)  # fmt: skip


async def _enveloped(shown: JobShown, output: Output | None, metadata: LogsMetadata) -> AsyncIterator[bytes]:
    """What the envelope would make of a LogsShown, which is never held as a whole."""
    head = {"job_id": shown.id, **{name: getattr(shown, name) for name in _OF_JOB}, "metadata": metadata}
    data = msgspec.json.encode(head)
    yield b'{"success":true,"error":null,"timestamp":%s,%s' % (msgspec.json.encode(now()), data[1:-1])
    async for piece in _texts_of(output, b","):
        yield piece
    yield b',"data":{' + spaced(data)[1:-1]
    async for piece in _texts_of(output, b", "):
        yield piece
    yield b"}}"


async def _texts_of(output: Output | None, between: bytes) -> AsyncIterator[bytes]:
    """Return the JSON members that hold output, each after `between`; spaced like `between` before the colon."""
    space = between[1:]
    for name in ("output", "logs", "stdout", "stderr"):
        yield b'%s"%s"%s:%s"' % (between, name.encode(), space, space)
        if output is not None:
            pieces = output.texts() if name in ("output", "logs") else _texts(output, Stream[name.upper()])
            async for piece in _stepped(map(_escaped, pieces)):
                yield piece
        yield b'"'


def _escaped(text: str) -> bytes:
    """The inside of a JSON string."""
    return msgspec.json.encode(text)[1:-1]


def _texts(output: Output, stream: Stream) -> Iterator[str]:
    """Blocking. Text of a stream, split between characters."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for data in _chunks(output, stream):
        yield decoder.decode(data)
    yield decoder.decode(b"", final=True)


def _chunks(output: Output, stream: Stream) -> Iterator[bytes]:
    """Blocking. As far as there is something now: what runs on may print faster than it is read."""
    at, end = 0, output.files.size(stream)
    while at < end and (data := output.read(stream, at, min(_CHUNK, end - at))):
        at += len(data)
        yield data


def _read(output: Output, stream: Stream) -> AsyncIterator[bytes]:
    return _stepped(_chunks(output, stream))


async def _stepped(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Each piece is made on a thread."""
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        if piece:
            yield piece


async def _send(call: Call, headers: dict[str, str], pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    request = call.request
    response = web.StreamResponse(headers=headers)
    request[STREAMED] = True
    if request.method == "HEAD":
        return response
    try:
        await response.prepare(request)
        async for piece in pieces:
            async with asyncio.timeout(_WRITE_DEADLINE):
                await response.write(piece)
        await response.write_eof()
    except (OSError, TimeoutError):
        # The head is out: that it is not whole can be said by an end before the end only.
        abort(request)
    return response
