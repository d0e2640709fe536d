"""The events of this board: published without waiting, read through a bounded queue for each reader.

A reader that does not keep up is told by `overflow` and gets nothing more: the publisher never waits for it.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from homed.clock import now


class Event(msgspec.Struct, frozen=True):
    """What happened, as the API shows it: `type` is `<thing>.<act>`, `timestamp` is in UTC."""

    type: str
    data: Mapping[str, Any]
    timestamp: datetime


class Subscription:
    """A reader's queue; `patterns` are event types, where `*` stands for any run of characters."""

    def __init__(self, patterns: tuple[str, ...], capacity: int):
        self.patterns = patterns
        self.overflow = asyncio.Event()
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(capacity + 1)
        self._capacity = capacity

    def wants(self, kind: str) -> bool:
        return not self.patterns or any(fnmatchcase(kind, pattern) for pattern in self.patterns)

    def offer(self, event: Event) -> None:
        if self.overflow.is_set():
            return
        if self._queue.qsize() >= self._capacity:
            self.overflow.set()
            self._queue.put_nowait(None)
            return
        self._queue.put_nowait(event)

    async def next(self) -> Event | None:
        """The next event; None when the queue has overflowed and nothing more will come."""
        return await self._queue.get()


class Events:
    """Publish and subscribe within the process."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._listeners: list[Callable[[Event], None]] = []

    def publish(self, kind: str, data: Mapping[str, object]) -> None:
        event = Event(kind, data, now())
        for listener in self._listeners:
            listener(event)
        for subscription in self._subscriptions:
            if subscription.wants(kind):
                subscription.offer(event)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Have `listener` called at once with every event; it must be quick and must not raise."""
        self._listeners.append(listener)

    def subscribe(self, patterns: tuple[str, ...] = (), capacity: int = 256) -> Subscription:
        subscription = Subscription(patterns, capacity)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    @property
    def subscribers(self) -> int:
        return len(self._subscriptions)
