"""A streaming parser for multipart forms: linear in time and bounded in parts, headers and preamble.

Neither `email` nor aiohttp's reader suits untrusted bytes: both take time quadratic in the size of a part's headers,
and aiohttp's reads a preamble of any length line by line. Forms need only a subset: no nested forms, no encodings, no
folded headers. Each byte is examined at most twice, by `bytes.find`.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from homed.errors import FieldError, ValidationError

MEDIA = "multipart/form-data"
_MAX_PARTS = 32
_MAX_PART_HEADERS = 8
_MAX_PART_HEAD_BYTES = 8192
_MAX_PARAMETERS = 16
_MAX_BOUNDARY_BYTES = 70  # RFC 2046
_MAX_PREAMBLE_BYTES = 4096
_SLICE_BYTES = 64 * 1024
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*+([^\r\n\0]*+)")
# `; name=token` or `; name="quoted"`: the alternatives begin with different characters, so nothing backtracks.
_PARAMETER = re.compile(
    r';[ \t]*([^\s=;"]{1,64})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]*+)(?=[ \t]*(?:;|$)))[ \t]*',
    re.DOTALL,
)


class Part(NamedTuple):
    """The head of a part. `filename` is None if it has none."""

    name: str
    filename: str | None


class End(NamedTuple):
    """The end of a part."""


Event = Part | bytes | End


class _State(Enum):
    PREAMBLE = auto()
    DELIMITED = auto()  # after a boundary: another part, or the end
    HEAD = auto()
    DATA = auto()
    ENDED = auto()


class FormParser:
    """Splits one form into parts. Raises: ValidationError, for anything but a plain form within the bounds."""

    def __init__(self, content_type: str):
        self._delimiter = b"\r\n--" + boundary_of(content_type)
        self._state = _State.PREAMBLE
        self._buffer = bytearray(b"\r\n")  # so that the first boundary is found like the others
        self._searched = 0
        self._parts = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the heads, data and ends of the parts in `data`, parsed lazily."""
        for start in range(0, len(data), _SLICE_BYTES):
            if self._state is _State.ENDED:
                return  # the epilogue is ignored
            self._buffer += data[start : start + _SLICE_BYTES]
            while (event := self._next()) is not None:
                yield event

    def close(self) -> None:
        """Check that the form is complete."""
        if self._state is not _State.ENDED:
            raise _wrong("the form is truncated or not a form: its last boundary is missing")

    def _next(self) -> Event | None:
        """Return the next event in the buffer; None if more bytes are needed."""
        if self._state is _State.PREAMBLE and not self._preamble():
            return None
        if self._state is _State.DELIMITED and not self._delimited():
            return None
        if self._state is _State.HEAD:
            return self._head()
        return self._data() if self._state is _State.DATA else None

    def _preamble(self) -> bool:
        at = self._find(self._delimiter)
        if at > _MAX_PREAMBLE_BYTES or (at < 0 and len(self._buffer) > _MAX_PREAMBLE_BYTES):
            raise _wrong(f"no part of the form begins within {_MAX_PREAMBLE_BYTES} bytes")
        if at < 0:
            return False
        self._take(at + len(self._delimiter))
        self._state = _State.DELIMITED
        return True

    def _delimited(self) -> bool:
        if len(self._buffer) < 2:
            return False
        after = self._take(2)
        if after == b"--":
            self._state = _State.ENDED
            self._buffer.clear()
            return False
        if after != b"\r\n":
            raise _wrong("the form cannot be read: a boundary is not alone on its line")
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _wrong(f"the form has more than {_MAX_PARTS} parts")
        self._buffer[:0] = b"\r\n"  # so that a head without headers ends like the others
        self._state = _State.HEAD
        return True

    def _head(self) -> Part | None:
        at = self._find(b"\r\n\r\n")
        if at > _MAX_PART_HEAD_BYTES or (at < 0 and len(self._buffer) > _MAX_PART_HEAD_BYTES):
            raise _wrong(f"the head of a part of the form is longer than {_MAX_PART_HEAD_BYTES} bytes")
        if at < 0:
            return None
        head = self._take(at + 4)[2:-4]
        self._state = _State.DATA
        return part_of(_headers(head))

    def _data(self) -> Event | None:
        at = self._find(self._delimiter)
        if at > 0:
            return self._take(at)
        if at == 0:
            self._take(len(self._delimiter))
            self._state = _State.DELIMITED
            return End()
        certain = len(self._buffer) - len(self._delimiter) + 1  # the rest may be the beginning of a boundary
        return self._take(certain) if certain > 0 else None

    def _find(self, wanted: bytes) -> int:
        """Search the part of the buffer that was not searched before."""
        at = self._buffer.find(wanted, self._searched)
        self._searched = max(0, len(self._buffer) - len(wanted) + 1) if at < 0 else at
        return at

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._searched = 0
        return taken


def _headers(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in head.split(b"\r\n", _MAX_PART_HEADERS) if head else ():
        match = _HEADER.fullmatch(line)
        if match is None or (name := match[1].decode().lower()) in found:
            raise _wrong("the head of a part of the form is not valid")
        found[name] = match[2].decode(errors="replace").strip()
    return found


def boundary_of(content_type: str) -> bytes:
    """Return the boundary from a Content-Type (pure). Raises: ValidationError, if it is missing or invalid."""
    boundary = parameters(content_type).get("boundary", "")
    if not boundary or not boundary.isascii() or len(boundary) > _MAX_BOUNDARY_BYTES or not boundary.isprintable():
        raise _wrong(f"the Content-Type names no boundary of 1 to {_MAX_BOUNDARY_BYTES} characters")
    return boundary.encode()


def part_of(headers: dict[str, str]) -> Part:
    """Parse the headers of a part (pure). Raises: ValidationError, for anything but a plain field or file."""
    encoding = headers.get("content-transfer-encoding", "binary").lower()
    if "content-encoding" in headers or encoding not in ("binary", "8bit", "7bit"):
        raise _wrong("a part of the form is encoded: send it as it is")
    if headers.get("content-type", "").lower().startswith("multipart/"):
        raise _wrong("a part of the form is a form itself")
    given = parameters(headers.get("content-disposition", ""))
    return Part(given.get("name", ""), given.get("filename"))


def parameters(header: str) -> dict[str, str]:
    """Return the parameters of a header such as `form-data; name="a"` (pure). Raises: ValidationError, for too many.

    Parsing stops at the first invalid one. `filename*` and similar ones are ignored: RFC 7578 forbids them.
    """
    found: dict[str, str] = {}
    at = header.find(";")
    while at >= 0 and (match := _PARAMETER.match(header, at)) is not None:
        if len(found) >= _MAX_PARAMETERS:
            raise _wrong(f"a header has more than {_MAX_PARAMETERS} parameters")
        quoted, token = match[2], match[3]
        value = token if quoted is None else quoted.replace("\\\\", "\\").replace('\\"', '"')
        if match[1].lower() in found:
            raise _wrong("a parameter of a header is given twice")
        found[match[1].lower()] = value
        at = match.end()
    return found


def _wrong(message: str) -> ValidationError:
    return ValidationError([FieldError("", message)])
