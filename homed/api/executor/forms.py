"""Forms with a file in them (multipart/form-data), read as they come: the file is written on, and never held."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from homed.api.decode import ask_for_body
from homed.errors import FieldError, MediaTypeError, TooLargeError, ValidationError
from homed.jobs.uploads import Upload

_CHUNK = 256 * 1024
_IDLE = 30.0
_MOST_PARTS = 32
_AROUND = 1 << 20  # what a form has beside its file
Take = Callable[[str, AsyncIterator[bytes]], Awaitable[Upload]]


class Form(NamedTuple):
    """`fields` are those that were asked for, as far as they were there."""

    fields: Mapping[str, str]
    file: Upload | None


class _Reading:
    def __init__(self, limits: Mapping[str, int], take: Take):
        self.limits = limits
        self.take = take
        self.fields: dict[str, str] = {}
        self.file: Upload | None = None


async def read(
    request: web.Request, limits: Mapping[str, int], most: int, take: Take, discard: Callable[[Upload], Awaitable[None]]
) -> Form:
    """The form's fields of the names in `limits` (with how many bytes each may have), and its field `file`, which
    `take` has written. They come in any order; what nobody asked for is passed over. Nothing stays where it fails.

    `most` is how many bytes the file may have. MediaTypeError, TooLargeError, ValidationError, what `take` raises.
    """
    if request.content_type != "multipart/form-data":
        raise MediaTypeError("the body must be multipart/form-data")
    if request.content_length is not None and request.content_length > most + _AROUND:
        raise TooLargeError(f"the file may have at most {most} bytes")
    await ask_for_body(request)
    reading = _Reading(limits, take)
    try:
        await _read_parts(request, reading)
    except BaseException as error:
        if reading.file is not None:
            with suppress(asyncio.CancelledError):
                await asyncio.shield(discard(reading.file))
        if isinstance(error, TimeoutError):
            raise _wrong(f"nothing of the form came for {_IDLE:g} seconds") from error
        if isinstance(error, HttpProcessingError):
            raise _wrong("the head of a part of the form is not one") from error
        if isinstance(error, (OSError, ValueError, EOFError, web.RequestPayloadError, web.PayloadAccessError)):
            raise _wrong(f"the form cannot be read: {error}") from error
        raise
    return Form(reading.fields, reading.file)


async def _read_parts(request: web.Request, reading: _Reading) -> None:
    parts = await request.multipart()
    for _ in range(_MOST_PARTS):
        async with asyncio.timeout(_IDLE):
            part = await _next(parts)
        if part is None:
            return
        if isinstance(part, MultipartReader) or part.headers.get("Content-Encoding"):
            raise _wrong("a part of the form is not plain")
        if part.headers.get("Content-Transfer-Encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
            raise _wrong("a part of the form is encoded")
        await _take_part(part, reading)
    raise _wrong(f"the form has more than {_MOST_PARTS} parts")


async def _next(parts: MultipartReader) -> MultipartReader | BodyPartReader | None:
    try:
        return await parts.next()
    except (RuntimeError, AssertionError) as error:  # of a first part that is named _charset_, and holds none
        raise _wrong("the form cannot be read: its charset is none") from error


async def _take_part(part: BodyPartReader, reading: _Reading) -> None:
    name = part.name or ""
    if name in reading.fields or (name == "file" and reading.file is not None):
        raise ValidationError([FieldError(name, "may be given once")])
    if name == "file":
        reading.file = await reading.take(part.filename or "archive.zip", _chunks(part))
    else:
        most = reading.limits.get(name, _AROUND)
        data = bytearray()
        async for chunk in _chunks(part):
            if len(data) + len(chunk) > most:
                raise TooLargeError(f"the field '{name[:64]}' may have at most {most} bytes")
            data += chunk if name in reading.limits else b""
        if name in reading.limits:
            try:
                reading.fields[name] = data.decode()
            except UnicodeDecodeError as error:
                raise ValidationError([FieldError(name, "must be UTF-8")]) from error


async def _chunks(part: BodyPartReader) -> AsyncIterator[bytes]:
    while True:
        async with asyncio.timeout(_IDLE):
            chunk = await part.read_chunk(_CHUNK)
        if not chunk:
            return
        yield bytes(chunk)


def _wrong(said: str) -> ValidationError:
    return ValidationError([FieldError("", said)])
