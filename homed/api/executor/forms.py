"""Forms with a file in them (multipart/form-data), read as they come: the file is written on, and never held."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from aiohttp import web

from homed.api.decode import ask_for_body, media_type
from homed.api.multipart import MEDIA, Event, FormParser, Part
from homed.errors import FieldError, MediaTypeError, TooLargeError, ValidationError
from homed.jobs.uploads import Upload

_IDLE = 30.0
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
    if media_type(request) != MEDIA:
        raise MediaTypeError(f"the body must be {MEDIA}")
    if request.content_length is not None and request.content_length > most + _AROUND:
        raise TooLargeError(f"the file may have at most {most} bytes")
    await ask_for_body(request)
    reading = _Reading(limits, take)
    try:
        await _read_parts(request, reading, most)
    except BaseException as error:
        if reading.file is not None:
            with suppress(asyncio.CancelledError):
                await asyncio.shield(discard(reading.file))
        if isinstance(error, TimeoutError):
            raise _wrong(f"nothing of the form came for {_IDLE:g} seconds") from error
        if isinstance(error, (OSError, ValueError, web.RequestPayloadError, web.PayloadAccessError)):
            raise _wrong(f"the form cannot be read: {error}") from error
        raise
    return Form(reading.fields, reading.file)


async def _read_parts(request: web.Request, reading: _Reading, most: int) -> None:
    parts = _Parts(request, most)
    while (part := await parts.next()) is not None:
        await _take_part(part, parts, reading)


class _Parts:
    """The parts of a form, as a stream: the data of each part must be read before the next part."""

    def __init__(self, request: web.Request, most: int):
        self._request = request
        self._parser = FormParser(request.headers["Content-Type"])
        self._events: Iterator[Event] = iter(())
        self._most = most

    async def next(self) -> Part | None:
        while (event := await self._event()) is not None:
            if isinstance(event, Part):
                return event
        self._parser.close()
        return None

    async def data(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self._event(), bytes):
            yield event

    async def _event(self) -> Event | None:
        while (event := next(self._events, None)) is None:
            async with asyncio.timeout(_IDLE):
                piece = await self._request.content.readany()
            if not piece:
                return None
            self._most -= len(piece)
            if self._most < -_AROUND:
                raise TooLargeError("the form exceeds the size limit of a file with its fields")
            self._events = self._parser.feed(piece)
        return event


async def _take_part(part: Part, parts: _Parts, reading: _Reading) -> None:
    name = part.name
    if name in reading.fields or (name == "file" and reading.file is not None):
        raise ValidationError([FieldError(name, "may be given once")])
    if name == "file":
        reading.file = await reading.take(part.filename or "archive.zip", parts.data())
    else:
        most = reading.limits.get(name, _AROUND)
        data, size = bytearray(), 0
        async for chunk in parts.data():
            size += len(chunk)
            if size > most:
                raise TooLargeError(f"the field '{name[:64]}' may have at most {most} bytes")
            data += chunk if name in reading.limits else b""
        if name in reading.limits:
            try:
                reading.fields[name] = data.decode()
            except UnicodeDecodeError as error:
                raise ValidationError([FieldError(name, "must be UTF-8")]) from error


def _wrong(said: str) -> ValidationError:
    return ValidationError([FieldError("", said)])
