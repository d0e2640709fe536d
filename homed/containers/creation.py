"""From a service's spec to what Docker Engine is told (`POST /containers/create`), and the digest of it."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from homed.containers import backup_labels
from homed.containers.mappings import (
    PortMapping,
    capability,
    parse_device,
    parse_extra_host,
    parse_ports,
    parse_volume,
    split_tmpfs,
)
from homed.containers.spec import (
    DIGEST_LABEL,
    MANAGED_LABEL,
    SERVICE_LABEL,
    HealthCheck,
    ServiceSpec,
    arguments,
    memory_bytes,
)

BUILT_IN_NETWORKS = frozenset({"bridge", "host", "none", "default"})
_NANOSECONDS = 1_000_000_000


def digest(name: str, spec: ServiceSpec, build: str = "") -> str:
    """Return the digest of a container's configuration: specs with equal digests need no new container.

    `build` is the id of the image if a pull changed the image of its tag.
    """
    body = _configuration(name, spec)
    # How a service is backed up is nothing to its container: a change of it must not take it down.
    body["Labels"] = {key: value for key, value in body["Labels"].items() if key not in backup_labels.LABELS}
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic") + build.encode()).hexdigest()[:16]


def configuration(name: str, spec: ServiceSpec, build: str = "") -> dict[str, Any]:
    """The body for the engine. homed supervises, so the engine's own restart policy is off."""
    body = _configuration(name, spec)
    body["Labels"] = {**body["Labels"], DIGEST_LABEL: digest(name, spec, build)}
    return body


def taken(inspection: Mapping[str, Any]) -> ServiceSpec:
    """What a container that was made takes of the board, whatever is wanted by now: a spec of these fields only."""
    host = inspection["HostConfig"]
    devices = host.get("Devices") or ()
    return ServiceSpec(
        image=MANAGED_LABEL,
        volumes=tuple(host.get("Binds") or ()),
        devices=tuple(f"{d['PathOnHost']}:{d['PathInContainer']}:{d['CgroupPermissions']}" for d in devices),
        privileged=host["Privileged"],
        cap_add=tuple(host.get("CapAdd") or ()),
    )


def _configuration(name: str, spec: ServiceSpec) -> dict[str, Any]:
    ports = _ports(spec)
    body: dict[str, Any] = {
        "Image": spec.image,
        "Env": [f"{key}={value}" for key, value in sorted(spec.environment.items())],
        "Labels": {**spec.labels, MANAGED_LABEL: "true", SERVICE_LABEL: name},
        "ExposedPorts": {f"{p.port}/{p.protocol}": {} for p in ports},
        "HostConfig": _host(spec),
    }
    if spec.command is not None:
        body["Cmd"] = arguments(spec.command)
    if spec.entrypoint is not None:
        body["Entrypoint"] = arguments(spec.entrypoint)
    if spec.user is not None:
        body["User"] = spec.user
    if spec.health_check is not None:
        body["Healthcheck"] = _health(spec.health_check)
    if spec.network not in BUILT_IN_NETWORKS:
        # The alias keeps the service's name resolvable while a container that replaces it has another name.
        body["NetworkingConfig"] = {"EndpointsConfig": {spec.network: {"Aliases": [name]}}}
    return body


def _host(spec: ServiceSpec) -> dict[str, Any]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in _ports(spec):
        host_port = "" if port.host_port is None else str(port.host_port)
        bindings.setdefault(f"{port.port}/{port.protocol}", []).append({"HostIp": port.address, "HostPort": host_port})
    binds = []
    for volume in map(parse_volume, spec.volumes):
        binds.append(f"{volume.source}:{volume.target}:{'ro' if volume.read_only else 'rw'}")
    devices = [
        {"PathOnHost": d.source, "PathInContainer": d.target, "CgroupPermissions": d.permissions}
        for d in map(parse_device, spec.devices)
    ]
    host: dict[str, Any] = {
        "Binds": binds,
        "PortBindings": bindings,
        "NetworkMode": spec.network,
        "Devices": devices,
        "Memory": 0 if spec.memory is None else memory_bytes(spec.memory),
        "NanoCpus": 0 if spec.cpus is None else int(spec.cpus * _NANOSECONDS),
        "ReadonlyRootfs": spec.read_only,
        "Tmpfs": dict(split_tmpfs(text) for text in spec.tmpfs),
        "Privileged": spec.privileged,
        "RestartPolicy": {"Name": "no"},
        # Bounded, or a chatty container fills the board's disk.
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
    }
    # Included only if they are set: a service without them keeps its existing container.
    if spec.init:
        host["Init"] = True
    if spec.cap_add:
        host["CapAdd"] = sorted({capability(name) for name in spec.cap_add})
    if spec.extra_hosts:
        host["ExtraHosts"] = [":".join(parse_extra_host(text)) for text in spec.extra_hosts]
    return host


def _ports(spec: ServiceSpec) -> list[PortMapping]:
    return [port for text in spec.ports for port in parse_ports(text)]


def _health(check: HealthCheck) -> dict[str, Any]:
    test = ["CMD-SHELL", check.command] if isinstance(check.command, str) else ["CMD", *check.command]
    return {
        "Test": test,
        "Interval": int(check.interval * _NANOSECONDS),
        "Timeout": int(check.timeout * _NANOSECONDS),
        "Retries": check.retries,
        "StartPeriod": int(check.start_period * _NANOSECONDS),
    }
