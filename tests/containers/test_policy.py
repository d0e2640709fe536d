"""What the configuration does not allow is not to be had by another name."""

import itertools
import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homed.config import Containers
from homed.config.containers import DATA_ROOTS
from homed.containers import device_policy, policy
from homed.containers.protected import Protected
from homed.containers.spec import ServiceSpec
from homed.errors import ValidationError

STATE = Protected(private=("/var/lib/homed", "/etc/homed"))
OPEN = Containers(allow_privileged=True, allow_host_root=True, allow_docker_socket=True)


def refused(allowed: Containers | None = None, **spec: Any) -> list[str]:
    """The fields that are refused."""
    made = ServiceSpec(image="app:1", **spec)
    return [error.field for error in policy.violations(made, allowed or Containers(), STATE)]


def within(folder: Path, **more: Any) -> Containers:
    """A configuration with one more data root."""
    return Containers(data_roots=(*DATA_ROOTS, str(folder)), **more)


def test_what_services_usually_ask_for_is_allowed(tmp_path: Path) -> None:
    assert refused(
        within(tmp_path),
        volumes=(f"{tmp_path}:/data", "/data/app:/var/lib/app:ro", "/srv/x:/x", "named:/y", "/mnt/usb:/usb"),
        devices=("/dev/ttyUSB0", "/dev/null:/dev/zero:rw", "/dev/video0", "/dev/serial/by-id/usb-x"),
        ports=("80:80",),
    ) == []  # fmt: skip


@pytest.mark.parametrize(
    "source",
    ["/", "//", "///", "/.", "/./", "/etc", "/etc/", "/etc/passwd", "/proc", "/proc/1/root", "/proc/self/root/", "/sys",
     "/dev", "/dev/", "/boot", "/root", "/root/.ssh", "/usr", "/usr/local/bin", "/bin", "/sbin", "/lib", "/run",
     "/run/docker.sock", "/run/systemd/private", "/var", "/var/", "/var/lib", "/var/run", "/var/run/docker.sock",
     "/var//run//docker.sock", "/var/./run/docker.sock", "/var/lib/docker", "/var/lib/docker/volumes",
     "/var/lib/containerd", "/var/lib/homed", "/var/lib/homed/homed.db", "/var/lib/systemd",
     "/var/spool/cron/crontabs"],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["", ":ro", ":rw"])
def test_the_system_is_refused_by_every_name(source: str, mode: str) -> None:
    assert refused(volumes=("/data:/data", f"{source}:/host{mode}")) == ["volumes[1]"]


@pytest.mark.parametrize(
    "source",
    ["/opt/homed", "/opt/containerd", "/opt/cni", "/var/lib/cloud", "/var/lib/polkit-1", "/var/lib/rauc",
     "/var/lib/private", "/var/lib/containers", "/var/lib/rancher", "/var/lib/kubelet", "/var/cache", "/var/tmp",
     "/var/tmp/homed-jobs-1", "/tmp/x", "/srvx", "/database", "/var/lib/homed2", "/etcetera", "/nix"],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["", ":ro"])
def test_what_lies_in_no_data_root_is_refused(source: str, mode: str) -> None:
    assert refused(volumes=(f"{source}:/x{mode}",)) == ["volumes[0]"]


def test_the_file_adds_roots_and_takes_them_away(tmp_path: Path) -> None:
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    own = Containers(data_roots=("/opt/app/", f"{tmp_path}/root"))
    volumes = ("/opt/app:/a", "/opt/app/x:/b", "/opt/application:/c", "/srv/x:/d", "/opt:/e", f"{tmp_path}/disk/x:/f")
    assert refused(own, volumes=volumes) == ["volumes[2]", "volumes[3]", "volumes[4]"]
    assert refused(Containers(data_roots=()), volumes=("/srv/x:/a", "named:/b")) == ["volumes[0]"]
    assert refused(Containers(allow_host_root=True), volumes=("/opt/application:/c",)) == []


@pytest.mark.parametrize("root", ["", "data", "/", "//", "/./", "/data/../etc", "/\0"])
def test_a_data_root_is_a_folder_below_the_root(root: str) -> None:
    with pytest.raises(ValidationError):
        Containers(data_roots=(root,))


def test_a_login_users_folder_is_his_own_wherever_it_lies(tmp_path: Path) -> None:
    accounts = tmp_path / "passwd"
    accounts.write_text(
        f"git:x:1:1::{tmp_path}/git:/bin/bash\nftp:x:2:2::{tmp_path}/ftp:/usr/sbin/nologin\nodd\nroot:x:0:0::/:/bin/sh"
    )
    assert policy.login_homes(policy.real_path, str(accounts)) == [f"{tmp_path}/git"]
    assert policy.login_homes(policy.real_path, str(tmp_path / "missing")) == []


def test_a_folder_of_a_user_that_a_root_names_is_meant() -> None:
    volumes = ("/home/pi:/a", "/home/pi/.config/app:/b", "/home/other/.ssh:/c")
    assert refused(Containers(data_roots=("/home", "/home/pi")), volumes=volumes) == ["volumes[2]"]
    assert refused(volumes=volumes) == ["volumes[0]", "volumes[1]", "volumes[2]"]


@pytest.mark.parametrize("source", ["/data/../etc", "/..", "/data/..", "/a/../../b"])
def test_a_way_up_is_no_path(source: str) -> None:
    with pytest.raises(ValidationError):
        ServiceSpec(image="app:1", volumes=(f"{source}:/host",))


def test_a_link_is_followed_wherever_it_leads(tmp_path: Path) -> None:
    links = {"root": "/", "etc": "/etc", "socket": "/var/run/docker.sock", "up": "../" * 40, "run": "/run/user"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "chain").symlink_to(tmp_path / "root")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in (*links, "chain", "root/etc", "chain/proc/1", "up/etc/shadow"):
        for mode in ("", ":ro"):
            assert refused(within(tmp_path), volumes=(f"{tmp_path}/{name}:/host{mode}",)) == ["volumes[0]"], name
    assert refused(within(tmp_path), volumes=(f"{tmp_path}/loop:/host",)) == [], "leads nowhere: the engine refuses it"


def test_a_path_that_becomes_a_link_later_is_seen_when_it_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    assert refused(within(tmp_path), volumes=(f"{path}:/host",)) == []
    path.rmdir()
    path.symlink_to("/")
    assert refused(within(tmp_path), volumes=(f"{path}:/host",)) == ["volumes[0]"]


@pytest.mark.parametrize("source", ["/etc/localtime", "/etc/timezone", "/run/udev/data", "/etc/ssl/certs"])
def test_what_is_harmless_to_read_may_be_read_but_not_written(source: str) -> None:
    assert refused(volumes=(f"{source}:/x:ro",)) == []
    assert refused(volumes=(f"{source}:/x",)) == ["volumes[0]"]


def test_the_engines_socket_is_its_own_permission_wherever_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    folder.mkdir()
    (tmp_path / "alias").symlink_to(folder)
    (tmp_path / "docker").symlink_to(folder / "engine.sock")
    engine = f"unix://{folder}/engine.sock"
    names = (f"{folder}/engine.sock", f"{folder}", f"{folder}/", f"{tmp_path}", f"{tmp_path}/alias",
             f"{tmp_path}/alias/engine.sock", f"{tmp_path}/docker", "/")  # fmt: skip
    for name in names:
        for allowed in (Containers(engine=engine), Containers(engine=engine, allow_host_root=True)):
            assert refused(allowed, volumes=(f"{name}:/x:ro",)) == ["volumes[0]"], name
    given_socket = Containers(engine=engine, allow_docker_socket=True)
    assert refused(given_socket, volumes=(f"{folder}/engine.sock:/var/run/docker.sock",)) == []


def test_an_engine_addressed_by_a_link_has_its_real_socket_guarded_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    allowed = Containers(engine=f"unix://{tmp_path}/link/engine.sock", allow_host_root=True)
    for name in ("real", "real/engine.sock", "link", "link/engine.sock"):
        assert refused(allowed, volumes=(f"{tmp_path}/{name}:/x",)) == ["volumes[0]"], name


def test_the_socket_alone_does_not_open_the_root_nor_the_root_the_socket() -> None:
    socket, root = Containers(allow_docker_socket=True), Containers(allow_host_root=True)
    assert refused(socket, volumes=("/var/run/docker.sock:/x",)) == []
    assert refused(socket, volumes=("/:/x", "/run:/y")) == ["volumes[0]", "volumes[1]"]
    volumes = ("/etc/ssh:/x", "/var/run/docker.sock:/y", "/:/z")
    assert refused(root, volumes=volumes) == ["volumes[1]", "volumes[2]"]
    assert refused(OPEN, volumes=("/run:/x", "/run/docker.sock:/y"), devices=("/dev/mem",), privileged=True) == []


def test_the_state_directory_is_guarded_wherever_it_is(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "alias").symlink_to(state)
    for source in (state, state / "homed.db", tmp_path, tmp_path / "alias"):
        spec = ServiceSpec(image="app:1", volumes=(f"{source}:/x",))
        for allowed in (within(tmp_path), OPEN):
            assert policy.violations(spec, allowed, Protected(private=(str(state),))), source


def test_privileges_are_refused() -> None:
    assert refused(privileged=True) == ["privileged"]


def test_every_field_that_asks_too_much_is_named() -> None:
    assert refused(privileged=True, volumes=("/:/a", "/data:/b", "/etc:/c"), devices=("/dev/mem",)) == [
        "privileged", "volumes[0]", "volumes[2]", "devices[0]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "device",
    ["/dev/mem", "/dev//mem", "/dev/./mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/nvram", "/dev/mtd0",
     "/dev/sg0", "/dev/nvme0", "/dev/mmcblk0rpmb", "/dev/ubi0", "/dev/cpu/0/msr", "/dev/raw/raw1", "/dev/", "/dev//",
     "/dev/.", "/dev/mem:/dev/harmless:r", "/dev/vcio", "/dev/uio0", "/dev/vfio/vfio", "/dev/spidev0.0", "/dev/uinput",
     "/dev/input/event0", "/dev/hidraw0", "/dev/uhid", "/dev/cuse", "/dev/console", "/dev/tty1", "/dev/tty",
     "/dev/watchdog", "/dev/watchdog0", "/dev/fuse", "/dev/kvm", "/dev/loop-control", "/dev/loop0", "/dev/sda",
     "/dev/bus/usb", "/dev/bus/usb/001/002", "/dev/mapper/control", "/dev/btrfs-control", "/dev/autofs", "/dev/cpu",
     "/dev/ttyUSB0/../mem2", "/dev/snd/../mem2", "/dev/rtc0", "/dev/vhost-net"],
)  # fmt: skip
def test_devices_that_reach_the_board_are_refused_by_every_name(device: str) -> None:
    try:
        assert refused(devices=(device,)) == ["devices[0]"]
    except ValidationError:
        assert ".." in device


def test_a_device_is_judged_by_where_its_name_leads(tmp_path: Path) -> None:
    (tmp_path / "ttyUSB0").symlink_to("/dev/null")
    (tmp_path / "video0").symlink_to("/dev/full")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "null").symlink_to("/dev/null")

    def refusal(name: str, *patterns: str) -> str | None:
        return device_policy.refusal(f"/dev/alias/{name}", patterns, lambda p: os.path.realpath(_in(p, tmp_path)))

    assert refusal("ttyUSB0", "/dev/alias/*") == "/dev/null is not in containers.devices"
    assert refusal("ttyUSB0", "/dev/nul?") is None
    assert refusal("folder", "/dev/null") is None, "all that is in it is allowed"
    (tmp_path / "folder" / "full").symlink_to("/dev/full")
    assert refusal("folder", "/dev/null", f"{tmp_path}/*") == "/dev/full is not in containers.devices"
    assert refusal("missing", "/dev/*") is not None, "a wildcard stays within its directory"
    assert refusal("missing", "/dev/alias/*") is None or refusal("missing", f"{tmp_path}/*") is None


def _in(path: str, folder: Path) -> str:
    return path.replace("/dev/alias", str(folder))


def test_a_node_by_another_name_is_judged_by_the_kernels(tmp_path: Path) -> None:
    node = tmp_path / "ttyUSB0"
    try:
        os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("a device node needs root")
    refused_by = device_policy.refusal(str(node), (f"{tmp_path}/*",), os.path.realpath)
    assert refused_by is not None, "the kernel calls it /dev/full"
    assert device_policy.refusal(str(node), (f"{tmp_path}/*", "/dev/full"), os.path.realpath) is None


def test_no_wildcard_means_the_console(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "active").write_text("tty0 ttyS0\n")
    monkeypatch.setattr(device_policy, "_CONSOLES", str(tmp_path / "active"))
    assert device_policy.refusal("/dev/ttyS0", ("/dev/ttyS*",), str) is not None
    assert device_policy.refusal("/dev/ttyS1", ("/dev/ttyS*",), str) is None
    assert device_policy.refusal("/dev/ttyS0", ("/dev/ttyS0",), str) is None, "the file names it"


def test_a_disk_is_refused_by_every_name(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    try:
        os.mknod(tmp_path / "deeper" / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    except PermissionError:
        pytest.skip("a device node needs root")
    (tmp_path / "link").symlink_to(tmp_path / "deeper" / "disk")
    (tmp_path / "deeper" / "round").symlink_to(tmp_path)

    def resolve(path: str) -> str:
        return os.path.realpath(path.replace("/dev/alias", str(tmp_path)))

    for device in (
        "/dev/alias/deeper/disk",
        "/dev/alias/link",
        "/dev/alias/deeper",
        "/dev/alias",
        "/dev/alias/deeper/round",
    ):
        spec = ServiceSpec(image="app:1", devices=(device,))
        assert policy.violations(spec, Containers(), STATE, resolve), device
    by_name = (f"{tmp_path}/*", f"{tmp_path}/deeper/*")
    assert device_policy.refusal("/dev/alias/deeper/disk", by_name, resolve) is not None, "the kernel calls it loop0"


_PARTS = st.sampled_from(
    ["etc", "run", "var", "lib", "docker.sock", "data", ".", "", "link", "homed", "proc", "1", "root"]
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(_PARTS, max_size=6), mode=st.sampled_from(["", ":ro", ":rw"]))
def test_no_spelling_of_a_system_path_gets_past(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], mode: str
) -> None:
    source = "/" + "/".join(parts)
    try:
        real = os.path.realpath(source)
    except PermissionError:
        real = "/proc"
    dangerous = ("/etc", "/run", "/proc", "/root", "/var/lib/docker", "/var/lib/homed")
    bad = any(real == d or real.startswith(f"{d}/") or f"{d}/".startswith(f"{real.rstrip('/')}/") for d in dangerous)
    found = refused(volumes=(f"{source}:/x{mode}",))
    assert found == (["volumes[0]"] if bad else found)


def test_what_is_refused_says_which_field_of_the_configuration_would_allow_it() -> None:
    spec = ServiceSpec(image="app:1", privileged=True, volumes=("/:/a", "/run/docker.sock:/b"), devices=("/dev/mem",))
    spec = msgspec.structs.replace(spec, volumes=(*spec.volumes, "/opt/x:/c"))
    said = [error.message for error in policy.violations(spec, Containers(), STATE)]
    fields = ["allow_privileged", "allow_docker_socket", "allow_docker_socket", "data_roots", "allow_privileged"]
    for message, field in zip(said, fields, strict=True):
        assert f"containers.{field}" in message
    assert "containers.allow_host_root" in said[3] and "containers.devices" in said[4]
    names = {field.name for field in msgspec.structs.fields(Containers)}
    assert set(itertools.chain(fields)) <= names
