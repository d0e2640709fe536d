"""Never more than a limit allows, in bounded memory, with numbers that agree."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed.api import openapi
from homed.api.limits import HOUR, MINUTE, SECOND, Limiter, Rate, client_of, take, telling
from homed.api.retire import tasks
from homed.api.routes import Call, Route
from homed.config import Limits
from tests.support.front import FAMILY, Clock, Server, config, serve

_GAPS = st.lists(st.floats(0, 120, allow_nan=False) | st.just(0.0), max_size=200)


@settings(deadline=None)
@given(limit=st.integers(1, 100), gaps=_GAPS)
def test_never_more_than_a_burst_and_what_was_refilled(limit: int, gaps: list[float]) -> None:
    clock = Clock()
    limiter = Limiter(16, clock)
    allowed: list[float] = []
    for gap in gaps:
        clock.now += gap
        if limiter.check("a", Rate("x", limit)).allowed:
            allowed.append(clock.now)
    for i, start in enumerate(allowed):
        for j in range(i, len(allowed)):
            assert j - i + 1 <= limit + (allowed[j] - start) * limit / MINUTE + 1e-6


@given(limit=st.integers(1, 1000), window=st.sampled_from([SECOND, MINUTE, HOUR]), gaps=_GAPS)
def test_the_numbers_agree_with_what_comes_next(limit: int, window: float, gaps: list[float]) -> None:
    bucket, now, rate = None, 0.0, Rate("x", limit, window)
    for gap in gaps:
        now += gap
        bucket, verdict = take(bucket, rate, now)
        assert 0 <= verdict.remaining < limit or limit == 1
        assert 0 <= verdict.reset <= window + 1e-9
        if verdict.allowed:
            assert verdict.retry_after == 0
            if verdict.remaining:
                assert take(bucket, rate, now)[1].allowed
        else:
            assert verdict.remaining == 0 and verdict.retry_after > 0
            assert take(bucket, rate, now + verdict.retry_after + 1e-6)[1].allowed
        assert take(bucket, rate, now + verdict.reset + 1e-6)[1].remaining == limit - 1


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket, _ = take(None, Rate("x", 1), 100.0)
    assert not take(bucket, Rate("x", 1), 50.0)[1].allowed


@given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from("xyz")), max_size=300), st.integers(16, 40))
def test_the_memory_is_bounded(asked: list[tuple[int, str]], clients: int) -> None:
    limiter = Limiter(clients, Clock())
    for client, name in asked:
        limiter.check(str(client), Rate(name, 5))
        assert len(limiter) <= clients
    limiter.clients = 16
    limiter.check("new", Rate("x", 5))
    assert len(limiter) <= 16


def test_who_was_not_seen_for_longest_is_forgotten_first() -> None:
    limiter = Limiter(2, Clock())
    for client in ("a", "b", "a", "c"):
        limiter.check(client, Rate("x", 2))
    assert limiter.exhausted("a", Rate("x", 2)) is not None
    assert limiter.check("b", Rate("x", 2)).remaining == 1


def test_clients_and_classes_do_not_share() -> None:
    limiter = Limiter(16, Clock())
    assert limiter.check("a", Rate("x", 1)).allowed and not limiter.check("a", Rate("x", 1)).allowed
    assert limiter.check("a", Rate("y", 1)).allowed and limiter.check("b", Rate("x", 1)).allowed


def test_asking_whether_it_is_exhausted_takes_nothing() -> None:
    limiter = Limiter(16, Clock())
    for _ in range(5):
        assert limiter.exhausted("a", Rate("x", 1)) is None
    assert limiter.check("a", Rate("x", 1)).allowed
    verdict = limiter.exhausted("a", Rate("x", 1))
    assert verdict is not None and not verdict.allowed


MINUTELY, HOURLY, AT_ONCE = Rate("m", 60), Rate("h", 100, HOUR), Rate("b", 10, SECOND)


def test_a_request_counts_for_every_rate_or_for_none() -> None:
    clock = Clock()
    limiter = Limiter(16, clock)
    for _ in range(10):
        assert limiter.check("a", MINUTELY, HOURLY, AT_ONCE).allowed
    refused = [limiter.check("a", MINUTELY, HOURLY, AT_ONCE) for _ in range(30)]
    assert {(verdict.allowed, verdict.rate) for verdict in refused} == {(False, AT_ONCE)}
    assert limiter.check("a", MINUTELY).remaining == 49
    assert limiter.check("a", HOURLY).remaining == 89


@given(st.lists(st.floats(0, 200, allow_nan=False) | st.just(0.0), max_size=300))
def test_no_rate_lets_through_more_than_it_says_beside_the_others(gaps: list[float]) -> None:
    clock = Clock()
    limiter = Limiter(16, clock)
    allowed: list[float] = []
    for gap in gaps:
        clock.now += gap
        if limiter.check("a", MINUTELY, HOURLY, AT_ONCE).allowed:
            allowed.append(clock.now)
    for rate in (MINUTELY, HOURLY, AT_ONCE):
        for i, start in enumerate(allowed):
            most = rate.limit + (allowed[-1] - start) * rate.limit / rate.window
            assert len(allowed) - i <= most + 1e-6


def test_the_rate_that_is_nearest_to_its_end_is_told() -> None:
    clock = Clock()
    limiter = Limiter(16, clock)
    first = limiter.check("a", MINUTELY, HOURLY, AT_ONCE)
    assert (first.rate, first.remaining) == (MINUTELY, 59)
    for _ in range(9):
        for _ in range(9):
            clock.now += 1.1
            last = limiter.check("a", MINUTELY, HOURLY, AT_ONCE)
    assert last.allowed
    assert last.rate == HOURLY
    assert last.remaining < 59


def test_of_two_refusals_the_longer_is_told() -> None:
    limiter = Limiter(16, Clock())
    minutely, hourly = Rate("m", 1), Rate("h", 1, HOUR)
    assert limiter.check("a", minutely, hourly).allowed
    verdict = limiter.check("a", minutely, hourly)
    assert (verdict.rate, verdict.retry_after) == (hourly, HOUR)
    assert telling([verdict]) == verdict


def test_who_is_refused_is_not_forgotten_for_it() -> None:
    limiter = Limiter(2, Clock())
    for client in ("a", "b", "a", "c"):
        limiter.check(client, Rate("x", 1))
    assert limiter.exhausted("a", Rate("x", 1)) is not None


def test_an_ipv6_client_is_its_network() -> None:
    assert client_of("2001:db8:1:2:3::4") == client_of("2001:db8:1:2::9%eth0") == "2001:db8:1:2::/64"
    assert client_of("2001:db8:1:3::4") != client_of("2001:db8:1:2::4")
    assert client_of("::1") == "::1" and client_of("10.0.0.1") == "10.0.0.1"
    assert client_of("::ffff:10.0.0.1") != client_of("::ffff:10.0.0.2")
    assert client_of("unix") == "unix" and client_of("a:b") == "a:b"


async def _nothing(call: Call) -> dict[str, str]:
    return {}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    def routes(_: object) -> list[Route]:
        return [
            Route("GET", "/tasks", _nothing, "Get", "Things", "tasks", hourly="tasks_hour", burst="tasks_burst"),
            Route("GET", "/jobs", _nothing, "Get", "Things", "jobs"),
            Route("POST", "/jobs", _nothing, "Submit", "Things", "jobs", hourly="submissions", change="submit"),
        ]

    limits = Limits(jobs=50, submissions=60, tasks=20, tasks_hour=30, tasks_burst=10)
    async with serve(tmp_path, config(limits), routes=routes) as server:
        yield server


def test_the_document_names_every_class_that_counts() -> None:
    routes = [
        Route("GET", "/a", _nothing, "Get", "Things", "jobs"),
        Route("POST", "/a", _nothing, "Submit", "Things", "jobs", hourly="submissions", headers={"X-Own": "Its own."}),
        Route("GET", "/b", _nothing, "Get", "Things", "tasks", hourly="tasks_hour", burst="tasks_burst"),
    ]
    paths = openapi.document([(FAMILY, routes)], "0")["paths"]
    assert paths["/a"]["get"]["description"].endswith("Limit class: `jobs`.")
    assert paths["/a"]["post"]["description"].endswith("Limit class: `jobs`, by the hour `submissions`.")
    assert paths["/b"]["get"]["description"].endswith("`tasks`, by the hour `tasks_hour`, at once `tasks_burst`.")
    (own,) = paths["/a"]["post"]["parameters"]
    assert (own["name"], own["in"], own["description"]) == ("X-Own", "header", "Its own.")


async def numbers(server: Server, method: str, path: str) -> tuple[int, int, int]:
    """The status, the limit that is told, and what is left of it."""
    async with server.request(method, path) as answer:
        told = answer.headers
        assert int(told["X-RateLimit-Reset"]) >= int(time.time()) - 1
        return answer.status, int(told["X-RateLimit-Limit"]), int(told["X-RateLimit-Remaining"])


async def test_only_so_many_requests_come_at_once(server: Server) -> None:
    assert await numbers(server, "GET", "/tasks") == (200, 20, 19)
    for left in range(18, 9, -1):
        assert await numbers(server, "GET", "/tasks") == (200, 20, left)
    async with server.request("GET", "/tasks") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
        error = (await answer.json())["error"]
        assert error["code"] == "RATE_LIMIT_EXCEEDED"
        assert error["details"] == {"class": "tasks_burst", "limit": 10, "retry_after": 1}
        assert "10 requests at once" in error["message"]
    server.clock.now += 1
    assert (await numbers(server, "GET", "/tasks"))[0] == 200


def test_only_submissions_of_tasks_are_bounded_by_the_seconds_burst_of_the_document() -> None:
    """A client that polls status and result of five tasks at once is not refused."""
    jobs: Any = None
    config_of: Any = None
    bursts = {(route.method, route.path): route.burst for route in tasks.routes(jobs, config_of)}
    few = {key for key, burst in bursts.items() if burst == "tasks_burst"}
    assert few == {("POST", "/api/v1/tasks"), ("POST", "/api/v1/tasks/{task_id}/retry")}
    assert {burst for key, burst in bursts.items() if key not in few} == {"tasks_poll_burst"}
    defaults = Limits()
    assert (defaults.tasks, defaults.tasks_hour, defaults.tasks_burst, defaults.tasks_poll_burst) == (60, 1000, 10, 30)


async def test_an_hour_has_its_own_limit_beside_the_minutes(server: Server) -> None:
    for _ in range(30):
        server.clock.now += 3
        assert (await numbers(server, "GET", "/tasks"))[0] == 200
    async with server.request("GET", "/tasks") as answer:
        assert answer.status == 429
        error = (await answer.json())["error"]
        assert error["details"]["class"] == "tasks_hour"
        assert "30 requests an hour" in error["message"]
        assert 1 < int(answer.headers["Retry-After"]) <= 120, "one comes back every two minutes"
    assert (await numbers(server, "GET", "/jobs"))[0] == 200, "another class has its own"


async def test_submissions_are_counted_by_the_hour_beside_all_requests_by_the_minute(server: Server) -> None:
    for _ in range(40):
        assert (await numbers(server, "POST", "/jobs"))[0] == 200
    assert await numbers(server, "GET", "/jobs") == (200, 50, 9)
    for _ in range(9):
        assert (await numbers(server, "POST", "/jobs"))[0] == 200
    assert await numbers(server, "POST", "/jobs") == (429, 50, 0)
    server.clock.now += 60
    for left in range(11, 0, -1):
        status, limit, remaining = await numbers(server, "POST", "/jobs")
        assert (status, limit) == (200, 60)
        assert remaining in (left - 1, left)
