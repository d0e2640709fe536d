"""Against the kernel: each test's thread has a network namespace of its own, which ends with the thread."""

import ctypes
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from homed.host import network
from homed.host.network import Address, Interface, Route

CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x00020000


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def in_a_namespace(act: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            # Namespaces are a thread's own: a child (`ip`) and a netlink socket opened here are in them.
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET | CLONE_NEWNS):
                pytest.skip(f"a network namespace needs root: {os.strerror(ctypes.get_errno())}")
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            act()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def a_pair() -> None:
    ip(
        "link",
        "add",
        "up0",
        "address",
        "02:00:00:00:00:01",
        "mtu",
        "1400",
        "type",
        "veth",
        "peer",
        "name",
        "up1",
    )
    ip("link", "set", "up0", "up")
    ip("link", "set", "up1", "up")


def named(name: str, *, include_virtual: bool = False, root: Path = Path("/")) -> Interface:
    (found,) = [i for i in network.interfaces(include_virtual=include_virtual, root=root) if i.name == name]
    return found


def test_an_interface_reads_exactly_what_was_set() -> None:
    def act() -> None:
        a_pair()
        ip("address", "add", "10.9.8.7/24", "dev", "up0")
        ip("address", "add", "fd00::7/64", "dev", "up0", "nodad")
        read = named("up0")
        assert (read.mac, read.state, read.mtu, read.kind) == ("02:00:00:00:00:01", "up", 1400, "veth")
        assert set(read.addresses) == {
            Address("10.9.8.7", 24, "inet", "global"),
            Address("fd00::7", 64, "inet6", "global"),
            Address("fe80::ff:fe00:1", 64, "inet6", "link"),
        }

    in_a_namespace(act)


def test_of_a_point_to_point_address_the_own_end_is_read() -> None:
    def act() -> None:
        a_pair()
        ip("address", "add", "10.0.0.1", "peer", "10.0.0.2/32", "dev", "up0")
        assert Address("10.0.0.1", 32, "inet", "global") in named("up0").addresses

    in_a_namespace(act)


def test_what_was_received_is_counted() -> None:
    def act() -> None:
        a_pair()
        before = named("up1").rx
        # One broadcast frame of a known size, on the other end of the pair.
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("up0", 0))
            raw.send(b"\xff" * 6 + b"\x02" + b"\0" * 5 + b"\x88\xb5" + b"x" * 86)
        after = named("up1").rx
        assert after.packets > before.packets
        assert after.bytes >= before.bytes + 86
        assert after.errors == 0

    in_a_namespace(act)


def test_an_interface_without_its_other_end_is_down() -> None:
    def act() -> None:
        a_pair()
        ip("link", "set", "up1", "down")
        assert named("up0").state == "down"

    in_a_namespace(act)


def test_loopback_has_its_kind_and_no_speed() -> None:
    def act() -> None:
        assert named("lo").state == "down"
        ip("link", "set", "lo", "up")
        read = named("lo")
        assert (read.state, read.kind, read.speed) == ("up", "loopback", None)
        assert Address("127.0.0.1", 8, "inet", "host") in read.addresses

    in_a_namespace(act)


def test_containers_ends_are_listed_only_when_asked() -> None:
    def act() -> None:
        a_pair()
        ip("link", "add", "br0", "type", "bridge")
        ip("link", "add", "veth1a2b3c4", "type", "veth", "peer", "name", "inside")
        ip("link", "set", "up1", "master", "br0")
        shown = {i.name for i in network.interfaces()}
        everything = {i.name for i in network.interfaces(include_virtual=True)}
        assert everything - shown == {"up1", "veth1a2b3c4"}
        assert {"lo", "up0", "br0", "inside"} <= shown
        assert named("br0").kind == "bridge"
        assert named("veth1a2b3c4", include_virtual=True).kind == "veth"

    in_a_namespace(act)


def test_speed_is_the_kernels_in_megabits(tmp_path: Path) -> None:
    def act() -> None:
        a_pair()
        (tmp_path / "sys").mkdir()
        subprocess.run(["mount", "-t", "sysfs", "sysfs", str(tmp_path / "sys")], check=True)
        expected = int((tmp_path / "sys/class/net/up0/speed").read_text())
        assert expected > 0
        assert named("up0", root=tmp_path).speed == expected

    in_a_namespace(act)


@pytest.mark.parametrize("text", ["-1\n", "", "unknown\n"])
def test_a_speed_that_the_driver_does_not_know_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "sys/class/net/lo").mkdir(parents=True)
    (tmp_path / "sys/class/net/lo/speed").write_text(text)
    assert named("lo", root=tmp_path).speed is None


def test_default_routes_of_both_families_the_preferred_first() -> None:
    def act() -> None:
        a_pair()
        ip("address", "add", "10.9.8.7/24", "dev", "up0")
        ip("address", "add", "fd00::7/64", "dev", "up0", "nodad")
        ip("route", "add", "default", "via", "10.9.8.2", "metric", "300")
        ip("route", "add", "default", "via", "10.9.8.1", "metric", "77")
        ip("route", "add", "10.1.0.0/16", "via", "10.9.8.3")
        ip("route", "add", "default", "via", "10.9.8.9", "table", "100")
        ip("-6", "route", "add", "default", "via", "fd00::1", "dev", "up0", "metric", "78")
        assert network.default_routes() == (
            Route("10.9.8.1", "up0", "inet", 77),
            Route("10.9.8.2", "up0", "inet", 300),
            Route("fd00::1", "up0", "inet6", 78),
        )

    in_a_namespace(act)


def test_a_default_route_may_have_no_gateway() -> None:
    def act() -> None:
        a_pair()
        ip("route", "add", "default", "dev", "up0")
        assert network.default_routes() == (Route(None, "up0", "inet", 0),)

    in_a_namespace(act)


def test_a_route_over_two_gateways_is_two() -> None:
    def act() -> None:
        a_pair()
        ip("address", "add", "10.9.8.7/24", "dev", "up0")
        hops = ["nexthop", "via", "10.9.8.1", "dev", "up0", "nexthop", "via", "10.9.8.2", "dev", "up0"]
        ip("route", "add", "default", *hops)
        assert [route.gateway for route in network.default_routes()] == ["10.9.8.1", "10.9.8.2"]

    in_a_namespace(act)


def test_no_default_route_is_an_empty_list() -> None:
    in_a_namespace(lambda: pytest.fail("a route") if network.default_routes() else None)


def test_importing_the_module_does_not_import_pyroute2() -> None:
    code = "import sys, homed.host.system, homed.host.network; sys.exit('pyroute2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_netlink_that_the_kernel_refuses_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    def refuse(*_: object, **__: object) -> None:
        raise NetlinkError(1, "Operation not permitted")

    monkeypatch.setattr(IPRoute, "get_links", refuse, raising=False)
    with pytest.raises(OSError, match="netlink refused"):
        network.interfaces()


def test_a_listing_that_was_interrupted_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

    tries: list[None] = []

    def interrupted_once(self: IPRoute) -> object:
        tries.append(None)
        if len(tries) == 1:
            raise NetlinkDumpInterrupted
        # pyroute2 makes its methods as they are asked for.
        return self.__getattr__("get_links")()

    monkeypatch.setattr(IPRoute, "get_links", interrupted_once, raising=False)
    assert network.interfaces()
    assert len(tries) == 2
