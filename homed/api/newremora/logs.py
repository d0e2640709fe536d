"""All that a job has printed, sent piece by piece: as JSON with both streams in order, or one stream as it came."""

import asyncio
import codecs
from collections.abc import AsyncIterator, Iterator

import msgspec
from aiohttp import web

from homed.api.newremora.answers import JobShown
from homed.api.routes import STREAMED, Call
from homed.api.transfers import abort
from homed.clock import now
from homed.jobs.output.order import Stream
from homed.jobs.output.output import Output
from homed.jobs.records import Job

_CHUNK = 256 * 1024
_WRITE_DEADLINE = 30.0


class LogsMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The job, and how long its output is: bytes that were kept, and dropped past the bound."""

    job: JobShown
    attempt: int
    stdout_bytes: int
    stderr_bytes: int
    stdout_dropped: int
    stderr_dropped: int
    truncated: bool


class LogsShown(msgspec.Struct, frozen=True, kw_only=True):
    """`logs` are both streams, in the order in which they came."""

    job_id: str
    status: str
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
        job=shown,
        attempt=job.attempt,
        stdout_bytes=sizes[0],
        stderr_bytes=sizes[1],
        stdout_dropped=dropped[0],
        stderr_dropped=dropped[1],
        truncated=any(dropped),
    )


async def _enveloped(shown: JobShown, output: Output | None, metadata: LogsMetadata) -> AsyncIterator[bytes]:
    """What the envelope would make of a LogsShown, which is never held as a whole."""
    yield b'{"success":true,"data":{'
    async for piece in _fields(shown, output, metadata):
        yield piece
    yield b"},"
    async for piece in _fields(shown, output, metadata):
        yield piece
    yield b',"error":null,"timestamp":' + msgspec.json.encode(now()) + b"}"


async def _fields(shown: JobShown, output: Output | None, metadata: LogsMetadata) -> AsyncIterator[bytes]:
    head = msgspec.json.encode({"job_id": shown.id, "status": shown.status, "metadata": metadata})
    yield head[1:-1] + b',"logs":"'
    if output is not None:
        async for piece in _stepped(map(_escaped, output.texts())):
            yield piece
    for stream in Stream:
        yield f'","{stream.word}":"'.encode()
        if output is not None:
            async for piece in _stepped(map(_escaped, _texts(output, stream))):
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
