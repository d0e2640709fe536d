"""From a request's path to its route, as far as aiohttp's router does not do it."""

import re
from collections.abc import Awaitable, Callable

from aiohttp import web

Entry = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def expect_nothing(request: web.Request) -> None:
    """Leave the client waiting until its body is asked for: once it is known that it will be taken."""


def without_slash(app: web.Application, last: Entry) -> Entry:
    """Answer a path with a slash at its end as the one without, and what is none either by `last`."""

    async def entry(request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if len(path) > 1 and path.endswith("/"):
            url = request.rel_url.with_path(path[:-1], encoded=True, keep_query=True)
            found = await app.router.resolve(request.clone(rel_url=url))
            if found.handler is not entry:
                request.match_info.clear()
                request.match_info.update(found)
                answer: web.StreamResponse = await found.handler(request)
                return answer
        return await last(request)

    return entry


def matches(pattern: str, path: str) -> bool:
    """Whether a path, with or without a slash at its end, is one of the pattern (pure)."""
    parts = re.split(r"\{[^/]+?\}", pattern)
    return re.fullmatch("[^/]+".join(map(re.escape, parts)) + "/?", path) is not None
