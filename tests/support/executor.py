"""The executor's clients: forms with archives in them, and workers as real processes, beside a homed with no engine."""

import io
import os
import pwd
import signal
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.boards.rig.cache import REPOSITORY
from tests.boards.rig.process import spawn
from tests.support.api import Answer, Api
from tests.support.homed import Homed
from tests.support.wait import until

NO_ENGINE = "unix:///nonexistent/docker.sock"


def board(folder: Path, **workers: object) -> Homed:
    """A homed as a process; `workers` is its table [jobs.workers]. Its own jobs run as whoever runs the tests: another
    user might not reach the interpreter.
    """
    user = pwd.getpwuid(os.geteuid()).pw_name
    tables: dict[str, dict[str, object]] = {
        "jobs": {"user": user, "users": [user]},
        "jobs.workers": {"poll_hold": 0.2, **workers},
    }
    return Homed(folder, NO_ENGINE, tables)


def zipped(files: Mapping[str, str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return made.getvalue()


def form(*parts: tuple[str, str | bytes] | tuple[str, str | bytes, str]) -> tuple[bytes, dict[str, str]]:
    """A form's body and its headers; a part is (name, content) or, for a file, (name, content, filename)."""
    boundary = uuid.uuid4().hex
    body = b""
    for name, content, *filename in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename[0]}"' if filename else "")
        data = content.encode() if isinstance(content, str) else content
        body += f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def execute(api: Api, archive: bytes, commands: str, mode: str = "", **more: Any) -> Answer:
    parts: list[Any] = [("file", archive, "project.zip"), ("commands", commands)]
    data, headers = form(*parts, *([("mode", mode)] if mode else []))
    return api.call("POST", "/api/execute", data=data, headers=headers, **more)


def submit(api: Api, commands: str, files: Mapping[str, str] | None = None) -> str:
    """A job for a worker; its id."""
    answer = execute(api, zipped(files or {"a.txt": "a"}), commands, "distributed")
    assert answer.status == 200, answer
    return str(answer.json["jobId"])


def status(api: Api, job: str) -> Any:
    answer = api.get(f"/api/jobs/status?jobId={job}")
    assert answer.status == 200, answer
    return answer.json


def ended(api: Api, job: str, deadline: float = 60) -> Any:
    """The job's status once it has ended."""

    def look() -> Any:
        found = status(api, job)
        return found if found["status"] in ("completed", "failed") else None

    return until(f"{job} to end", look, deadline)


class AgentProcess:
    """`homed worker` as a process, its log in a file, ended by its id."""

    def __init__(self, folder: Path, server: str, *options: str):
        self.folder = folder
        self._server = server
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def log(self) -> str:
        path = self.folder / "agent.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def id(self) -> str:
        return (self.work / "id").read_text().strip()

    def start(self) -> Self:
        argv: list[str | Path] = [
            sys.executable, "-m", "homed", "worker", "--server", self._server, "--work", self.work, *self._options,
        ]  # fmt: skip
        with (self.folder / "agent.log").open("ab") as log:
            self.process = spawn(argv, {**os.environ, "PYTHONPATH": str(REPOSITORY)}, log)
        return self

    def started(self) -> Self:
        """Start it, and wait until its server knows it."""
        before = self.log.count("Registered as")
        self.start()
        until("the worker to register", lambda: self.log.count("Registered as") > before or self._gone())
        return self

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def wait(self, timeout: float = 60) -> int:
        assert self.process is not None
        return self.process.wait(timeout)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()

    def __enter__(self) -> Self:
        return self.started()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def _gone(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the worker ended with {self.process.returncode}: {self.log[-2000:]}")
        return False
