"""The reason why Docker Engine cannot be reached."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from homed.containers.reachability import unreachable


def test_a_missing_socket_is_named(tmp_path: Path) -> None:
    assert "there is no such socket; install Docker Engine" in unreachable(f"unix://{tmp_path}/none.sock").message


def test_a_socket_without_a_listener_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left.sock"))
    assert "nothing listens there" in unreachable(f"unix://{tmp_path}/left.sock").message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_socket_that_is_closed_to_the_user_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(tmp_path / "closed.sock"))
        closed.listen(1)
        (tmp_path / "closed.sock").chmod(0o600)
        tmp_path.chmod(0o755)
        code = (
            "import os, sys; from homed.containers.reachability import unreachable\n"
            "fd = os.open(sys.argv[1], os.O_PATH | os.O_DIRECTORY); os.setuid(65534)\n"
            "print(unreachable(f'unix:///proc/self/fd/{fd}/closed.sock').message)"
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert "permission denied for user 65534; run homed as root, or add its user to the group docker" in said
