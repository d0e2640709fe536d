"""Files on their way: one that is sent, whole or from where a broken download ended, and a body too long to be held."""

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from homed.api.decode import ask_for_body
from homed.api.routes import HEADERS, STREAMED
from homed.errors import FieldError, HomedError, NotFoundError, TooLargeError, ValidationError

_CHUNK = 64 * 1024  # held twice for each reader: here and in the transport's buffer
_IDLE = 30.0
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE | re.ASCII)


class RangeError(HomedError):
    code = "RANGE_NOT_SATISFIABLE"
    status = 416
    grpc = "OUT_OF_RANGE"


class Span(NamedTuple):
    """The bytes from `start` to before `end`."""

    start: int
    end: int


def span(wanted: str, size: int) -> Span | None:
    """What a Range header asks for of `size` bytes; None where it is not one range of bytes: all is sent then.

    RangeError where the file has nothing of it.
    """
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    if start >= size:
        raise RangeError(f"there are {size} bytes")
    return Span(start, end)


def holds(condition: str, etag: str, changed_at: datetime) -> bool:
    """Whether an If-Range header means the file as it is: only then may a part of it be sent."""
    if condition.startswith(('"', "W/")):
        return condition == etag
    return condition == format_datetime(changed_at, usegmt=True)


async def send(
    request: web.Request,
    path: Path,
    kind: str,
    *,
    idle: float = _IDLE,
    headers: Mapping[str, str] | None = None,
    inline: bool = False,
) -> web.StreamResponse:
    """Send a file of media type `kind`, as an attachment unless `inline`; deleting it does not interrupt the transfer.

    `idle` is the time in seconds that a client may take for one piece. Raises: NotFoundError, RangeError.
    """
    try:
        file = await asyncio.to_thread(_open, path)
    except OSError as error:
        raise NotFoundError(f"'{path.name}' cannot be read: {error.strerror}") from error
    try:
        response, part = _head(request, None if inline else path.name, kind, os.fstat(file))
        response.headers.update(headers or {})
        request[STREAMED] = True
        await _write(request, response, file, part, idle)
        return response
    finally:
        os.close(file)


def _open(path: Path) -> int:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileNotFoundError(0, "it is no file")
    return file


def _head(request: web.Request, name: str | None, kind: str, found: os.stat_result) -> tuple[web.StreamResponse, Span]:
    whole = Span(0, found.st_size)
    etag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
    changed_at = datetime.fromtimestamp(int(found.st_mtime), UTC)
    headers = {"ETag": etag, "Accept-Ranges": "bytes"}
    if _is_known(request.headers, etag):
        return web.StreamResponse(status=304, headers=headers), Span(0, 0)
    part = None
    if holds(request.headers.get("If-Range", etag), etag, changed_at):
        try:
            part = span(request.headers.get("Range", ""), found.st_size)
        except RangeError:
            request[HEADERS]["Content-Range"] = f"bytes */{found.st_size}"
            raise
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{found.st_size}"
    headers["Content-Type"] = kind
    if name is not None:
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response = web.StreamResponse(status=200 if part is None else 206, headers=headers)
    response.last_modified = changed_at
    part = part or whole
    response.content_length = part.end - part.start
    return response, part


def _is_known(headers: Mapping[str, str], etag: str) -> bool:
    known = [one.strip().removeprefix("W/") for one in headers.get("If-None-Match", "").split(",")]
    return etag in known or "*" in known


async def _write(request: web.Request, response: web.StreamResponse, file: int, part: Span, idle: float) -> None:
    try:
        await response.prepare(request)
        at = part.end if request.method == "HEAD" else part.start
        while at < part.end:
            data = await asyncio.to_thread(os.pread, file, min(_CHUNK, part.end - at), at)
            if not data:
                raise ConnectionError("the file became shorter")
            async with asyncio.timeout(idle):
                await response.write(data)
            at += len(data)
        await response.write_eof()
    except (OSError, TimeoutError):
        # The head is out: that it is not whole can be said by an end before the end only.
        abort(request)


def abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def received(request: web.Request, limit: int, *, idle: float = _IDLE) -> AsyncIterator[bytes]:
    """The body in pieces, as fast as they are taken; who waits to be asked for it is asked with the first.

    `idle` is how long (seconds) a client may send nothing. TooLargeError at once where it says so itself, else past
    `limit` bytes; ValidationError where the body does not come to its end.
    """
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)
    return _pieces(request, limit, idle)


async def _pieces(request: web.Request, limit: int, idle: float) -> AsyncIterator[bytes]:
    size = 0
    while piece := await _piece(request, idle, first=size == 0):
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        yield piece


async def _piece(request: web.Request, idle: float, *, first: bool) -> bytes:
    try:
        async with asyncio.timeout(idle):
            if first:
                await ask_for_body(request)
            return await request.content.readany()
    except TimeoutError as error:
        raise ValidationError([FieldError("", f"nothing of the body came for {idle:g} seconds")]) from error
    except (OSError, ValueError, web.RequestPayloadError, web.PayloadAccessError) as error:
        raise ValidationError([FieldError("", f"the body did not come to its end: {error}")]) from error


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body may have at most {limit} bytes")
