"""Who is trusted over the loopback: decided from a user's number, and asked of real connections."""

import os
import pwd
import socket
import subprocess
import sys

import pytest

from homed.host import peers
from homed.host.neighbours import Neighbours, is_of_a_job


@pytest.mark.parametrize(
    ("user", "is_job"),
    [
        (None, True),  # who has gone already cannot be asked
        (65534, True),
        (61184, True),
        (65519, True),
        (61183, False),
        (65520, False),
        (1000, False),
    ],
)
def test_jobs_are_known_by_their_user(user: int | None, is_job: bool) -> None:
    assert is_of_a_job(user, ()) is is_job


def test_users_of_the_configuration_are_jobs_but_not_homeds_own() -> None:
    daemon = pwd.getpwnam("daemon").pw_uid
    names = ("daemon", "no-such-user", pwd.getpwuid(os.geteuid()).pw_name)
    assert is_of_a_job(daemon, names)
    assert not is_of_a_job(os.geteuid(), names)


def test_a_connection_of_the_same_user_is_no_jobs_but_one_of_homed_itself_is_not_trusted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        ends = client.getsockname(), server.getsockname()
        assert not Neighbours(lambda: (), lambda inode: False).is_a_job(*ends)
        assert Neighbours(lambda: ()).is_a_job(*ends)


_ASK = """
import socket, sys
one = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(one.getsockname()[1], flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("own", [True, False])
def test_what_homed_has_started_is_not_trusted_and_what_somebody_else_has_is(own: bool) -> None:
    """Such as restic, which is told by a caller where to put a backup."""
    wrapped = [] if own else ["setsid", "--fork"]
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen(
            [*wrapped, sys.executable, "-c", _ASK, str(server.getsockname()[1])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        port = int(process.stdout.readline())
        if not own:
            process.wait(10)  # the other one is nobody's child now
        assert Neighbours(lambda: ()).is_a_job(("127.0.0.1", port), server.getsockname()) is own
        process.communicate(b"\n", timeout=10)


def test_where_the_kernel_lacks_the_quick_way_the_other_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "owner", lambda client, server: None)
    neighbours = Neighbours(lambda: (), lambda inode: False)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert not neighbours.is_a_job(client.getsockname(), server.getsockname())
    assert neighbours.is_a_job(("127.0.0.1", 1), ("127.0.0.1", 2))
