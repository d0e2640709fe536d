"""What Docker Engine is told, and the digest by which two configurations are the same."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed import validation
from homed.containers import creation
from homed.containers.spec import HealthCheck, Registry, ServiceSpec


def body(**fields: Any) -> dict[str, Any]:
    return creation.configuration("web", ServiceSpec(image="app:1", **fields))


def test_how_a_service_is_backed_up_needs_no_new_container() -> None:
    plain = ServiceSpec(image="app:1", labels={"x": "y"})
    labelled = ServiceSpec(image="app:1", labels={"x": "y", "io.homed.backup": "paused"})
    assert creation.digest("web", plain) == creation.digest("web", labelled)
    assert creation.configuration("web", labelled)["Labels"]["io.homed.backup"] == "paused"


def test_a_full_spec_is_told_whole() -> None:
    made = body(
        environment={"B": "2", "A": "1=x"}, ports=("8080:80", "[::1]:8081:80", "53/udp"),
        volumes=("/data:/data", "vol:/x:ro"), labels={"io.homei.service": "webserver"}, command="sh -c 'echo hi'",
        entrypoint=("/bin/e",), devices=("/dev/ttyUSB0:/dev/modem:rw",), user="app", read_only=True, tmpfs=("/tmp",),
        memory="256m", cpus=1.5, health_check=HealthCheck("curl x", interval=2, timeout=0.5, retries=4, start_period=1),
    )  # fmt: skip
    host = made["HostConfig"]
    assert made["Image"] == "app:1"
    assert made["Env"] == ["A=1=x", "B=2"]
    assert made["Cmd"] == ["sh", "-c", "echo hi"] and made["Entrypoint"] == ["/bin/e"]
    assert made["User"] == "app"
    assert made["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    assert host["PortBindings"] == {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}, {"HostIp": "::1", "HostPort": "8081"}],
        "53/udp": [{"HostIp": "", "HostPort": ""}],
    }
    assert host["Binds"] == ["/data:/data:rw", "vol:/x:ro"]
    assert host["Devices"] == [
        {"PathOnHost": "/dev/ttyUSB0", "PathInContainer": "/dev/modem", "CgroupPermissions": "rw"}
    ]
    assert (host["Memory"], host["NanoCpus"], host["ReadonlyRootfs"]) == (2**28, 1_500_000_000, True)
    assert host["Tmpfs"] == {"/tmp": ""}
    assert made["Healthcheck"] == {
        "Test": ["CMD-SHELL", "curl x"], "Interval": 2_000_000_000, "Timeout": 500_000_000, "Retries": 4,
        "StartPeriod": 1_000_000_000,
    }  # fmt: skip
    json.dumps(made)


def test_homed_supervises_and_docker_does_not() -> None:
    for policy in ("always", "on-failure:3"):
        assert body(restart_policy=policy)["HostConfig"]["RestartPolicy"] == {"Name": "no"}


def test_a_containers_log_cannot_fill_the_disk() -> None:
    config = body()["HostConfig"]["LogConfig"]["Config"]
    assert config["max-size"] and config["max-file"]


def test_the_labels_tell_whose_it_is_and_cannot_be_overridden() -> None:
    labels = body(labels={"io.homei.managed": "true", "x": "y"})["Labels"]
    assert labels["io.homei.managed"] == "true" and labels["io.homed.service"] == "web" and labels["x"] == "y"
    assert labels["io.homed.spec"] == creation.digest("web", ServiceSpec(image="app:1", labels={"x": "y"}))


def test_on_a_network_of_its_own_the_services_name_is_its_alias() -> None:
    assert body(network="lan")["NetworkingConfig"] == {"EndpointsConfig": {"lan": {"Aliases": ["web"]}}}
    for network in ("bridge", "host", "none"):
        assert "NetworkingConfig" not in body(network=network)


def test_a_command_as_a_list_is_run_as_it_is() -> None:
    assert body(command=("echo", "a b"))["Cmd"] == ["echo", "a b"]
    assert body(health_check=HealthCheck(("check", "a b")))["Healthcheck"]["Test"] == ["CMD", "check", "a b"]


SPEC = ServiceSpec(image="app:1")


@pytest.mark.parametrize(
    "change",
    [
        {"image": "app:2"}, {"environment": {"A": "1"}}, {"ports": ("80",)}, {"volumes": ("/a:/b",)},
        {"labels": {"a": "b"}}, {"command": "x"}, {"entrypoint": "x"}, {"network": "lan"}, {"devices": ("/dev/x",)},
        {"user": "a"}, {"read_only": True}, {"tmpfs": ("/t",)}, {"memory": "64m"}, {"cpus": 1.0},
        {"health_check": HealthCheck("x")}, {"privileged": True},
    ],
)  # fmt: skip
def test_what_makes_another_container_changes_the_digest(change: dict[str, Any]) -> None:
    assert creation.digest("web", msgspec.structs.replace(SPEC, **change)) != creation.digest("web", SPEC)
    assert creation.digest("db", SPEC) != creation.digest("web", SPEC)


@pytest.mark.parametrize(
    "change",
    [{"restart_policy": "no"}, {"stop_timeout": 3}, {"depends_on": ("db",)}, {"registry": Registry("a", "b")}],
)
def test_what_only_homed_heeds_needs_no_new_container(change: dict[str, Any]) -> None:
    assert creation.digest("web", msgspec.structs.replace(SPEC, **change)) == creation.digest("web", SPEC)


def test_a_registrys_password_is_not_told_with_the_container() -> None:
    assert "hunter2" not in json.dumps(body(registry=Registry("me", "hunter2")))


def test_two_ways_to_say_the_same_are_the_same() -> None:
    def digest(**fields: Any) -> str:
        return creation.digest("web", ServiceSpec(image="a", **fields))

    assert digest(memory="256m") == digest(memory=2**28)
    assert digest(command="echo hi") == digest(command=("echo", "hi"))
    assert digest(volumes=("/a:/b",)) == digest(volumes=("/a:/b:rw",))
    assert digest(environment={"a": "1", "b": "2"}) == digest(environment={"b": "2", "a": "1"})


@given(
    environment=st.dictionaries(
        st.from_regex("[A-Z]{1,5}", fullmatch=True), st.text(max_size=5).filter(lambda t: "\0" not in t)
    ),
    labels=st.dictionaries(st.from_regex("[a-z]{1,5}", fullmatch=True), st.from_regex("[a-z]{0,5}", fullmatch=True)),
)
def test_the_digest_outlives_being_stored(environment: dict[str, str], labels: dict[str, str]) -> None:
    made = ServiceSpec(image="a", environment=environment, labels=labels)
    stored = validation.decode_json(msgspec.json.encode(made), ServiceSpec)
    assert creation.digest("web", stored) == creation.digest("web", made)
