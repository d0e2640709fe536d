"""The publisher never waits; who does not keep up is told."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from homed.events import Event, Events


async def test_a_reader_gets_what_it_asked_for_in_order() -> None:
    events = Events()
    all_, some = events.subscribe(), events.subscribe(("container.*", "x"))
    for kind in ("container.start", "service.status", "x", "container.die"):
        events.publish(kind, {"n": kind})
    assert [(await _next(some)).type for _ in range(3)] == ["container.start", "x", "container.die"]
    assert [(await _next(all_)).type for _ in range(4)] == ["container.start", "service.status", "x", "container.die"]


async def _next(subscription: object) -> Event:
    event = await asyncio.wait_for(subscription.next(), 10)  # type: ignore[attr-defined]
    assert isinstance(event, Event)
    return event


async def test_who_does_not_keep_up_is_told_after_what_was_kept() -> None:
    events = Events()
    slow, other = events.subscribe(capacity=3), events.subscribe()
    for n in range(10):
        events.publish("e", {"n": n})
    assert slow.overflow.is_set() and not other.overflow.is_set()
    assert [(await _next(slow)).data["n"] for _ in range(3)] == [0, 1, 2]
    assert await slow.next() is None
    events.publish("e", {"n": 10})
    assert [(await _next(other)).data["n"] for _ in range(11)] == list(range(11))


async def test_who_keeps_up_is_never_told_however_many_come() -> None:
    events = Events()
    quick = events.subscribe(capacity=2)
    for n in range(100):
        events.publish("e", {"n": n})
        assert (await _next(quick)).data["n"] == n
    assert not quick.overflow.is_set()


async def test_who_has_gone_gets_nothing_and_costs_nothing() -> None:
    events = Events()
    gone = events.subscribe()
    events.unsubscribe(gone)
    events.unsubscribe(gone)
    events.publish("e", {})
    assert events.subscribers == 0 and not gone.overflow.is_set()


def test_a_listener_is_called_at_once() -> None:
    events, told = Events(), list[str]()
    events.listen(lambda event: told.append(event.type))
    events.publish("a", {})
    events.publish("b", {})
    assert told == ["a", "b"]


@given(st.lists(st.integers(1, 3), max_size=30), st.integers(1, 5))
def test_a_readers_memory_is_bounded(bursts: list[int], capacity: int) -> None:
    events = Events()
    slow = events.subscribe(capacity=capacity)
    for n in bursts:
        for _ in range(n):
            events.publish("e", {})
        assert slow._queue.qsize() <= capacity + 1
    assert slow.overflow.is_set() == (sum(bursts) > capacity)
