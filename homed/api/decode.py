"""From a request's bytes to the types that its route declares."""

import asyncio
import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from aiohttp import web
from multidict import MultiMapping

from homed import json_structure, validation
from homed.api.budget import LEASE
from homed.errors import FieldError, MediaTypeError, TooLargeError, ValidationError

_BODY_DEADLINE = 30.0
# A body that arrives in small pieces is joined now and then: each piece has an overhead of 40 bytes.
_MANY_PIECES = 64
_MIN_PIECE_BYTES = 1024
# Memory of a decoded value in addition to its text: an empty list 72 bytes, a key and its slot in a dict 100.
_VALUE_BYTES = 64
_FEW_VALUES = 256


async def ask_for_body(request: web.Request) -> None:
    """Send 100 Continue if the client waits for it; aiohttp's own handler fails on unknown expectations."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


async def read_body(request: web.Request, limit: int) -> bytes:
    """Read the body, at most `limit` bytes within half a minute.

    Memory for it is reserved before it is read. Raises: BudgetError, TooLargeError, ValidationError.
    """
    length = request.content_length
    if length is not None and length > limit:
        raise TooLargeError(f"the body may have at most {limit} bytes")
    lease = request.get(LEASE)
    if lease is not None and length:
        await lease.reserve(length)
    await ask_for_body(request)
    # Pieces are kept as received: many bodies growing at the same time would fragment the heap.
    pieces: list[bytes] = []
    size, chunk = 0, b""
    try:
        async with asyncio.timeout(_BODY_DEADLINE):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > limit:
                    raise TooLargeError(f"the body may have at most {limit} bytes")
                if lease is not None:
                    await lease.reserve_for(size)
                pieces.append(chunk)
                if len(pieces) > _MANY_PIECES and size < len(pieces) * _MIN_PIECE_BYTES:
                    pieces[:] = [b"".join(pieces)]
        return b"".join(pieces)
    except TimeoutError as error:
        raise ValidationError([FieldError("", "the body did not arrive in time")]) from error
    except (web.RequestPayloadError, ValueError) as error:
        raise ValidationError([FieldError("", f"the body cannot be read: {error}")]) from error
    finally:
        # The request keeps the error of a lost connection, whose traceback refers back to the request: a reference
        # cycle, which the garbage collector frees eventually. Large data is released here at once.
        pieces.clear()
        chunk = b""


def check_encoding(request: web.Request) -> None:
    """Refuse an encoded body on any route before reading it. Raises: MediaTypeError."""
    coding = request.headers.get("Transfer-Encoding", "chunked").strip().lower()
    if request.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity") or coding != "chunked":
        raise MediaTypeError(
            "no Content-Encoding is accepted, nor a Transfer-Encoding other than chunked: send the body as it is",
            code="ENCODING_NOT_SUPPORTED",
        )


async def read_json(
    request: web.Request,
    kind: type[msgspec.Struct],
    limit: int,
    *,
    optional: bool,
    prune: Callable[[object], object] | None = None,
) -> object:
    """Decode the body as a `kind`; its defaults if it is `optional` and empty. `prune` gets its JSON first.

    Raises: MediaTypeError, and the errors of `read_body`.
    """
    if request.content_length or not optional:
        check_json(request)
    data = await read_body(request, limit)
    if optional and not data:
        return kind()
    check_json(request)
    lease = request.get(LEASE)
    if lease is not None and (values := json_structure.most_values(data)) > _FEW_VALUES:
        await lease.reserve(values * _VALUE_BYTES)
    return validation.decode_json(data, kind, prune=prune)


def media_type(request: web.Request) -> str:
    """Return the media type of the body without its parameters; empty if the header is missing.

    Not `request.content_type`: `email` parses that, and takes half a second for 8 KB of semicolons.
    """
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def check_json(request: web.Request) -> None:
    """Only JSON, said to be JSON: a web page can send the simple types across origins without being asked."""
    kind = media_type(request)
    if kind != "application/json" and not kind.endswith("+json"):
        raise MediaTypeError("the body must be application/json")


def decode_query(query: MultiMapping[str], kind: type[msgspec.Struct]) -> Any:
    """A struct from the query string: its tuple fields take a repeated parameter, unknown ones are passed over."""
    values: dict[str, object] = {}
    for name, is_list in _parameters(kind):
        if name in query:
            values[name] = query.getall(name) if is_list else query[name]
    return validation.convert(values, kind, strict=False)


@cache
def _parameters(kind: type[msgspec.Struct]) -> tuple[tuple[str, bool], ...]:
    """The names that a route's query may have, and whether each may be given several times."""
    return tuple((field.encode_name, _is_list(field.type)) for field in msgspec.structs.fields(kind))


def _is_list(kind: Any) -> bool:
    if typing.get_origin(kind) is typing.Annotated:
        return _is_list(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(_is_list(member) for member in typing.get_args(kind))
    return typing.get_origin(kind) in (tuple, list)
