"""Where homed itself listens, asked of the kernel about real sockets."""

import socket
from ipaddress import ip_address

import pytest

from homed.host import own_sockets
from homed.host.own_sockets import Listener, is_local, is_own_listener, reaches


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_listener_is_found_by_every_address_that_leads_to_it(bound: str) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.create_server((bound, 0), family=family) as server:
        port = server.getsockname()[1]
        reached = {
            "127.0.0.1": ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0"],
            "0.0.0.0": ["127.0.0.1", "127.9.9.9", "::ffff:127.1.2.3", "0.0.0.0"],
            "::1": ["::1", "::"],
            "::": ["::1", "127.0.0.1", "127.3.2.1", "::ffff:127.0.0.1", "0.0.0.0"],
        }[bound]
        for address in reached:
            assert is_own_listener(address, port), (bound, address)
        assert not is_own_listener("93.184.215.14", port)
        assert not is_own_listener("127.0.0.1", port + 1)
    assert not is_own_listener("127.0.0.1", port)


def test_an_address_of_the_board_itself_leads_to_all_that_listens_everywhere() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address")
        own = probe.getsockname()[0]
    assert is_local(own)
    assert reaches(own, 80, [Listener(ip_address("0.0.0.0"), 80)])
    assert not reaches(own, 80, [Listener(ip_address("127.0.0.1"), 80)])
    assert not is_local("192.0.2.1")


def test_another_programs_listener_and_a_connection_are_not_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert [one.port for one in own_sockets.listeners() if one.port == client.getsockname()[1]] == []
        assert server.getsockname()[1] in [one.port for one in own_sockets.listeners()]
    assert own_sockets.is_own_listener("127.0.0.1", 22) is False
