"""Routes of a component that may be unavailable: they answer 503 until it is available again."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from homed.api.routes import Call, Route


def guarded(require: Callable[[], None], routes: Sequence[Route]) -> list[Route]:
    """Call `require`, which raises while the component is unavailable, before each handler."""
    return [replace(route, handler=_guard(require, route)) for route in routes]


def _guard(require: Callable[[], None], route: Route) -> Callable[[Call], Awaitable[Any]]:
    handler = route.handler

    async def call_handler(call: Call) -> Any:
        require()
        return await handler(call)

    return call_handler
