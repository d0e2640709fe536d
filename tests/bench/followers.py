"""A thousand followers of one job that prints a thousand lines a second: what comes, how late, and what each costs."""

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.bench.bed import Bed, Served, Tables
from tests.bench.figures import Figure, at_most
from tests.bench.memory import watched
from tests.boards.rig.cache import REPOSITORY
from tests.support.homed import free_port
from tests.support.wait import until

_ROUNDS: Final = 3
_FOLLOWERS: Final = 1000
_LINES_PER_SECOND: Final = 1000
_SECONDS: Final = 10
_LINES: Final = _LINES_PER_SECOND * _SECONDS
# The board's own: a job runs as a user that may see no more than any other.
_PYTHON: Final = "/usr/bin/python3"
# It waits until somebody listens, which is when all follow; each line says when it was printed.
_JOB: Final = """
import os, socket, time
while True:
    try:
        socket.create_connection(("127.0.0.1", {port})).close()
        break
    except OSError:
        time.sleep(0.01)
began = time.monotonic()
for number in range({lines}):
    while (left := began + number / {rate} - time.monotonic()) > 0:
        time.sleep(left)
    os.write(1, b"%.6f %d a line of output\\n" % (time.monotonic(), number))
"""
_TABLES: Final[Tables] = {
    "api": {"connections": 4 * _FOLLOWERS, "sockets": 2 * _FOLLOWERS},
    "api.limits": {"jobs": 1_000_000, "submissions": 1_000_000},
    "containers": {"engine": "unix:///run/no-engine-is-needed.sock"},
}


class _Round(NamedTuple):
    """Milliseconds from a line's writing to its event; KB of memory per follower; lines and followers lost; and how
    much of a core homed took.
    """

    p50: float
    p99: float
    worst: float
    memory: float
    lost: float
    cpu: float


def why_not() -> str | None:
    return None if Path(_PYTHON).exists() else f"there is no {_PYTHON}"


def run(bed: Bed) -> Iterator[Figure]:
    rounds = [_round(Path(tempfile.mkdtemp(dir=bed.folder))) for _ in range(_ROUNDS)]
    middle = sorted(rounds, key=lambda one: one.p99)[_ROUNDS // 2]
    note = f"p50 {middle.p50:.0f} ms, the last one after {middle.worst:.0f} ms, {middle.cpu:.0%} of a core"
    crowd = f"{_FOLLOWERS:,} followers"
    yield at_most(f"{crowd}: lines lost, double or out of order", 0, [one.lost for one in rounds], "lines")
    yield at_most(f"{crowd}: from write to event, p99", 250, [one.p99 for one in rounds], "ms", note)
    yield at_most(f"{crowd}: memory of each", 64, [one.memory for one in rounds], "KB")


def _round(folder: Path) -> _Round:
    homed = Served(folder, "", _TABLES)
    try:
        homed.start()
        return _followed(homed, free_port())
    finally:
        if homed.runs:
            homed.stop()


def _followed(homed: Served, port: int) -> _Round:
    script = _JOB.format(port=port, lines=_LINES, rate=_LINES_PER_SECOND)
    wanted = {"script": script, "shell": _PYTHON, "server_id": "local"}
    job = homed.api.post("/api/v1/jobs/script", wanted).json["id"]
    until("the job to run", lambda: homed.api.get(f"/api/v1/jobs/{job}").json["status"] == "running")
    before = homed.pss()
    arguments = [str(homed.port), f"/api/v1/jobs/{job}/stream", str(_FOLLOWERS), str(_LINES)]
    client = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.follower_client", *arguments],
        cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with client, watched(homed.pid) as peaks:
        assert client.stdout is not None
        if client.stdout.readline() != "ready\n":
            raise RuntimeError(f"not all could follow: {homed.log[-2000:]}")
        busy = homed.cpu()
        with socket.create_server(("127.0.0.1", port)):
            said: dict[str, Any] = json.loads(client.stdout.readline())
        cpu = (homed.cpu() - busy) / _SECONDS
    memory = (peaks.homed - before) * 1e6 / 1024 / _FOLLOWERS
    lost = abs(said["missing"]) + said["wrong"] + said["lost"]
    return _Round(said["p50"], said["p99"], said["worst"], memory, lost, cpu)
