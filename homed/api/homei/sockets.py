"""`/ws/events`: what happens on the board, as it happens."""

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from homed.api.routes import Call, Route
from homed.api.streaming import Streaming

Pattern = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[a-z_*.]+$(?!\n)",
        description="an event's type or the beginning of one with a star: container.*",
    ),
]


class EventQuery(msgspec.Struct, frozen=True):
    """`type` may be given several times; `*` stands for any run of characters: `container.*`."""

    type: Annotated[tuple[Pattern, ...], Meta(max_length=32)] = ()


def routes(streaming: Streaming) -> list[Route]:
    async def events(call: Call) -> web.StreamResponse:
        return await streaming.events(call, call.query.type)

    return [
        Route(
            "GET", "/ws/events", events, "Follow the board's events", "Events", "containers",
            query=EventQuery, socket=True, errors=(400, 503),
        )
    ]  # fmt: skip
