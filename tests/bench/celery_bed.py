"""Celery with Redis, beside which jobs are measured: in an environment of its own, nothing of it is homed's."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.boards.rig.cache import REPOSITORY, locked, remove
from tests.boards.rig.process import spawn
from tests.support.homed import free_port
from tests.support.tools import program
from tests.support.wait import until

_TASKS: Final = """
import os, subprocess, sys, time
import celery

address = os.environ["BENCH_REDIS"]
app = celery.Celery("bench_app", broker=address, backend=address)

@app.task(ignore_result=True)
def echo(message):
    return message

@app.task
def shell(line):
    return subprocess.run(["/bin/sh", "-c", line], capture_output=True).returncode

def submit(count):
    echo.delay("Hello World")
    began = time.monotonic()
    for number in range(count):
        echo.delay("Hello World")
    return count / (time.monotonic() - began)

def run(count):
    assert shell.delay("true").get(timeout=60) == 0
    began = time.monotonic()
    waiting = [shell.delay("true") for number in range(count)]
    assert all(one.get(timeout=300, interval=0.01) == 0 for one in waiting)
    return count / (time.monotonic() - began)

if __name__ == "__main__":
    print({"submit": submit, "run": run}[sys.argv[1]](int(sys.argv[2])))
"""


class Celery:
    """A Redis that runs, and workers where they are wanted."""

    def __init__(self, folder: Path, python: Path, address: str):
        self._folder = folder
        self._python = python
        self._environment = {**os.environ, "BENCH_REDIS": address, "PYTHONPATH": str(folder)}

    def submitted(self, count: int) -> float:
        """Calls of delay() a second, by one process, with no worker beside it."""
        return self._ask("submit", count)

    def ran(self, count: int) -> float:
        """Tasks a second that ran a subprocess each, from the first call to the last result."""
        return self._ask("run", count)

    @contextlib.contextmanager
    def worker(self, processes: int) -> Iterator[None]:
        arguments = ["-A", "bench_app", "worker", "-P", "prefork", "-c", str(processes), "--loglevel", "ERROR"]
        with (self._folder / "worker.log").open("ab") as log:
            worker = spawn([self._python, "-m", "celery", *arguments], self._environment, log)
        try:
            yield
        finally:
            worker.terminate()
            worker.wait(30)

    def _ask(self, what: str, count: int) -> float:
        done = subprocess.run(
            [self._python, "-m", "bench_app", what, str(count)],
            cwd=self._folder, env=self._environment, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"Celery failed: {done.stderr[-2000:]}")
        return float(done.stdout)


def why_not() -> str | None:
    try:
        _redis()
        _python()
    except pytest.skip.Exception as error:
        return str(error)
    except (OSError, subprocess.SubprocessError) as error:
        return f"Celery cannot be installed: {error}"
    return None


@contextlib.contextmanager
def celery(parent: Path) -> Iterator[Celery]:
    folder = Path(tempfile.mkdtemp(dir=parent))
    (folder / "bench_app.py").write_text(_TASKS, encoding="utf-8")
    port = free_port()
    executable, libraries = _redis()
    arguments = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
    with (folder / "redis.log").open("ab") as log:
        server = subprocess.Popen(
            arguments, executable=executable, stdout=log, stderr=log, env={"LD_LIBRARY_PATH": libraries}
        )
    try:
        until("Redis", lambda: b"Ready to accept" in (folder / "redis.log").read_bytes())
        yield Celery(folder, _python(), f"redis://127.0.0.1:{port}/0")
    finally:
        server.terminate()
        server.wait(30)


def _redis() -> tuple[Path, str]:
    """Its program, which is one with its tools and goes by its name, and where its libraries are."""
    libraries = {
        path.parent
        for package in ("liblzf1", "libjemalloc2", "libatomic1")
        for path in program(package, "usr/lib").rglob("*.so*")
    }
    return program("redis-tools", "usr/bin/redis-check-rdb"), ":".join(sorted(map(str, libraries)))


def _python() -> Path:
    folder = Path(os.environ.get("HOMED_CACHE") or REPOSITORY / ".cache").resolve() / "tools" / "celery"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        if not (folder / "ready").exists():
            remove(folder)
            _quietly(sys.executable, "-m", "venv", str(folder))
            _quietly(str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "celery[redis]>=5.5,<6")
            (folder / "ready").touch()
    return folder / "bin/python"


def _quietly(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=300)
