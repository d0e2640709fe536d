"""What Docker Engine tells of a container, read."""

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.containers.model import Listed, Port, State, from_inspect, from_list
from homed.errors import EngineError

INSPECTED: dict[str, Any] = {
    "Id": "abc",
    "Name": "/web",
    "Created": "2026-01-01T10:00:00.123456789Z",
    "State": {
        "Status": "running", "Running": True, "Pid": 5, "ExitCode": 0, "OOMKilled": False, "Error": "",
        "StartedAt": "2026-01-01T10:00:01.5Z", "FinishedAt": "0001-01-01T00:00:00Z", "Health": {"Status": "starting"},
    },
    "Config": {
        "Image": "nginx:1", "Tty": False,
        "Labels": {"io.homei.managed": "true", "io.homed.service": "web", "io.homed.spec": "d1"},
    },
    "NetworkSettings": {
        "Ports": {
            "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}], "53/udp": None,
        }
    },
}  # fmt: skip


def inspected(**state: Any) -> dict[str, Any]:
    made = copy.deepcopy(INSPECTED)
    made["State"].update(state)
    return made


def test_a_running_container_is_read() -> None:
    one = from_inspect(INSPECTED)
    assert (one.id, one.name, one.image, one.state) == ("abc", "web", "nginx:1", State.RUNNING)
    assert one.created_at == datetime(2026, 1, 1, 10, 0, 0, 123456, tzinfo=UTC)
    assert one.started_at == datetime(2026, 1, 1, 10, 0, 1, 500000, tzinfo=UTC)
    assert (one.finished_at, one.exit_code, one.health) == (None, None, "starting")
    assert (one.managed, one.service, one.digest) == (True, "web", "d1")
    assert set(one.ports) == {Port(80, 8080, "tcp"), Port(53, None, "udp")}


def test_an_ended_container_is_read() -> None:
    one = from_inspect(inspected(Status="exited", ExitCode=137, OOMKilled=True, FinishedAt="2026-01-01T11:00:00Z"))
    assert (one.state, one.exit_code, one.out_of_memory, one.is_up) == (State.STOPPED, 137, True, False)
    assert one.finished_at == datetime(2026, 1, 1, 11, tzinfo=UTC)


@pytest.mark.parametrize("status", ["created", "running", "paused", "restarting", "removing", "exited", "dead"])
def test_every_state_of_docker_is_known(status: str) -> None:
    one = from_inspect(inspected(Status=status))
    assert one.is_up == (status in ("running", "paused", "restarting"))


@pytest.mark.parametrize("health", [None, {}, {"Status": "none"}, {"Status": ""}])
def test_a_container_without_a_check_has_no_health(health: Any) -> None:
    assert from_inspect(inspected(Health=health)).health is None


def test_a_foreign_container_is_not_managed() -> None:
    made = copy.deepcopy(INSPECTED)
    for labels in (None, {}, {"io.homei.managed": "yes"}):
        made["Config"]["Labels"] = labels
        one = from_inspect(made)
        assert (one.managed, one.service) == (False, None)


_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
)


@given(st.data())
def test_an_unknown_form_is_the_engines_error_and_nothing_else(data: st.DataObject) -> None:
    made = copy.deepcopy(INSPECTED)
    for table in (made, made["State"], made["Config"], made["NetworkSettings"]):
        for key in data.draw(st.lists(st.sampled_from(sorted(table)), max_size=2)):
            table[key] = data.draw(_JSON)
    try:
        from_inspect(made)
    except EngineError as error:
        assert "unknown form" in error.message  # noqa: PT017  it may raise or not


@pytest.mark.parametrize(
    ("status", "health"),
    [
        ("Up 2 minutes", None),
        ("Up 2 minutes (healthy)", "healthy"),
        ("Up 2 minutes (unhealthy)", "unhealthy"),
        ("Up 1 second (health: starting)", "starting"),
        ("Exited (0) 5 seconds ago", None),
        ("Up 2 minutes (Paused)", None),
    ],
)
def test_the_engines_list_tells_of_health_in_words(status: str, health: str | None) -> None:
    row = {"Id": "c1", "State": "running", "Names": ["/other/link", "/web"], "Status": status}
    assert from_list(row) == Listed("c1", "running", "web", health)
