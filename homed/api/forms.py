"""Forms with a small file, as browsers send them (multipart/form-data), read whole within a bound."""

from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from typing import NamedTuple

from aiohttp import web

from homed.api.decode import ask_for_body, read_body
from homed.errors import FieldError, MediaTypeError, ValidationError

MEDIA = "multipart/form-data"


class File(NamedTuple):
    name: str
    data: bytes


async def read_file(request: web.Request, field: str, limit: int) -> File:
    """The file of one field. MediaTypeError, TooLargeError, ValidationError."""
    if request.content_type != MEDIA:
        raise MediaTypeError(f"the body must be {MEDIA}")
    await ask_for_body(request)
    return found(request.headers["Content-Type"], await read_body(request, limit), field)


def found(content_type: str, body: bytes, field: str) -> File:
    """Pure: from a form's bytes. ValidationError."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    form = BytesParser(policy=HTTP).parsebytes(head + body)
    if not form.is_multipart():
        raise ValidationError([FieldError("", "the body is not a form")])
    for part in form.iter_parts():
        if _parameter(part, "name") == field:
            data = part.get_payload(decode=True)
            return File(_parameter(part, "filename") or field, data if isinstance(data, bytes) else b"")
    raise ValidationError([FieldError(field, "is required")])


def _parameter(part: Message, name: str) -> str:
    value = part.get_param(name, "", "content-disposition")
    return value if isinstance(value, str) else value[2]
