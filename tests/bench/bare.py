"""`python -m tests.bench.bare PORT FOLDER`: an aiohttp server that answers each path with the bytes of a file.

It has aiohttp's router, parser and writer, and nothing of homed: what its requests cost is the floor.
"""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web


def main(port: int, folder: Path) -> None:
    application = web.Application()
    for file in folder.iterdir():
        application.router.add_get(file.name.replace("|", "/"), _handler(file.read_bytes()))
    web.run_app(application, host="127.0.0.1", port=port, access_log=None, print=None)


def _handler(body: bytes) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    return answer


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
