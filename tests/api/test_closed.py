"""What is left of a configuration when only the board itself may be served."""

import socket

from homed import config
from homed.api import closed, listeners


def test_nothing_is_left_that_others_reach() -> None:
    wanted = config.check(
        {
            "api": {
                "host": "0.0.0.0",
                "listen": ["192.0.2.1:81", "127.0.0.1:82", "[::1]:83", "unix:/run/x.sock"],
                "tls": {"enabled": True},
            },
            "monitoring": {"metrics_host": "0.0.0.0", "metrics_port": 9090},
        }
    )
    made = closed.config(wanted)
    listeners.check_exposure(made, have_key=False)
    assert made.api.host == "127.0.0.1" and made.api.port == wanted.api.port
    assert made.api.listen == ("127.0.0.1:82", "[::1]:83", "unix:/run/x.sock")
    assert not made.api.tls.enabled and made.monitoring.metrics_host == "127.0.0.1"
    assert closed.config(config.check({"api": {"host": "::1"}})).api.host == "::1"


def test_of_sockets_that_were_passed_those_of_the_board_are_left() -> None:
    with socket.socket() as near, socket.socket() as far, socket.socket(socket.AF_UNIX) as unix:
        near.bind(("127.0.0.1", 0))
        far.bind(("0.0.0.0", 0))
        assert closed.sockets([near, far, unix]) == [near, unix]
