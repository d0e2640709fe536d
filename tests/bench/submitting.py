"""Submitting jobs and running them, beside Celery with Redis.

`python -m tests.bench.submitting ADDRESS PATH BODY COUNT CONNECTIONS` submits, and prints when it began (monotonic) and
how many a second were answered.
"""

import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from tests.bench.bed import Bed, Served, Tables
from tests.bench.celery_bed import Celery, celery, why_not
from tests.bench.figures import Figure, at_least, at_most, in_turn, medians, ratios
from tests.boards.rig.cache import REPOSITORY
from tests.support.wait import until

__all__ = ["run", "why_not"]

_ROUNDS: Final = 3
_SUBMITTED: Final = 5000
_RUN: Final = 2000
_ALONE: Final = 200
_CONNECTIONS: Final = 32
_TABLES: Final[Tables] = {
    "api.limits": {"enabled": False},
    "containers": {"engine": "unix:///run/no-engine-is-needed.sock"},
    "jobs": {"queue": 1_000_000},
    "jobs.keep": {"count": 1_000_000},
}
_ECHO: Final = {"task_type": "echo", "payload": {"message": "Hello World"}}
# What no node fits waits: so it is submitting that is measured, and nothing that follows it.
_WAITING: Final = {**_ECHO, "requirements": {"required_role": "nobody"}}
_TRUE: Final = {"command": "true", "server_id": "local"}


def run(bed: Bed) -> Iterator[Figure]:
    with celery(Path(bed.folder)) as beside:
        yield from _submitting(bed, beside)
        with beside.worker(os.cpu_count() or 1):
            yield _running(bed, beside)
    yield _alone(bed)


def _submitting(bed: Bed, beside: Celery) -> Iterator[Figure]:
    for name, body in (("and carried out meanwhile", _ECHO), ("that wait", _WAITING)):
        with _Homed(bed) as homed:
            pairs = in_turn(
                _ROUNDS,
                lambda homed=homed, body=body: homed.submit("/api/v1/tasks", body, _SUBMITTED),  # type: ignore[misc]
                lambda: beside.submitted(_SUBMITTED),
            )
        note = f"{medians(pairs, 'jobs/s')}: {statistics.median(ratios(pairs)):.2f} of Celery's delay()"
        yield at_least(f"submitted durably over HTTP, {name}", 1000, [our for our, _ in pairs], "jobs/s", note)


def _running(bed: Bed, beside: Celery) -> Figure:
    with _Homed(bed) as homed:
        homed.run_true(10)
        pairs = in_turn(_ROUNDS, lambda: homed.run_true(_RUN), lambda: beside.ran(_RUN))
    return at_least(f"`true` {_RUN:,} times, of Celery's (prefork)", 1.5, ratios(pairs), note=medians(pairs, "jobs/s"))


def _alone(bed: Bed) -> Figure:
    with _Homed(bed) as homed:
        homed.run_true(10)
        taken = sorted(homed.time_true() for _ in range(_ALONE))
    note = f"p99 {taken[int(_ALONE * 0.99)]:.1f} ms"
    return at_most("`true` alone, from its submission to its end, p50", 20, [statistics.median(taken)], "ms", note)


class _Homed:
    def __init__(self, bed: Bed):
        self._served = Served(Path(tempfile.mkdtemp(dir=bed.folder)), "", _TABLES)
        self._ended = 0

    def __enter__(self) -> "_Homed":
        self._served.launch()
        until("homed to answer", self._served.api.is_live)
        return self

    def __exit__(self, *_: object) -> None:
        self._served.stop()

    def submit(self, path: str, body: object, count: int) -> float:
        """Jobs a second, from a process of its own."""
        return self._submit(path, body, count)[1]

    def _submit(self, path: str, body: object, count: int) -> tuple[float, float]:
        address = f"127.0.0.1:{self._served.port}"
        arguments = [address, path, json.dumps(body), str(count), str(_CONNECTIONS)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.submitting", *arguments],
            cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"the client failed: {done.stderr[-2000:]}")
        began, rate = done.stdout.split()
        return float(began), float(rate)

    def run_true(self, count: int) -> float:
        """Jobs a second, from the first submission to the last end."""
        began, _ = self._submit("/api/v1/jobs", _TRUE, count)
        self._ended += count
        until("all jobs to end", lambda: self._completed() == self._ended, deadline=300, every=0.05)
        return count / (time.monotonic() - began)

    def time_true(self) -> float:
        """Milliseconds from when one was sent to when it had ended, by its own record."""
        sent = time.time()
        job = self._served.api.post("/api/v1/jobs", _TRUE).json["id"]
        self._ended += 1

        def finished() -> str | None:
            found: str | None = self._served.api.get(f"/api/v1/jobs/{job}").json["finished_at"]
            return found

        until("the job to end", finished, every=0.005)
        return (_seconds(str(finished())) - sent) * 1000

    def _completed(self) -> int:
        found: int = self._served.api.get("/api/v1/jobs?status=completed&limit=1").json["pagination"]["total"]
        return found


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def main(address: str, path: str, body: str, count: str, connections: str) -> None:
    data = body.encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    print(*submitted(address, head.encode() + data, int(count), int(connections)))


def submitted(address: str, request: bytes, count: int, connections: int) -> tuple[float, float]:
    """When it began, and answers a second: one request at a time on each connection. RuntimeError where one is
    refused.
    """
    host, _, port = address.rpartition(":")
    sockets = [socket.create_connection((host, int(port))) for _ in range(min(connections, count))]
    by_number = {one.fileno(): one for one in sockets}
    sent = answered = 0
    began = time.monotonic()
    with select.epoll() as poll:
        for number, one in by_number.items():
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poll.register(number, select.EPOLLIN)
            one.sendall(request)
            sent += 1
        while answered < count:
            for number, _ in poll.poll(30):
                # An answer is small, and comes in one piece from a server that waits for the next request.
                data = by_number[number].recv(65_536)
                if data[9:11] != b"20":
                    raise RuntimeError(f"it was refused: {data[:300]!r}")
                answered += 1
                if sent < count:
                    by_number[number].sendall(request)
                    sent += 1
    ended = time.monotonic()
    for one in sockets:
        one.close()
    return began, answered / (ended - began)


if __name__ == "__main__":
    main(*sys.argv[1:])
