"""Send long responses in pieces, within the memory budget, and abort them if the reader is too slow."""

import asyncio

from aiohttp import web

from homed.api.budget import Lease

# aiohttp sends shorter ones itself, in one write.
_LONG_BYTES = 64 * 1024
_PIECE_BYTES = 64 * 1024
_DEADLINE = 30.0
_MIN_BYTES_PER_SECOND = 64 * 1024


def is_long(request: web.Request, response: web.StreamResponse) -> bool:
    """Return whether the response is long enough for `send`."""
    return (
        isinstance(response, web.Response)
        and isinstance(response.body, bytes)
        and len(response.body) > _LONG_BYTES
        and not response.prepared
        and request.method != "HEAD"
    )


async def send(request: web.Request, response: web.StreamResponse, lease: Lease, *, must: bool) -> bool:
    """Send a long response within the handler. Return False if there is no memory for it, unless `must` is set.

    A single write would copy it into the transport's buffer, and hold it until the client has read the last byte.
    """
    assert isinstance(response, web.Response)
    body = response.body
    assert isinstance(body, bytes)
    if not lease.try_reserve(len(body)) and not must:
        return False
    try:
        async with asyncio.timeout(_DEADLINE + len(body) / _MIN_BYTES_PER_SECOND):
            await response.prepare(request)
            response.body = None  # write_eof would send it again
            view = memoryview(body)
            for start in range(0, len(view), _PIECE_BYTES):
                await response.write(view[start : start + _PIECE_BYTES])
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    finally:
        lease.release()
    return True
