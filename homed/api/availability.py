"""Routes of a component that may be away: they answer 503 until it is back."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from homed.api.routes import Call, Route


def guarded(require: Callable[[], None], routes: Sequence[Route]) -> list[Route]:
    """Have `require`, which raises while the component is away, called before each handler."""
    return [replace(route, handler=_guard(require, route)) for route in routes]


def _guard(require: Callable[[], None], route: Route) -> Callable[[Call], Awaitable[Any]]:
    handler = route.handler

    async def call_handler(call: Call) -> Any:
        require()
        return await handler(call)

    return call_handler
