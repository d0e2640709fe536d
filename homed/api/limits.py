"""Rate limits: a token bucket for each client and class, in bounded memory.

`take` is a pure function of a bucket, a limit and the time, so that every case can be tested without waiting.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

WINDOW = 60.0


class Bucket(NamedTuple):
    """`tokens` were there at `at` (seconds, monotonic)."""

    tokens: float
    at: float


class Verdict(NamedTuple):
    """`remaining` whole requests are left; `reset` is in how many seconds the bucket is full again.

    `retry_after` is in how many seconds one more is allowed (0 where it is allowed now).
    """

    allowed: bool
    limit: int
    remaining: int
    reset: float
    retry_after: float


def take(bucket: Bucket | None, limit: int, now: float) -> tuple[Bucket, Verdict]:
    """Take one request out of a bucket that holds `limit` and refills evenly within `WINDOW`."""
    rate = limit / WINDOW
    tokens = float(limit) if bucket is None else min(limit, bucket.tokens + max(0.0, now - bucket.at) * rate)
    if tokens < 1:
        return Bucket(tokens, now), Verdict(False, limit, 0, (limit - tokens) / rate, (1 - tokens) / rate)
    tokens -= 1
    return Bucket(tokens, now), Verdict(True, limit, int(tokens), (limit - tokens) / rate, 0.0)


class Limiter:
    """The buckets of at most `clients` clients and classes; the one not seen for longest is forgotten first.

    Who is forgotten starts with a full bucket: with enough addresses a limit can be stretched, but never memory.
    """

    def __init__(self, clients: int, clock: Callable[[], float]):
        self.clients = clients
        self._clock = clock
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def check(self, client: str, name: str, limit: int) -> Verdict:
        key = (client, name)
        bucket, verdict = take(self._buckets.get(key), limit, self._clock())
        self._buckets[key] = bucket
        self._buckets.move_to_end(key)
        while len(self._buckets) > self.clients:
            self._buckets.popitem(last=False)
        return verdict

    def exhausted(self, client: str, name: str, limit: int) -> Verdict | None:
        """The refusal that one more request would get, without taking one; None where it would pass."""
        bucket = self._buckets.get((client, name))
        if bucket is None:
            return None
        _, verdict = take(bucket, limit, self._clock())
        return None if verdict.allowed else verdict


def client_of(address: str) -> str:
    """Who an address is for the limits: an IPv6 client owns its whole /64."""
    if ":" not in address:
        return address
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None and not parsed.is_loopback:
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return str(parsed)
