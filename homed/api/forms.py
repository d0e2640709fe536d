"""Forms with a small file, as browsers send them (multipart/form-data), read whole within a bound."""

from typing import NamedTuple

from aiohttp import web

from homed.api.decode import media_type, read_body
from homed.api.multipart import MEDIA, End, FormParser, Part
from homed.errors import FieldError, MediaTypeError, ValidationError


class File(NamedTuple):
    name: str
    data: bytes


async def read_file(request: web.Request, field: str, limit: int) -> File:
    """Return the uploaded file of one field. Raises: MediaTypeError, TooLargeError, ValidationError."""
    if media_type(request) != MEDIA:
        raise MediaTypeError(f"the body must be {MEDIA}")
    return found(request.headers["Content-Type"], await read_body(request, limit), field)


def found(content_type: str, body: bytes, field: str) -> File:
    """Find the file in a form's bytes (pure). Raises: ValidationError."""
    parser = FormParser(content_type)
    file: File | None = None
    data: bytearray | None = None  # data of the wanted part so far
    name = field
    for event in parser.feed(body):
        if isinstance(event, Part):
            if event.name == field and file is None:
                data, name = bytearray(), event.filename or field
        elif isinstance(event, End):
            if data is not None:
                file, data = File(name, bytes(data)), None
        elif data is not None:
            data += event
    parser.close()
    if file is None:
        raise ValidationError([FieldError(field, "is required")])
    return file
