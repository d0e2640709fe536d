"""What the benchmarks stand on: an engine of their own, homed as on a board, and processes to ask it."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Final

from tests.boards.rig.cache import REPOSITORY
from tests.boards.rig.process import spawn
from tests.support.api import Api
from tests.support.engine import IMAGE, DockerEngine
from tests.support.homed import Homed, free_port
from tests.support.wait import until

NAME: Final = "homed-bench"
SERVICES: Final = 20
# On, and as costly as ever, but never in the way.
_HIGH: Final = 1_000_000
_LIMITS: Final = dict.fromkeys(("health", "services", "containers", "backups", "system", "metrics", "failures"), _HIGH)


Tables = Mapping[str, Mapping[str, Any]]


class Served(Homed):
    """homed with its own defaults but for `tables`, with the environment that its unit gives it, logging to a file."""

    def __init__(self, folder: Path, engine: str, tables: Tables):
        super().__init__(folder, engine)
        own: Tables = {
            "api": {},
            "api.limits": _LIMITS,
            "containers": {"engine": engine},
            "monitoring": {"metrics_port": 0},
        }
        self.tables = {name: dict(values) for name, values in {**own, **tables}.items()}
        self.write_config()

    def launch(self, notify: str = "") -> None:
        """Start it, without waiting for it. `notify` is the path that it tells of its readiness."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("NOTIFY_", "LISTEN_", "WATCHDOG_"))}
        environment |= {"MALLOC_ARENA_MAX": "2", "PYTHONPATH": str(REPOSITORY)}
        if notify:
            environment["NOTIFY_SOCKET"] = notify
        arguments = ["-m", "homed", "serve", "--config", str(self.config), "--state", str(self.state)]
        with (self.folder / "homed.log").open("ab") as log:
            self.process = spawn([sys.executable, *arguments], environment, log)

    def key(self, scope: str) -> str:
        """A key that homed knows already: one made beside it is seen within a second."""
        text, _ = self.make_key("bench", scope)
        until("the key to be known", lambda: self.api.with_key(text).get("/api/v1/config").status == 200)
        return text

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pss(self) -> float:
        """MB of memory, with the part of what it shares that is its own."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        line = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
        return int(line.split()[1]) * 1024 / 1e6


class Bed:
    """One engine for all benchmarks of a run, started when the first one wants it. `scale` is of what is backed up."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self._stack = ExitStack()
        self._engine: DockerEngine | None = None
        self.folder = Path(tempfile.mkdtemp(prefix=f"{NAME}-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)

    def __enter__(self) -> "Bed":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def engine(self) -> DockerEngine:
        if self._engine is None:
            self._engine = self._stack.enter_context(DockerEngine())
        return self._engine

    @contextlib.contextmanager
    def homed(self, services: int = 0, tables: Tables | None = None) -> Iterator[Served]:
        """homed with so many services that run; they and it are gone afterwards."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        self.engine.clean()
        served = Served(folder, self.engine.address, tables or {})
        try:
            served.start()
            for number in range(services):
                served.api.create(f"{NAME}-{number:02}", image=IMAGE, command="sleep 100000", stop_timeout=0)
            until("all services to run", lambda: _running(served.api) == services, deadline=120, every=0.2)
            yield served
        finally:
            if served.runs:
                served.stop()
            self.engine.clean()

    @contextlib.contextmanager
    def bare(self, answers: Mapping[str, bytes]) -> Iterator[str]:
        """A bare aiohttp server in a process of its own with these answers by path; its `host:port`."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for path, body in answers.items():
            (folder / path.replace("/", "|")).write_bytes(body)
        port = free_port()
        with (self.folder / "bare.log").open("ab") as log:
            server = _python(log, "tests.bench.bare", str(port), str(folder))
        try:
            until("the bare server", lambda: _accepts(port))
            yield f"127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait()


def rate(address: str, path: str, seconds: float, connections: int, *headers: str) -> float:
    """Requests per second, asked from a process of its own."""
    arguments = [address, path, str(seconds), str(connections), *headers]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.client", *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=seconds + 60, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the client failed: {done.stderr[-2000:]}")
    return float(done.stdout)


def _python(log: IO[bytes], module: str, *arguments: str) -> subprocess.Popen[bytes]:
    return spawn([sys.executable, "-m", module, *arguments], {**os.environ, "PYTHONPATH": str(REPOSITORY)}, log)


def _running(api: Api) -> int:
    found: list[dict[str, Any]] = api.get("/api/v1/services").json["services"]
    return sum(service["status"] == "running" for service in found)


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
