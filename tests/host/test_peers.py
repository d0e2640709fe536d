"""Who is at the other end: asked of the kernel, about real connections."""

import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from homed.host import peers

CLIENT = """
import os, socket, sys
host, port, user = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if user != os.geteuid():
    os.setgroups([]); os.setgid(user); os.setuid(user)
# Not create_connection: it imports, and where Python lies may be closed to others.
one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
one.connect((host, port))
print(one.getsockname()[1], flush=True)
sys.stdin.readline()
"""


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as made:
        made.settimeout(10)
        yield made


@pytest.mark.parametrize("name", ["", "nobody"])
def test_the_user_at_the_other_end_is_told(server: socket.socket, name: str) -> None:
    if name and os.geteuid() != 0:
        pytest.skip("only root becomes somebody else")
    user = pwd.getpwnam(name).pw_uid if name else os.geteuid()
    host, port = server.getsockname()[:2]
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, host, str(port), str(user)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        accepted, client = server.accept()
        with accepted:
            for ask in (peers.owner, peers.listed_owner):
                found = ask(client, accepted.getsockname())
                assert found is not None
                assert (found.user, found.inode > 0) == (user, True)
            process.communicate(b"\n", timeout=10)
            # Its process is gone: nobody is not root.
            for ask in (peers.owner, peers.listed_owner):
                assert ask(client, accepted.getsockname()) is None


def test_of_a_connection_that_there_never_was_nothing_is_told() -> None:
    assert peers.owner(("127.0.0.1", 1), ("127.0.0.1", 2)) is None
    assert peers.listed_owner(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


def test_a_list_that_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    assert peers.listed_owner(("127.0.0.1", 1), ("127.0.0.1", 2), tmp_path) is None


def test_this_kernel_can_tell() -> None:
    assert peers.is_supported()
