"""`/docs` (Swagger UI) and `/redoc`, with assets out of an installed package: a board has no internet.

The package is drf-spectacular-sidecar: its static files only, its code is never imported.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from homed.access.scopes import Scope
from homed.api import transfers
from homed.api.routes import Call, Route
from homed.errors import NotFoundError

_ASSETS = {
    "swagger-ui.css": ("swagger-ui-dist/swagger-ui.css", "text/css"),
    "swagger-ui-bundle.js": ("swagger-ui-dist/swagger-ui-bundle.js", "text/javascript"),
    "favicon.png": ("swagger-ui-dist/favicon-32x32.png", "image/png"),
    "redoc.js": ("redoc/bundles/redoc.standalone.js", "text/javascript"),
}
_HEAD = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>homed</title>'
_ICON = '<link rel="icon" href="/docs/assets/favicon.png">'
_SWAGGER = (
    f'{_HEAD}{_ICON}<link rel="stylesheet" href="/docs/assets/swagger-ui.css"></head><body><div id="ui"></div>'
    '<script src="/docs/assets/swagger-ui-bundle.js"></script>'
    '<script src="/docs/assets/start.js"></script></body></html>'
)
_START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#ui", deepLinking: true, validatorUrl: null});'
_REDOC = (
    f'{_HEAD}{_ICON}<style>body{{margin:0}}</style></head><body><redoc spec-url="/openapi.json" '
    'disable-search="false"></redoc><script src="/docs/assets/redoc.js"></script></body></html>'
)
# Nothing from elsewhere, no inline script; both tools write inline styles, and ReDoc searches in a worker.
_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; worker-src blob:; "
    "frame-ancestors 'none'; base-uri 'none'"
)
_MISSING = (
    f"{_HEAD}</head><body><p>The pages need the package drf-spectacular-sidecar (its files only: install it by"
    'pip\'s --no-deps). The description itself is at <a href="/openapi.json">/openapi.json</a>.</p></body></html>'
)


def assets_folder() -> Path | None:
    """Where the installed assets are; None where the package is missing."""
    found = importlib.util.find_spec("drf_spectacular_sidecar")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "static" / "drf_spectacular_sidecar"


def routes(openapi: Callable[[], dict[str, Any]], asyncapi: Callable[[], dict[str, Any]]) -> list[Route]:
    folder = assets_folder()
    cached: dict[str, bytes] = {}

    def page(text: str) -> Callable[[Call], Any]:
        async def answer(call: Call) -> web.Response:
            body = text if folder is not None else _MISSING
            return web.Response(text=body, content_type="text/html", headers={"Content-Security-Policy": _POLICY})

        return answer

    def description(name: str, make: Callable[[], dict[str, Any]]) -> Callable[[Call], Any]:
        async def answer(call: Call) -> web.Response:
            if name not in cached:
                cached[name] = msgspec.json.encode(make())
            return web.Response(body=cached[name], content_type="application/json")

        return answer

    async def asset(call: Call) -> web.StreamResponse:
        name = call.path["name"]
        cache = {"Cache-Control": "max-age=86400"}
        if name == "start.js":
            return web.Response(text=_START, content_type="text/javascript", headers=cache)
        if name not in _ASSETS or folder is None:
            raise NotFoundError(f"there is no asset '{name}'")
        path, kind = _ASSETS[name]
        return await transfers.send(call.request, folder / path, kind, headers=cache, inline=True)

    def route(path: str, handler: Callable[[Call], Any], summary: str, scope: Scope | None = None) -> Route:
        return Route("GET", path, handler, summary, "Documentation", "docs", scope=scope, documented=False)

    return [
        route("/docs", page(_SWAGGER), "Swagger UI"),
        route("/redoc", page(_REDOC), "ReDoc"),
        route("/docs/assets/{name}", asset, "Assets of the pages"),
        route("/openapi.json", description("openapi", openapi), "The OpenAPI document"),
        route("/asyncapi.json", description("asyncapi", asyncapi), "The AsyncAPI document of the sockets", Scope.READ),
    ]
