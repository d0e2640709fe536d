"""What a service may be given as, field by field."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed import validation
from homed.containers import image_reference, mappings, spec
from homed.containers.mappings import DeviceMapping, PortMapping, VolumeMapping
from homed.containers.spec import ServiceSpec
from homed.errors import ValidationError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", PortMapping("", None, 80, "tcp")),
        ("8080:80", PortMapping("", 8080, 80, "tcp")),
        (":80", PortMapping("", None, 80, "tcp")),
        ("5353:5353/udp", PortMapping("", 5353, 5353, "udp")),
        ("127.0.0.1:8080:80", PortMapping("127.0.0.1", 8080, 80, "tcp")),
        ("127.0.0.1::80", PortMapping("127.0.0.1", None, 80, "tcp")),
        ("[::1]:8080:80/sctp", PortMapping("::1", 8080, 80, "sctp")),
    ],
)
def test_a_port_is_read(text: str, expected: PortMapping) -> None:
    assert mappings.parse_port(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":", "x", "0", "80:0", "65536", "80:65536", "999999", "80/http", "80:80:80", "256.0.0.1:80:80", "1.2.3:80:80",
     "-1", "80 ", " 80", "80\n", "8080:80/TCP", "::1:80:80", "[evil]:80:80", "1:2:3:4", "[:::]:80:80", "[1.2]:80:80"],
)  # fmt: skip
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        mappings.parse_port(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/app:/data", VolumeMapping("/data/app", "/data", False)),
        ("/data/app:/data:ro", VolumeMapping("/data/app", "/data", True)),
        ("named_volume-1:/data:rw", VolumeMapping("named_volume-1", "/data", False)),
    ],
)
def test_a_volume_is_read(text: str, expected: VolumeMapping) -> None:
    assert mappings.parse_volume(text) == expected
    assert expected.is_path == text.startswith("/")


@pytest.mark.parametrize(
    "text",
    ["", "/data", "/a:b", "/a:/", "/a://", "a b:/c", "./a:/b", "../a:/b", "/a/../b:/c", "/a:/b/../c", "/a:/b:z",
     "/a:/b:ro,z", "/a:/b:ro:rw", ":/b", "/a:", "/a\0:/b", "~/a:/b", "-v:/b", "a/b:/c"],
)  # fmt: skip
def test_what_is_no_volume_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        mappings.parse_volume(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/dev/ttyUSB0", DeviceMapping("/dev/ttyUSB0", "/dev/ttyUSB0", "rwm")),
        ("/dev/ttyUSB0:/dev/modem", DeviceMapping("/dev/ttyUSB0", "/dev/modem", "rwm")),
        ("/dev/a:/dev/b:r", DeviceMapping("/dev/a", "/dev/b", "r")),
    ],
)
def test_a_device_is_read(text: str, expected: DeviceMapping) -> None:
    assert mappings.parse_device(text) == expected


@pytest.mark.parametrize(
    "text", ["", "ttyUSB0", "/etc/passwd", "/dev/../etc", "/dev/a:/etc", "/dev/a:/dev/b:", "/dev/a:/dev/b:x",
             "/dev/a:/dev/b:rw:r", "/dev/a\0", "/device"]
)  # fmt: skip
def test_what_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        mappings.parse_device(text)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (268435456, 268435456), ("268435456", 268435456), ("256m", 2**28), ("256M", 2**28), ("256MiB", 2**28),
        ("256mb", 2**28), ("1.5g", 3 * 2**29), ("6144k", 6 * 2**20), (" 1 g ", 2**30), ("1t", 2**40),
    ],
)  # fmt: skip
def test_memory_is_read(given_: int | str, expected: int) -> None:
    assert spec.memory_bytes(given_) == expected


@pytest.mark.parametrize("given_", [0, 1, -1, "", "m", "5m", "1e9", "-1g", "1.g", "9" * 32 + "t", "nan", "1x"])
def test_what_is_no_memory_is_refused(given_: int | str) -> None:
    with pytest.raises(ValueError):
        spec.memory_bytes(given_)


@given(st.text(max_size=40))
def test_every_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    parsers = (
        mappings.parse_ports, mappings.parse_volume, mappings.parse_device, mappings.parse_tmpfs,
        mappings.parse_extra_host, mappings.capability, image_reference.check, spec.memory_bytes, spec.arguments,
    )  # fmt: skip
    for parse in parsers:
        try:
            parse(text)
        except ValueError as error:
            assert str(error)  # noqa: PT017


@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])), min_size=1))
def test_a_commands_words_are_those_of_a_shell(words: list[str]) -> None:
    assert spec.arguments(shlex.join(words)) == words
    assert spec.arguments(tuple(words)) == words


def wrong(**fields: object) -> list[str]:
    with pytest.raises(ValidationError) as raised:
        validation.convert({"image": "app:1", **fields}, ServiceSpec)
    return [error.field for error in raised.value.errors]


@pytest.mark.parametrize(
    "image", ["nginx", "nginx:alpine", "registry:5000/team/app:1.0", "app@sha256:" + "0" * 64, "ghcr.io/a/b-c_d"]
)
def test_images_are_named_as_docker_names_them(image: str) -> None:
    assert validation.convert({"image": image}, ServiceSpec).image == image


@pytest.mark.parametrize("image", ["", " ", "-x", "a b", "a\n", "../a", "a;b", "a" * 513, "http://x/\x00"])
def test_what_cannot_be_an_image_is_refused(image: str) -> None:
    assert wrong(image=image) == ["image"]


@pytest.mark.parametrize("policy", ["no", "always", "unless-stopped", "on-failure", "on-failure:5"])
def test_docker_s_restart_policies_are_known(policy: str) -> None:
    assert validation.convert({"image": "a", "restart_policy": policy}, ServiceSpec).restart_policy == policy


@pytest.mark.parametrize("policy", ["", "never", "on-failure:", "on-failure:0", "on-failure:-1", "always:3", "No"])
def test_other_restart_policies_are_refused(policy: str) -> None:
    assert wrong(restart_policy=policy) == ["restart_policy"]


def test_ports_make_no_sense_on_a_network_without_them() -> None:
    assert wrong(network="host", ports=["80:80"]) == ["ports"]
    assert wrong(network="none", ports=["80:80"]) == ["ports"]


def test_homeds_own_labels_are_not_to_be_set() -> None:
    assert wrong(labels={"io.homed.service": "x"}) == ["labels.io.homed.service"]
    assert wrong(labels={"io.homed.backup.modus": "live"}) == ["labels.io.homed.backup.modus"]
    assert wrong(labels={"io.homei.managed": "false"}) == ["labels.io.homei.managed"]
    validation.convert({"image": "a", "labels": {"io.homei.service": "db", "io.homei.managed": "true"}}, ServiceSpec)


def test_a_name_of_the_environment_is_one() -> None:
    for name in ("", "A=B", "A\0"):
        assert wrong(environment={name: "x"}) == [f"environment.{name}"]
    validation.convert({"image": "a", "environment": {"a.b-c": "x=y\nz", "EMPTY": ""}}, ServiceSpec)


def test_a_dependency_is_named_once() -> None:
    assert wrong(depends_on=["db", "db"]) == ["depends_on"]


@pytest.mark.parametrize("command", ["", [], "a\0b", 5, None])
def test_a_health_check_has_a_command(command: object) -> None:
    assert wrong(health_check={"command": command}) == ["health_check.command"]
    assert wrong(health_check={"command": ["a", "b\0"]}) == ["health_check.command[1]"]
