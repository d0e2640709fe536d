"""How the board does, part by part: each part tells for itself, and one word sums it up."""

from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec


class Level(StrEnum):
    """A health level: `degraded` works with limitations; `unhealthy` does not work; `starting`: not known yet."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    STARTING = "starting"
    UNHEALTHY = "unhealthy"


_ORDER = {Level.HEALTHY: 0, Level.DEGRADED: 1, Level.STARTING: 2, Level.UNHEALTHY: 3}


class Component(msgspec.Struct, frozen=True):
    """`needed` parts decide on readiness."""

    status: Level
    message: str | None = None
    needed: bool = True


class Health:
    """Parts register a function that tells how they are; it must be quick."""

    def __init__(self) -> None:
        self._parts: dict[str, Callable[[], Component]] = {}

    def add(self, name: str, tell: Callable[[], Component]) -> None:
        self._parts[name] = tell

    def components(self) -> dict[str, Component]:
        return {name: tell() for name, tell in self._parts.items()}


def overall(components: Mapping[str, Component]) -> Level:
    """The worst of all, though a part that is not needed only degrades."""
    levels = [
        component.status if component.needed else min(component.status, Level.DEGRADED, key=_ORDER.__getitem__)
        for component in components.values()
    ]
    return max(levels, key=_ORDER.__getitem__, default=Level.HEALTHY)


def not_ready(components: Mapping[str, Component]) -> list[str]:
    """Return the required components that are unhealthy or starting, with the reasons."""
    return [
        f"{name}: {component.message or component.status}"
        for name, component in components.items()
        if component.needed and component.status in (Level.STARTING, Level.UNHEALTHY)
    ]
