"""What is refused of a new service although each of its fields is well formed."""

from pathlib import Path
from typing import Any

import pytest

from homed.containers import creation, image_reference, mappings, mount_sources, spec_rules
from homed.containers.mappings import PortMapping
from homed.containers.spec import ServiceSpec


def wrong(**fields: Any) -> list[str]:
    return [error.field for error in spec_rules.problems(ServiceSpec(**{"image": "app:1", **fields}))]


@pytest.mark.parametrize(
    "image",
    ["nginx", "nginx:alpine", "localhost", "a/b/c", "registry:5000/team/app:1.0", "localhost/x",
     "LOCAL.example/x", "[::1]:5000/x:1", "app@sha256:" + "0" * 64, "app:1@sha256:" + "f" * 64, "ghcr.io/a/b-c_d",
     "a__b", "a--b", "x:V1.0_-", "10.0.0.1/x", "app@sha512:" + "a" * 128, "sha256:" + "0" * 64, "a" * 255],
)  # fmt: skip
def test_images_are_named_by_the_grammar_of_registries(image: str) -> None:
    image_reference.check(image)
    assert wrong(image=image) == []


@pytest.mark.parametrize(
    "image",
    ["Bugs/x:1", "bugs/busybox:", "x@sha256:12", "bugs//x", "X", "x:", "x:-1", "x:.1", "x:" + "a" * 129, "x@",
     "x@sha256:", "x@sha256:" + "F" * 64, "x@sha256:" + "0" * 63, "x@md5:" + "0" * 32, "/x", "x/", "a_.b",
     "a___b", "-a", "a-", "a..b", "a" * 256, "a:1:2", "x@sha256:" + "0" * 64 + ":1", "host:port/x", "host:/x",
     "-h.example/x", "h-.example/x", "a@b@sha256:" + "0" * 64, "0" * 64, "registry:5000/X", "x:é", "[::1/x"],
)  # fmt: skip
def test_an_image_that_breaks_the_grammar_is_refused_with_the_rule(image: str) -> None:
    with pytest.raises(ValueError, match=r"\w{3,}"):
        image_reference.check(image)


@pytest.mark.parametrize(
    ("text", "target", "options"),
    [
        ("/tmp", "/tmp", ""),
        ("/tmp:size=1m", "/tmp", "size=1m"),
        ("/run:rw,noexec,nosuid,size=65536k,mode=1777", "/run", "rw,noexec,nosuid,size=65536k,mode=1777"),
        ("/x:uid=1000,gid=1000,nr_inodes=4k,size=10%", "/x", "uid=1000,gid=1000,nr_inodes=4k,size=10%"),
    ],
)
def test_a_tmpfs_has_a_path_and_options(text: str, target: str, options: str) -> None:
    assert mappings.parse_tmpfs(text) == (target, options)
    host = creation.configuration("web", ServiceSpec(image="app:1", tmpfs=(text,)))["HostConfig"]
    assert host["Tmpfs"] == {target: options}


@pytest.mark.parametrize(
    "text",
    ["/tmp:", "/tmp:size", "/tmp:size=", "/tmp:size=0", "/tmp:size=-1", "/tmp:size=1x", "/tmp:mode=999", "/tmp:dev",
     "/tmp:x", "/tmp:ro=1", "/tmp:size=1m,,ro", "/tmp:size=1m,size=2m", "/tmp:context=x", "/tmp: ro", "/tmp:uid=root",
     "/:size=1m", "/", "/tmp:ro:rw", "/tmp:size=1m,mode=1777,bind"],
)  # fmt: skip
def test_an_option_that_a_tmpfs_does_not_have_is_refused(text: str) -> None:
    assert wrong(tmpfs=(text,)) == ["tmpfs[0]"]


def test_a_variable_is_as_long_as_the_kernel_takes_it() -> None:
    most = spec_rules.MAX_VARIABLE_BYTES - 1
    assert wrong(environment={"LONG": "x" * (most - len("LONG="))}) == []
    assert wrong(environment={"LONG": "x" * (most - len("LONG=") + 1)}) == ["environment.LONG"]
    assert wrong(environment={"E": "é" * (most // 2)}) == ["environment.E"], "bytes count, not characters"
    assert wrong(environment={f"V{i}": "" for i in range(1025)}) == ["environment"]


@pytest.mark.parametrize(
    "ports",
    [
        ("80:80", "80:81"), ("80:80", "127.0.0.1:80:80"), ("0.0.0.0:80:80", "127.0.0.1:80:80"), ("80:80", "80:80/tcp"),
        ("8000-8010:9000-9010", "8005:80"), ("8000-8010:9000-9010", "8010-8012:1-3"), ("[::]:80:80", "[::1]:80:80"),
        ("80:80", "[::1]:80:80"),
    ],
)  # fmt: skip
def test_a_port_of_the_board_is_published_once(ports: tuple[str, ...]) -> None:
    assert wrong(ports=ports) == ["ports[1]"]


@pytest.mark.parametrize(
    "ports",
    [
        ("53:53", "53:53/udp"), ("80", "80"), ("127.0.0.1:80:80", "10.0.0.1:80:80"), ("0.0.0.0:80:80", "[::]:80:80"),
        ("8000-8010:9000-9010", "8011:9000"), (":80", ":80"),
    ],
)  # fmt: skip
def test_ports_that_do_not_meet_are_published_side_by_side(ports: tuple[str, ...]) -> None:
    assert wrong(ports=ports) == []


def test_a_range_of_ports_is_as_many_mappings() -> None:
    assert mappings.parse_ports("127.0.0.1:8000-8002:9000-9002/udp") == [
        PortMapping("127.0.0.1", 8000 + i, 9000 + i, "udp") for i in range(3)
    ]
    assert [port.host_port for port in mappings.parse_ports("9000-9001")] == [None, None]
    for text in ("8000-8001:9000-9002", "8000-8001:80", "2-1", "0-1", "65535-65536", "1-257", "1-:2-", "80-", "a-b"):
        with pytest.raises(ValueError, match=r"port|range|like"):
            mappings.parse_ports(text)
    body = creation.configuration("web", ServiceSpec(image="app:1", ports=("8000-8001:80-81",)))
    assert set(body["ExposedPorts"]) == {"80/tcp", "81/tcp"}
    assert body["HostConfig"]["PortBindings"]["81/tcp"] == [{"HostIp": "", "HostPort": "8001"}]
    assert wrong(ports=tuple(f"{1 + 256 * i}-{256 * (i + 1)}" for i in range(5))) == ["ports"]


def test_a_path_of_the_container_is_mounted_once() -> None:
    assert wrong(volumes=("a:/data", "b:/data/")) == ["volumes[1]"]
    assert wrong(volumes=("a:/data", "b://data/.")) == ["volumes[1]"]
    assert wrong(volumes=("a:/data",), tmpfs=("/data:size=1m",)) == ["tmpfs[0]"]
    assert wrong(tmpfs=("/a", "/a/:size=1m")) == ["tmpfs[1]"]
    assert wrong(devices=("/dev/a:/dev/x", "/dev/b:/dev/x")) == ["devices[1]"]
    assert wrong(volumes=("a:/data", "a:/data/inner"), tmpfs=("/tmp",)) == []


def test_what_only_some_services_have_leaves_the_others_containers_alone() -> None:
    plain = creation.configuration("web", ServiceSpec(image="app:1"))["HostConfig"]
    assert not {"Init", "CapAdd", "ExtraHosts"} & plain.keys()
    full = ServiceSpec(
        image="app:1", init=True, cap_add=("CAP_NET_ADMIN", "net_admin", "CHOWN"),
        extra_hosts=("db:10.0.0.5", "board:host-gateway", "v6:[::1]"),
    )  # fmt: skip
    host = creation.configuration("web", full)["HostConfig"]
    assert (host["Init"], host["CapAdd"]) == (True, ["CHOWN", "NET_ADMIN"])
    assert host["ExtraHosts"] == ["db:10.0.0.5", "board:host-gateway", "v6:::1"]
    assert creation.taken({"HostConfig": host}).cap_add == ("CHOWN", "NET_ADMIN")


@pytest.mark.parametrize("text", ["", "db", "db:", ":10.0.0.1", "a b:10.0.0.1", "db:10.0.0.256", "db:x", "-a:10.0.0.1"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        mappings.parse_extra_host(text)


def test_a_file_that_is_not_there_is_missed_and_a_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "there.conf").write_text("x")
    files = ("app.conf:/x", ".env:/x", "data:/etc/app.json", "docker.sock:/x", "gone/data.sqlite3:/x")
    folders = ("data:/x", "conf.d:/etc/conf.d", "app.v2/:/x", "deep/er:/x", "there.conf:/x")

    def missing(volume: str, **more: Any) -> list[str]:
        spec = ServiceSpec(image="app:1", volumes=("named:/n", f"{tmp_path}/{volume}"), **more)
        return [field for field, _ in mount_sources.missing(spec)]

    for volume in files:
        assert missing(volume) == ["volumes[1]"], volume
        assert missing(volume, create_missing=True) == []
    for volume in folders:
        assert missing(volume) == [], volume
    assert missing("data:/x", create_missing=False) == ["volumes[1]"]
    assert missing("there.conf:/x", create_missing=False) == []
    assert missing("there.conf/below:/x", create_missing=False) == ["volumes[1]"]


@pytest.mark.parametrize("target", ["/proc", "/proc/", "//proc", "/proc/sys", "/proc/1/root", "/proc/cpuinfo/x"])
def test_nothing_is_mounted_in_proc_of_a_container(target: str) -> None:
    """Docker takes it and cannot start the container."""
    assert wrong(volumes=(f"data:{target}",)) == ["volumes[0]"]
    assert wrong(tmpfs=(target,)) == ["tmpfs[0]"]


@pytest.mark.parametrize("target", ["/proc/cpuinfo", "/proc/net/dev", "/process", "/srv/proc"])
def test_what_can_be_mounted_beside_or_over_files_of_proc_is_taken(target: str) -> None:
    assert wrong(volumes=(f"/srv/x:{target}",)) == []
