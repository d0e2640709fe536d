"""Where http_request may connect to: every known disguise of an inner address."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.jobs.tasks.addresses import is_allowed

_INNER = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "192.0.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::10.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "64:ff9b:1:ffff::a00:1",
    "2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:c0a8:101::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1", "3fff::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd12:3456::1", "ff02::1", "100::1",
    "5f00::1", "4000::1", "not an address", "", "1.2.3", "0x7f.0.0.1", "2130706433",
]  # fmt: skip


@pytest.mark.parametrize("address", _INNER)
def test_an_address_that_is_not_out_on_the_internet_is_refused(address: str) -> None:
    assert not is_allowed(address, allow_private=False)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1", "8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808",
        "2002:808:808::1",
    ],
)  # fmt: skip
def test_one_on_the_internet_is_allowed(address: str) -> None:
    assert is_allowed(address, allow_private=False)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "169.254.1.1", "::1", "fd00::1", "fe80::1%eth0", "::ffff:10.0.0.1"]
)
def test_private_ones_can_be_allowed(address: str) -> None:
    assert is_allowed(address, allow_private=True)


@pytest.mark.parametrize("address", ["224.0.0.1", "255.255.255.255", "0.0.0.0", "::", "ff02::1", "::ffff:224.0.0.1"])
def test_what_is_no_single_machine_is_never_allowed(address: str) -> None:
    assert not is_allowed(address, allow_private=True)


@given(st.ip_addresses(v=4))
def test_a_disguise_is_judged_as_what_it_stands_for(inner: ipaddress.IPv4Address) -> None:
    number = int(inner)
    for disguise in (
        ipaddress.IPv6Address((0xFFFF << 32) | number),
        ipaddress.IPv6Address((0x0064FF9B << 96) | number),
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80)),
    ):
        for private in (False, True):
            expected = is_allowed(str(inner), allow_private=private)
            assert is_allowed(str(disguise), allow_private=private) == expected


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6, network="2000::/3"))
def test_what_python_knows_as_not_global_is_refused(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if is_allowed(str(address), allow_private=False):
        assert not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_reserved)
        assert not address.is_private
