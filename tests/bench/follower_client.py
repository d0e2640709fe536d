"""`python -m tests.bench.follower_client PORT PATH FOLLOWERS LINES`: many followers of one stream, in one process.

It says `ready` when all follow, and in the end as JSON how long lines were on their way, and what was lost.
"""

import asyncio
import json
import re
import sys
import time
from collections import Counter
from typing import NamedTuple

_LINE = re.compile(rb"([0-9.]+) ([0-9]+) a line of output")
_EVERY = 7  # of an event's lines, one in so many is timed, and its first


class Seen(NamedTuple):
    """The lines of one event, read once, whoever gets it: the end of one, whole ones, and the beginning of one."""

    head: bytes
    first: int
    lines: int
    printed: list[float]
    tail: bytes


def _seen(content: bytes) -> Seen:
    head, _, rest = content.partition(b"\n")
    whole, _, tail = rest.rpartition(b"\n")
    lines = _LINE.findall(whole)
    printed = [float(stamp) for stamp, _ in lines[::_EVERY]]
    return Seen(head, int(lines[0][1]) if lines else 0, len(lines), printed, tail)


class Follower(asyncio.Protocol):
    """One connection. Chunks of HTTP are one event each."""

    def __init__(self, path: str, crowd: "Crowd"):
        self._head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self._crowd = crowd
        self._waiting = self._tail = b""
        self.next = 0
        self.follows = False
        self.complete = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        at = time.monotonic()
        *events, self._waiting = (self._waiting + data).split(b"\n\n")
        for event in events:
            if b"event: output" in event:
                self._took(self._crowd.seen(event[event.index(b"data: ") :]), at)
            elif b"event: complete" in event:
                self.complete = True
                self._crowd.ended()
            elif b"event: status" in event and not self.follows:
                self.follows = True
                self._crowd.joined()

    def _took(self, seen: Seen, at: float) -> None:
        # The line that began in the event before.
        torn = _LINE.fullmatch(self._tail + seen.head)
        self._crowd.wrong += torn is None or int(torn[2]) != self.next
        self.next += 1
        self._crowd.wrong += seen.lines > 0 and seen.first != self.next
        self.next += seen.lines
        self._tail = seen.tail
        for printed in seen.printed:
            self._crowd.delays[int((at - printed) * 1000)] += 1

    def connection_lost(self, error: Exception | None) -> None:
        if not self.complete:
            self._crowd.lost += 1
            self._crowd.ended()


class Crowd:
    def __init__(self, size: int):
        self.size = size
        self.wrong = self.lost = 0
        self.delays: Counter[int] = Counter()
        self.all_follow, self.all_ended = asyncio.Event(), asyncio.Event()
        self._follow = self._ended = 0
        self._known: dict[bytes, Seen] = {}

    def seen(self, data: bytes) -> Seen:
        found = self._known.get(data)
        if found is None:
            found = self._known[data] = _seen(json.loads(data.removeprefix(b"data: "))["content"].encode())
            if len(self._known) > 100:
                del self._known[next(iter(self._known))]
        return found

    def joined(self) -> None:
        self._follow += 1
        if self._follow == self.size:
            self.all_follow.set()

    def ended(self) -> None:
        self._ended += 1
        if self._ended == self.size:
            self.all_ended.set()

    def delay(self, part: float) -> int:
        """Milliseconds within which this part of all lines came."""
        left = part * self.delays.total()
        for delay in sorted(self.delays):
            left -= self.delays[delay]
            if left <= 0:
                return delay + 1
        return 0


async def main(port: int, path: str, size: int, lines: int) -> None:
    crowd, loop = Crowd(size), asyncio.get_running_loop()
    followers: list[Follower] = []
    for _ in range(size):
        _, follower = await loop.create_connection(lambda: Follower(path, crowd), "127.0.0.1", port)
        followers.append(follower)
    async with asyncio.timeout(60):
        await crowd.all_follow.wait()
    print("ready", flush=True)
    async with asyncio.timeout(300):
        await crowd.all_ended.wait()
    missing = sum(lines - follower.next for follower in followers)
    said = {"p50": crowd.delay(0.5), "p99": crowd.delay(0.99), "worst": crowd.delay(1), "missing": missing}
    print(json.dumps({**said, "wrong": crowd.wrong, "lost": crowd.lost}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
