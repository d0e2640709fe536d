"""What the engine has, as far as homed looks at it."""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from homed import clock
from homed.containers.spec import DIGEST_LABEL, MANAGED_LABEL, SERVICE_LABEL
from homed.errors import EngineError

_NEVER = "0001-01-01T00:00:00Z"


class State(StrEnum):
    """Docker's words, but for `stopped`, which it calls exited."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    STOPPED = "stopped"
    DEAD = "dead"


class Port(msgspec.Struct, frozen=True):
    private_port: int
    public_port: int | None
    type: str


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container at one moment. `health` is healthy, unhealthy, starting, or None where it has no check."""

    id: str
    name: str
    image: str
    state: State
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    out_of_memory: bool = False
    error: str = ""
    health: str | None = None
    tty: bool = False
    ports: tuple[Port, ...] = ()
    managed: bool = False
    image_id: str = ""
    service: str | None = None
    digest: str | None = None

    @property
    def is_up(self) -> bool:
        return self.state in (State.RUNNING, State.PAUSED, State.RESTARTING)


class Listed(NamedTuple):
    """A row of the engine's own list: enough to notice that a container is not as it was."""

    id: str
    state: str
    name: str
    health: str | None

    def tells_of(self, known: Container) -> bool:
        state = "stopped" if self.state == "exited" else self.state
        return (state, self.name, self.health) == (known.state, known.name, known.health)


class Volume(NamedTuple):
    """`path` is where its data lies on the board; `options` are those of its driver."""

    name: str
    path: str
    driver: str
    options: Mapping[str, str]


def volume_from(data: Mapping[str, Any]) -> Volume:
    """From `GET /volumes/{name}`."""
    return Volume(data["Name"], data["Mountpoint"], data["Driver"], data.get("Options") or {})


def from_list(row: Mapping[str, Any]) -> Listed:
    """From a row of `GET /containers/json`, which says of the health in words for people only."""
    # Other names of it, made by links, have a second slash.
    names = [name.lstrip("/") for name in row.get("Names") or () if "/" not in name.lstrip("/")]
    said = re.search(r"\((?:health: )?(healthy|unhealthy|starting)\)", str(row.get("Status", "")))
    return Listed(str(row["Id"]), str(row["State"]), names[0] if names else "", said[1] if said else None)


def from_inspect(data: Mapping[str, Any]) -> Container:
    """From `GET /containers/{id}/json`. EngineError where it is not in a form that is known."""
    try:
        return _from_inspect(data)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise EngineError(f"Docker Engine told of a container in an unknown form: {error!r}") from error


def _from_inspect(data: Mapping[str, Any]) -> Container:
    state, config = data["State"], data["Config"]
    labels = config.get("Labels") or {}
    return Container(
        id=data["Id"],
        name=data["Name"].lstrip("/"),
        image=config["Image"],
        state=state_of(state["Status"]),
        created_at=clock.parse(data["Created"]),
        started_at=_moment(state.get("StartedAt")),
        finished_at=_moment(state.get("FinishedAt")),
        exit_code=None if state["Status"] in ("created", "running", "paused") else state.get("ExitCode"),
        out_of_memory=bool(state.get("OOMKilled")),
        error=state.get("Error") or "",
        health=_health(state),
        tty=bool(config.get("Tty")),
        ports=_ports((data.get("NetworkSettings") or {}).get("Ports") or {}),
        image_id=str(data.get("Image") or ""),
        managed=labels.get(MANAGED_LABEL) == "true",
        service=_service(data["Name"].lstrip("/"), labels.get(SERVICE_LABEL)),
        digest=labels.get(DIGEST_LABEL),
    )


def state_of(status: str) -> State:
    """From Docker's word. ValueError for one that is not its own."""
    return State.STOPPED if status == "exited" else State(status)


def _health(state: Mapping[str, Any]) -> str | None:
    status = (state.get("Health") or {}).get("Status")
    return None if status in (None, "none", "") else str(status)


def _service(name: str, service: str | None) -> str | None:
    """Whose container it is: an image made of one (`docker commit`) hands its labels to containers of others."""
    return service if service and (name == service or name.startswith(f"{service}.")) else None


def _moment(text: str | None) -> datetime | None:
    return None if not text or text == _NEVER else clock.parse(text)


def _ports(ports: Mapping[str, Any]) -> tuple[Port, ...]:
    found: dict[tuple[int, int | None, str], Port] = {}
    for key, bindings in ports.items():
        number, _, kind = key.partition("/")
        for binding in bindings or [None]:
            public = int(binding["HostPort"]) if binding and binding.get("HostPort") else None
            # Docker names an IPv4 and an IPv6 binding of one port: one row is enough.
            found[int(number), public, kind] = Port(int(number), public, kind)
    return tuple(found.values())
