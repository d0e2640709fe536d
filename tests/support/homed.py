"""homed as a real process: its TOML written by the test, its output in a file, ended by its id."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from homed.config.containers import DATA_ROOTS
from tests.boards.rig.cache import REPOSITORY
from tests.boards.rig.process import spawn
from tests.support.api import Api
from tests.support.wait import until

# Short times, so that what is waited for comes soon; no limits, since tests ask more often than people.
_QUICK: Mapping[str, Mapping[str, Any]] = {
    "api": {},
    "api.limits": {"enabled": False},
    "monitoring": {"metrics_port": 0, "health_check_interval": 1.0, "stats_interval": 1.0},
    "containers": {"settle_time": 0.5, "start_timeout": 6.0, "backoff_first": 0.2, "backoff_limit": 2.0},
    "log": {"level": "debug"},
}


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class Homed:
    """One homed in a folder of its own. `tables` are added to its TOML, by table: `{"api": {"require_key": True}}`."""

    def __init__(self, folder: Path, engine: str, tables: Mapping[str, Mapping[str, Any]] | None = None):
        self.folder = folder
        self.state = folder / "state"
        self.config = folder / "homed.toml"
        self.port = free_port()
        self.tables: dict[str, dict[str, Any]] = {name: dict(values) for name, values in _QUICK.items()}
        self.tables["containers"]["engine"] = engine
        self.tables["containers"]["data_roots"] = [*DATA_ROOTS, str(folder.absolute().parent)]
        for name, values in (tables or {}).items():
            self.tables.setdefault(name, {}).update(values)
        self.process: subprocess.Popen[bytes] | None = None
        # A test with listeners that need a key or TLS puts another client here.
        self.api = Api(self.port)
        folder.mkdir(parents=True, exist_ok=True)
        self.write_config()

    def write_config(self) -> None:
        """Write `tables` and the port as TOML."""
        tables = {**self.tables, "api": {"port": self.port, **self.tables["api"]}}
        lines: list[str] = []
        for name, values in tables.items():
            lines.append(f"[{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def log(self) -> str:
        path = self.folder / "homed.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def launch(self) -> None:
        """Start it, without waiting for it."""
        serve: list[str | Path] = [
            sys.executable,
            "-m",
            "homed",
            "serve",
            "--config",
            self.config,
            "--state",
            self.state,
        ]
        with (self.folder / "homed.log").open("ab") as log:
            self.process = spawn([*self._around(), *serve], self._environment(), log)

    def start(self) -> Self:
        self.launch()
        until("homed to answer", self._answers, deadline=30, every=0.02)
        return self

    def await_ready(self) -> None:
        """Wait until it follows its engine."""
        until("homed to be ready", lambda: self.api.get("/health/ready").status == 200, deadline=30)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """End it in its own time; its exit code."""
        return self._end(signal.SIGTERM)

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 30) -> int:
        """Wait until it has ended by itself; its exit code."""
        assert self.process is not None
        return self.process.wait(timeout)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`homed …` by a person, on this one's state."""
        return subprocess.run(
            [sys.executable, "-m", "homed", *arguments, "--config", self.config, "--state", self.state],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=REPOSITORY,
            check=False,
        )

    def make_key(self, name: str, scope: str) -> tuple[str, str]:
        """A key by the command line: its text and its id."""
        made = self.command("key", "create", name, "--scope", scope)
        assert made.returncode == 0, made.stderr
        text = made.stdout.strip()
        return text, text.split("_")[1]

    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.runs:
            self.kill()

    def _around(self) -> list[str | Path]:
        """A program that becomes homed."""
        return []

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("NOTIFY_", "LISTEN_", "WATCHDOG_"))}
        return {**kept, "PYTHONPATH": str(REPOSITORY)}

    def _answers(self) -> bool:
        if not self.runs:
            assert self.process is not None
            raise AssertionError(f"homed ended with {self.process.returncode}: {self.log[-3000:]}")
        return self.api.is_live()

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            os.kill(self.pid, number)
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGKILL)
            self.process.wait(timeout=10)
            raise AssertionError(f"homed did not end within 30 s: {self.log[-3000:]}") from None
