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
from homed.containers import policy
from homed.containers.spec import ServiceSpec
from homed.errors import ValidationError

STATE = Path("/var/lib/homed")
OPEN = Containers(allow_privileged=True, allow_host_root=True, allow_docker_socket=True)


def refused(allowed: Containers | None = None, **spec: Any) -> list[str]:
    """The fields that are refused."""
    made = ServiceSpec(image="app:1", **spec)
    return [error.field for error in policy.violations(made, allowed or Containers(), STATE)]


def test_what_services_usually_ask_for_is_allowed(tmp_path: Path) -> None:
    assert refused(
        volumes=(f"{tmp_path}:/data", "/data/app:/var/lib/app:ro", "/srv/x:/x", "named:/y", "/mnt/usb:/usb"),
        devices=("/dev/ttyUSB0", "/dev/null:/dev/zero:rw"),
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


def test_what_only_begins_like_the_systems_is_not(tmp_path: Path) -> None:
    assert refused(volumes=("/etcetera:/a", "/usr2:/b", "/devices:/c", "/var/lib/homed2:/d", "/runs:/e")) == []


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
            assert refused(volumes=(f"{tmp_path}/{name}:/host{mode}",)) == ["volumes[0]"], name
    assert refused(volumes=(f"{tmp_path}/loop:/host",)) == [], "leads nowhere: the engine refuses it"


def test_a_path_that_becomes_a_link_later_is_seen_when_it_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    assert refused(volumes=(f"{path}:/host",)) == []
    path.rmdir()
    path.symlink_to("/")
    assert refused(volumes=(f"{path}:/host",)) == ["volumes[0]"]


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
    assert refused(root, volumes=("/etc:/x", "/var/run/docker.sock:/y", "/:/z")) == ["volumes[1]", "volumes[2]"]
    assert refused(OPEN, volumes=("/:/x", "/run/docker.sock:/y"), devices=("/dev/mem",), privileged=True) == []


def test_the_state_directory_is_guarded_wherever_it_is(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "alias").symlink_to(state)
    for source in (state, state / "homed.db", tmp_path, tmp_path / "alias"):
        spec = ServiceSpec(image="app:1", volumes=(f"{source}:/x",))
        assert policy.violations(spec, Containers(), state), source


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
     "/dev/.", "/dev/mem:/dev/harmless:r"],
)  # fmt: skip
def test_raw_memory_and_flash_are_refused_by_every_name(device: str) -> None:
    assert refused(devices=(device,)) == ["devices[0]"]


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
    said = [error.message for error in policy.violations(spec, Containers(), STATE)]
    fields = ["allow_privileged", "allow_docker_socket", "allow_docker_socket", "allow_privileged"]
    for message, field in zip(said, fields, strict=True):
        assert f"containers.{field}" in message
    names = {field.name for field in msgspec.structs.fields(Containers)}
    assert set(itertools.chain(fields)) <= names
