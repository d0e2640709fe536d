"""Backups through homed's API: the memory that they take, and how long others wait for an answer meanwhile."""

import http.client
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from tests.bench import memory, trees
from tests.bench.bed import SERVICES, Bed, Served
from tests.bench.figures import Figure, at_most
from tests.bench.trees import Tree
from tests.boards.rig.cache import REPOSITORY
from tests.support.api import Answer
from tests.support.engine import IMAGE

_MB: Final = 10**6
_SIZES: Final = (200 * _MB, 2000 * _MB)
_SMALL: Final = 200_000
_SERVED: Final = 10**9
_ROUNDS: Final = 5
_IN_A_ROUND: Final = 3
_QUIET: Final = 5.0
_PATHS: Final = ("/health", "/api/v1/services")
_BETWEEN: Final = 0.002
_LONGEST: Final = 1800.0


def run(bed: Bed) -> Iterator[Figure]:
    folder = bed.folder / "backups"
    for make, size in ((trees.mixed, _SIZES[0]), (trees.mixed, _SIZES[1]), (trees.small, _SMALL)):
        tree = make(folder, int(size * bed.scale))
        try:
            with bed.homed() as homed:
                yield from _memory(homed, tree)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    tree = trees.mixed(folder, int(_SERVED * bed.scale))
    try:
        with bed.homed(services=SERVICES) as homed:
            yield from _answers(homed, tree)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def mount(homed: Served, tree: Tree, **spec: Any) -> None:
    """A service that has the tree as a bind mount."""
    volumes = [f"{tree.path}:/data"]
    homed.api.create("data", image=IMAGE, command="sleep 100000", volumes=volumes, stop_timeout=0, **spec)
    homed.api.await_status("data", "running")


def back_up(homed: Served) -> str:
    """A full backup's name."""
    return str(_done(homed.api.post("/api/v1/backups", {}, timeout=_LONGEST)).json["name"])


def _done(answer: Answer) -> Answer:
    if answer.status not in (200, 201):
        raise RuntimeError(f"it failed: {answer}")
    return answer


# Memory.


def _memory(homed: Served, tree: Tree) -> Iterator[Figure]:
    mount(homed, tree)
    time.sleep(_QUIET)
    what = f"{tree.files:,} files, {tree.size / _MB:,.0f} MB"
    names: list[str] = []
    yield _peak(homed, f"memory above idle, a backup of {what}", lambda: names.append(back_up(homed)))
    path = f"/api/v1/backups/{names[0]}/restore"
    yield _peak(homed, f"memory above idle, a restore of {what}", lambda: _done(homed.api.post(path, timeout=_LONGEST)))


def _peak(homed: Served, name: str, work: Callable[[], object]) -> Figure:
    idle = homed.pss()
    started = time.perf_counter()
    with memory.watched(homed.pid) as peaks:
        work()
    seconds = time.perf_counter() - started
    others = ", ".join(f"{name} {size:.1f} MB" for name, size in sorted(peaks.others.items()))
    beside = f"; beside it {others}" if others else ""
    note = f"{idle:.1f} MB idle, PSS; at the peak homed has {peaks.homed:.1f} MB; {seconds:.1f} s{beside}"
    return at_most(name, 64, [peaks.own - idle], "MB", note=note)


# How long others wait.


def _answers(homed: Served, tree: Tree) -> Iterator[Figure]:
    mount(homed, tree)
    back_up(homed)
    busy: dict[str, list[list[float]]] = {path: [] for path in _PATHS}
    idle: dict[str, list[list[float]]] = {path: [] for path in _PATHS}
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        with _Asking(homed) as asking:
            names = [back_up(homed) for _ in range(_IN_A_ROUND)]
        seconds = time.perf_counter() - started
        _note(busy, asking.times)
        for name in names:
            _done(homed.api.delete(f"/api/v1/backups/{name}"))
        time.sleep(_QUIET)
        with _Asking(homed) as asking:
            time.sleep(seconds)
        _note(idle, asking.times)
    for path in _PATHS:
        rounds = [_p99(times) / _p99(rest) for times, rest in zip(busy[path], idle[path], strict=True)]
        all_busy, all_idle = (sorted(one for times in found[path] for one in times) for found in (busy, idle))
        note = f"{_shown(all_busy)} during backups of {tree.size / _MB:,.0f} MB, {_shown(all_idle)} idle"
        yield at_most(f"p99 of GET {path} during a backup, of its idle p99", 3, rounds, note=note)


def _note(found: dict[str, list[list[float]]], times: dict[str, list[float]]) -> None:
    for path in _PATHS:
        found[path].append(times[path])


def _p99(times: Sequence[float]) -> float:
    return sorted(times)[math.ceil(0.99 * len(times)) - 1]


def _shown(times: Sequence[float]) -> str:
    median = times[len(times) // 2]
    return f"p99 {1000 * _p99(times):.2f} ms, median {1000 * median:.2f} ms of {len(times):,}"


class _Asking:
    """A process that asks now and then while the block runs; `times` are seconds, by path."""

    def __init__(self, homed: Served):
        self._port = homed.port
        self._process: subprocess.Popen[str] | None = None
        self.times: dict[str, list[float]] = {}

    def __enter__(self) -> "_Asking":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.backups", str(self._port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._process.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        told = self._process.communicate("\n", timeout=60)[0]
        self.times = json.loads(told)


def _ask(port: int) -> None:
    """Until something comes on stdin."""
    import select

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    times: dict[str, list[float]] = {path: [] for path in _PATHS}
    print(flush=True)
    while True:
        for path in _PATHS:
            if select.select([sys.stdin], [], [], _BETWEEN)[0]:
                print(json.dumps(times))
                return
            started = time.perf_counter()
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            times[path].append(time.perf_counter() - started)
            if answer.status != 200:
                raise RuntimeError(f"{path} answers {answer.status}")


if __name__ == "__main__":
    _ask(int(sys.argv[1]))
