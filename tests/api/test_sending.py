"""Long answers: whole, in pieces, within the budget, and dropped when nobody reads them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from homed.api import sending
from homed.api.budget import Budget

BODY = bytes(range(256)) * 16_384


@asynccontextmanager
async def served(budget: Budget, *, must: bool = False) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    async def long(request: web.Request) -> web.Response:
        response = web.Response(body=BODY, content_type="text/plain")
        if sending.is_long(request, response) and not await sending.send(request, response, budget.lease(), must=must):
            return web.Response(status=503)
        return response

    app = web.Application()
    app.router.add_get("/", long)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_a_long_answer_is_whole_and_the_connection_goes_on() -> None:
    budget = Budget(64 << 20)
    async with served(budget) as client:
        for _ in range(2):
            async with client.get("/") as answer:
                assert await answer.read() == BODY
                assert answer.content_length == len(BODY)
        async with client.head("/") as answer:
            assert answer.content_length == len(BODY)
    assert budget.used == 0


async def test_an_answer_that_nobody_reads_is_held_in_the_budget_and_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_DEADLINE", 0.5)
    monkeypatch.setattr(sending, "_MIN_BYTES_PER_SECOND", 1 << 40)
    budget = Budget(6 << 20)
    async with served(budget) as client:
        server = client.server
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not budget.used:
            await asyncio.sleep(0.01)
        async with client.get("/") as answer:
            assert answer.status == 503
        while budget.used:
            await asyncio.sleep(0.01)
        async with client.get("/") as answer:
            assert await answer.read() == BODY
        writer.close()


async def test_the_answer_to_a_change_is_sent_whatever_is_held() -> None:
    budget = Budget(6 << 20)
    held = budget.lease()
    assert held.try_reserve(6 << 20)
    async with served(budget, must=True) as client, client.get("/") as answer:
        assert await answer.read() == BODY
