"""Rate limits: a token bucket for each client and rate, in bounded memory.

`take` is a pure function of a bucket, a rate and the time, so that every case can be tested without waiting.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

MINUTE = 60.0
HOUR = 3600.0
SECOND = 1.0


class Rate(NamedTuple):
    """`limit` requests in `window` seconds; `name` is the class of which it is."""

    name: str
    limit: int
    window: float = MINUTE


class Bucket(NamedTuple):
    """`tokens` were there at `at` (seconds, monotonic)."""

    tokens: float
    at: float


class Verdict(NamedTuple):
    """`remaining` whole requests are left; `reset` is in how many seconds the bucket is full again.

    `retry_after` is in how many seconds one more is allowed (0 where it is allowed now).
    """

    allowed: bool
    rate: Rate
    remaining: int
    reset: float
    retry_after: float


def take(bucket: Bucket | None, rate: Rate, now: float) -> tuple[Bucket, Verdict]:
    """Take one request out of a bucket that holds the rate's limit and refills evenly within its window."""
    limit, speed = rate.limit, rate.limit / rate.window
    tokens = float(limit) if bucket is None else min(limit, bucket.tokens + max(0.0, now - bucket.at) * speed)
    if tokens < 1:
        return Bucket(tokens, now), Verdict(False, rate, 0, (limit - tokens) / speed, (1 - tokens) / speed)
    tokens -= 1
    return Bucket(tokens, now), Verdict(True, rate, int(tokens), (limit - tokens) / speed, 0.0)


def telling(verdicts: Sequence[Verdict]) -> Verdict:
    """The one that a client is told: the refusal that lasts longest, else what is nearest to its end.

    What is full again within a second is told only where it refuses: nobody could make use of its numbers.
    """
    refused = [verdict for verdict in verdicts if not verdict.allowed]
    if refused:
        return max(refused, key=lambda verdict: verdict.retry_after)
    lasting = [verdict for verdict in verdicts if verdict.rate.window > SECOND]
    return min(lasting or verdicts, key=lambda verdict: verdict.remaining)


class Limiter:
    """The buckets of at most `clients` clients and rates; the one not seen for longest is forgotten first.

    Who is forgotten starts with a full bucket: with enough addresses a limit can be stretched, but never memory.
    """

    def __init__(self, clients: int, clock: Callable[[], float]):
        self.clients = clients
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def check(self, client: str, *rates: Rate) -> Verdict:
        """Take a request out of every bucket, or out of none where one of them is empty."""
        now = self._clock()
        taken = {(client, rate.name): take(self._buckets.get((client, rate.name)), rate, now) for rate in rates}
        allowed = all(verdict.allowed for _, verdict in taken.values())
        for key, (bucket, _) in taken.items():
            if allowed:
                self._buckets[key] = bucket
            if key in self._buckets:  # who is refused is seen too: trying on must not make anyone be forgotten
                self._buckets.move_to_end(key)
        while len(self._buckets) > self.clients:
            self._buckets.popitem(last=False)
        return telling([verdict for _, verdict in taken.values()])

    def exhausted(self, client: str, rate: Rate) -> Verdict | None:
        """The refusal that one more request would get, without taking one; None where it would pass."""
        bucket = self._buckets.get((client, rate.name))
        if bucket is None:
            return None
        _, verdict = take(bucket, rate, self._clock())
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
