"""Debian's restic and rclone, and a repository server of its own on the loopback."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tools import program
from tests.support.wait import until

_DEADLINE = 30


def restic() -> Path:
    return Path(shutil.which("restic") or program("restic", "usr/bin/restic"))


def put_on_path(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("PATH", f"{restic().parent}:{os.environ['PATH']}")


@contextlib.contextmanager
def rest_server(folder: Path) -> Iterator[str]:
    """rclone, which speaks restic's own protocol. The repositories' URL, without a name."""
    rclone = shutil.which("rclone") or str(program("rclone", "usr/bin/rclone"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [rclone, "--config", "", "serve", "restic", "--addr", f"127.0.0.1:{port}", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until("rclone's port", lambda: _listens(port, process), deadline=_DEADLINE)
        yield f"rest:http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(_DEADLINE)


def _listens(port: int, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
