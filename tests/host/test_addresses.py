"""Which of the board's addresses clients come to."""

import pytest

from homed.host import addresses
from homed.host.addresses import choose

# Address, index, prefix, scope, flags, name: as the kernel prints them.
_LAN = "fd000000000000000000000000000002 04 40 00 82     eth0"
_TABLE = f"""\
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
{_LAN}
20010db8000000000000000000000001 04 40 00 00     eth0
20010db800000000aaaaaaaaaaaaaaaa 04 40 00 01     eth0
20010db8000000000000000000000002 04 40 00 20     eth0
20010db8000000000000000000000003 04 40 00 40     eth0
fd110000000000000000000000000001 07 40 00 82  docker0
"""


def test_those_of_the_network_are_chosen_and_passing_ones_are_not() -> None:
    four = {
        "lo": ["127.0.0.1"], "eth0": ["192.0.2.2", "169.254.7.7"], "wlan0": ["10.0.0.9"], "docker0": ["172.17.0.1"],
        "br-0123456789ab": ["172.18.0.1"], "br0": ["198.51.100.4"], "veth12ab": ["172.19.0.1"],
    }  # fmt: skip
    found = choose(four, _TABLE)
    assert list(found.lasting) == ["10.0.0.9", "192.0.2.2", "198.51.100.4", "fd00::2"]
    assert list(found.all) == ["10.0.0.9", "192.0.2.2", "198.51.100.4", "2001:db8::1", "fd00::2"]


@pytest.mark.parametrize("table", ["", _LAN])
def test_a_board_without_a_network_has_none(table: str) -> None:
    assert list(choose({"lo": ["127.0.0.1"]}, table).all) == (["fd00::2"] if table else [])


def test_this_machines_can_be_read() -> None:
    found = addresses.read()
    assert set(found.lasting) <= set(found.all)
    assert not any(one.startswith(("127.", "169.254.", "fe80")) for one in found.all)
