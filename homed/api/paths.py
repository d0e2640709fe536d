"""Path matching beyond aiohttp's router: trailing slashes and deferred 100 Continue."""

import re
from collections.abc import Awaitable, Callable

from aiohttp import web

Entry = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def expect_nothing(request: web.Request) -> None:
    """Defer 100 Continue until the handler reads the body, when it is certain that the request is accepted."""


def without_slash(app: web.Application, last: Entry) -> Entry:
    """Route a path with a trailing slash like the one without it, and unknown paths to `last`."""

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
    """Return whether a path, with or without a trailing slash, matches the pattern (pure)."""
    parts = re.split(r"\{[^/]+?\}", pattern)
    return re.fullmatch("[^/]+".join(map(re.escape, parts)) + "/?", path) is not None
