"""A thousand followers of one job that prints a thousand lines a second: what comes, how late, and what each costs."""

import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.bench.bed import Bed
from tests.bench.figures import Figure, at_most
from tests.bench.memory import pss, watched
from tests.boards.rig.cache import REPOSITORY
from tests.boards.rig.process import spawn
from tests.support.homed import free_port
from tests.support.wait import until

_ROUNDS: Final = 3
_FOLLOWERS: Final = 1000
_LINES_PER_SECOND: Final = 1000
_SECONDS: Final = 10
_DEADLINE: Final = 120


class Round(NamedTuple):
    """Milliseconds from a line's writing to its event; KB of memory per follower; lines and followers lost."""

    p50: float
    p99: float
    worst: float
    memory: float
    lost: float
    cpu: float


def why_not() -> str | None:
    return None


def run(bed: Bed) -> Iterator[Figure]:
    rounds = [_round(bed.folder) for _ in range(_ROUNDS)]
    middle = sorted(rounds, key=lambda one: one.p99)[len(rounds) // 2]
    note = f"p50 {middle.p50:.0f} ms, the last one after {middle.worst:.0f} ms, {middle.cpu:.0%} of a core"
    crowd = f"{_FOLLOWERS:,} followers"
    yield at_most(f"{crowd}: lines lost, double or out of order", 0, [one.lost for one in rounds], "lines")
    yield at_most(f"{crowd}: from write to event, p99", 250, [one.p99 for one in rounds], "ms", note)
    yield at_most(f"{crowd}: memory of each", 64, [one.memory for one in rounds], "KB")


def _round(folder: Path) -> Round:
    own = Path(tempfile.mkdtemp(dir=folder))
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MALLOC_ARENA_MAX": "2"}
    arguments = [str(port), str(own), str(_LINES_PER_SECOND), str(_SECONDS)]
    with (own / "server.log").open("wb") as log:
        server = spawn([sys.executable, "-m", "tests.bench.follower_server", *arguments], environment, log)
    try:
        until("the server", lambda: _get(port, "/none", 404))
        before = pss(server.pid)
        client = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.follower_client", str(port), "/stream", str(_FOLLOWERS),
             str(_LINES_PER_SECOND * _SECONDS)],
            cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with client, watched(server.pid) as peaks:
            assert client.stdout is not None
            if client.stdout.readline() != "ready\n":
                raise RuntimeError(f"not all could follow: {(own / 'server.log').read_text()[-2000:]}")
            busy = _cpu(server.pid)
            _get(port, "/start", 200)
            said: dict[str, Any] = json.loads(client.stdout.readline())
            cpu = (_cpu(server.pid) - busy) / _SECONDS
        lost = abs(said["missing"]) + said["wrong"] + said["lost"]
        memory = (peaks.homed - before) * 1e6 / 1024 / _FOLLOWERS
        return Round(said["p50"], said["p99"], said["worst"], memory, lost, cpu)
    finally:
        server.kill()
        server.wait()


def _get(port: int, path: str, status: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=_DEADLINE) as answer:
            return bool(answer.status == status)
    except urllib.error.HTTPError as error:
        return error.code == status
    except OSError:
        return False


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
