"""Never more than a limit allows, in bounded memory, with numbers that agree."""

from hypothesis import given, settings
from hypothesis import strategies as st

from homed.api.limits import WINDOW, Limiter, client_of, take
from tests.support.front import Clock

_GAPS = st.lists(st.floats(0, 120, allow_nan=False) | st.just(0.0), max_size=200)


@settings(deadline=None)
@given(limit=st.integers(1, 100), gaps=_GAPS)
def test_never_more_than_a_burst_and_what_was_refilled(limit: int, gaps: list[float]) -> None:
    clock = Clock()
    limiter = Limiter(16, clock)
    allowed: list[float] = []
    for gap in gaps:
        clock.now += gap
        if limiter.check("a", "x", limit).allowed:
            allowed.append(clock.now)
    for i, start in enumerate(allowed):
        for j in range(i, len(allowed)):
            assert j - i + 1 <= limit + (allowed[j] - start) * limit / WINDOW + 1e-6


@given(limit=st.integers(1, 1000), gaps=_GAPS)
def test_the_numbers_agree_with_what_comes_next(limit: int, gaps: list[float]) -> None:
    bucket, now = None, 0.0
    for gap in gaps:
        now += gap
        bucket, verdict = take(bucket, limit, now)
        assert 0 <= verdict.remaining < limit or limit == 1
        assert 0 <= verdict.reset <= WINDOW + 1e-9
        if verdict.allowed:
            assert verdict.retry_after == 0
            if verdict.remaining:
                assert take(bucket, limit, now)[1].allowed
        else:
            assert verdict.remaining == 0 and verdict.retry_after > 0
            assert take(bucket, limit, now + verdict.retry_after + 1e-6)[1].allowed
        assert take(bucket, limit, now + verdict.reset + 1e-6)[1].remaining == limit - 1


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket, _ = take(None, 1, 100.0)
    assert not take(bucket, 1, 50.0)[1].allowed


@given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from("xyz")), max_size=300), st.integers(16, 40))
def test_the_memory_is_bounded(asked: list[tuple[int, str]], clients: int) -> None:
    limiter = Limiter(clients, Clock())
    for client, name in asked:
        limiter.check(str(client), name, 5)
        assert len(limiter) <= clients
    limiter.clients = 16
    limiter.check("new", "x", 5)
    assert len(limiter) <= 16


def test_who_was_not_seen_for_longest_is_forgotten_first() -> None:
    limiter = Limiter(2, Clock())
    for client in ("a", "b", "a", "c"):
        limiter.check(client, "x", 2)
    assert limiter.exhausted("a", "x", 2) is not None
    assert limiter.check("b", "x", 2).remaining == 1


def test_clients_and_classes_do_not_share() -> None:
    limiter = Limiter(16, Clock())
    assert limiter.check("a", "x", 1).allowed and not limiter.check("a", "x", 1).allowed
    assert limiter.check("a", "y", 1).allowed and limiter.check("b", "x", 1).allowed


def test_asking_whether_it_is_exhausted_takes_nothing() -> None:
    limiter = Limiter(16, Clock())
    for _ in range(5):
        assert limiter.exhausted("a", "x", 1) is None
    assert limiter.check("a", "x", 1).allowed
    verdict = limiter.exhausted("a", "x", 1)
    assert verdict is not None and not verdict.allowed


def test_an_ipv6_client_is_its_network() -> None:
    assert client_of("2001:db8:1:2:3::4") == client_of("2001:db8:1:2::9%eth0") == "2001:db8:1:2::/64"
    assert client_of("2001:db8:1:3::4") != client_of("2001:db8:1:2::4")
    assert client_of("::1") == "::1" and client_of("10.0.0.1") == "10.0.0.1"
    assert client_of("::ffff:10.0.0.1") != client_of("::ffff:10.0.0.2")
    assert client_of("unix") == "unix" and client_of("a:b") == "a:b"
