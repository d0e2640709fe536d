"""Following a container's log, beside `docker logs -f` of the same one."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Final

from tests.bench.bed import NAME, Bed, Served
from tests.bench.figures import Figure, at_least, in_turn, medians, ratios
from tests.support.engine import DockerEngine
from tests.support.wait import until

_ROUNDS: Final = 7
# As many as a client of homed may ask for from the log's past.
_LINES: Final = 100_000
_MARKER: Final = b"homed-bench: that was all"
_LINE: Final = "a line of a log such as programs write, with a number, some words, and about a hundred bytes"
# Four times what is asked for lies before that; the marker is the last line, and the log stays open after it.
_WRITE: Final = (
    f'i=0; while [ $i -lt {5 * _LINES} ]; do echo "$i {_LINE}"; i=$((i + 1)); done; '
    f"echo {_MARKER.decode()}; exec sleep 100000"
)


def run(bed: Bed) -> Iterator[Figure]:
    with bed.homed() as homed:
        bed.engine.run("sh", "-c", _WRITE, name=NAME)
        until("the log to be written", lambda: _is_written(bed.engine), deadline=300, every=1)
        pairs = in_turn(_ROUNDS, lambda: _by_homed(homed), lambda: _by_docker(bed.engine))
        note = medians(pairs, "lines/s")
        yield at_least("following a log, of `docker logs -f`'s lines", 0.8, ratios(pairs), note=note)


def _by_homed(homed: Served) -> float:
    path = f"/api/v1/containers/{NAME}/logs?follow=true&tail={_LINES}"
    with socket.create_connection(("127.0.0.1", homed.port), timeout=60) as stream:
        stream.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return _lines_per_second(stream.recv)


def _by_docker(engine: DockerEngine) -> float:
    command = ["docker", "-H", engine.address, "logs", "-f", "--tail", str(_LINES), NAME]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert follower.stdout is not None
    number = follower.stdout.fileno()
    try:
        return _lines_per_second(lambda size: os.read(number, size))
    finally:
        follower.kill()
        follower.wait()
        follower.stdout.close()


def _lines_per_second(read: Callable[[int], bytes]) -> float:
    """From the first bytes to the marker; ValueError where the log ends before it or lines are missing."""
    # Behind homed there is HTTP's head and its chunks' own lines: they are counted by nobody.
    data = read(262_144)
    began = time.perf_counter()
    lines, tail = data.count(_LINE.encode()), data[-200:]
    while _MARKER not in tail:
        data = read(262_144)
        if not data:
            raise ValueError("the log ended before its marker")
        # A line may stand on the border of two reads.
        lines += (tail[-len(_LINE) + 1 :] + data).count(_LINE.encode())
        tail = (tail + data)[-200:]
    seconds = time.perf_counter() - began
    if abs(lines - _LINES) > 0.01 * _LINES:
        raise ValueError(f"{lines} lines came instead of {_LINES}")
    return lines / seconds


def _is_written(engine: DockerEngine) -> bool:
    return _MARKER in engine.client.api.logs(NAME, tail=1)
