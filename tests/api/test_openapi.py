"""The documents are right, complete, and those that are checked in."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import validate

from homed.access.scopes import Scope
from homed.api.routes import Family, Route
from homed.config import Limits
from homed.daemon import Daemon
from homed.host.notify import Notifier
from homed.settings import Settings
from homed.state import StateDirectory

SPEC = Path(__file__).resolve().parent.parent.parent / "api-spec"
STALE = "api-spec/{name}.json is not what the routes say: run `make spec` and commit it"


@pytest.fixture
async def daemon(tmp_path: Path) -> Daemon:
    return Daemon(Settings(tmp_path / "none.toml", tmp_path / "none.json"), StateDirectory(tmp_path), Notifier({}))


@pytest.fixture
async def routes(daemon: Daemon) -> list[tuple[Family, Route]]:
    return [(family, route) for family, routes in daemon._families() for route in routes]


async def test_the_documents_that_are_checked_in_are_not_stale(daemon: Daemon) -> None:
    for name, made in zip(("openapi", "asyncapi"), daemon.specifications(), strict=True):
        kept = json.loads((SPEC / f"{name}.json").read_text(encoding="utf-8"))
        assert kept == json.loads(msgspec.json.encode(made)), STALE.format(name=name)


async def test_the_document_is_valid_openapi(daemon: Daemon) -> None:
    document, _ = daemon.specifications()
    validate(json.loads(msgspec.json.encode(document)))


async def test_every_route_is_documented_with_its_errors(daemon: Daemon, routes: list[tuple[Family, Route]]) -> None:
    document, asyncapi = daemon.specifications()
    for _, route in routes:
        if route.socket:
            assert any(channel["address"] == route.path for channel in asyncapi["channels"].values())
        elif route.documented:
            operation = document["paths"][route.path][route.method.lower()]
            assert operation["summary"] and operation["tags"]
            assert str(route.status) in operation["responses"]
            _has_error_shapes(operation)


def _has_error_shapes(operation: dict[str, Any]) -> None:
    errors = {code: one for code, one in operation["responses"].items() if int(code) >= 400}
    assert {"401", "421", "429", "500"} <= errors.keys()
    for code, one in errors.items():
        schema = one["content"]["application/json"]["schema"]
        assert schema.get("$ref") or code == "503", operation["operationId"]


async def test_every_operation_has_its_own_id(daemon: Daemon) -> None:
    document, _ = daemon.specifications()
    ids = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(ids) == len(set(ids))


async def test_every_reference_leads_somewhere(daemon: Daemon) -> None:
    for document in daemon.specifications():
        whole = json.loads(msgspec.json.encode(document))
        for reference in _references(whole):
            found: Any = whole
            for part in reference.removeprefix("#/").split("/"):
                found = found[part.replace("~1", "/").replace("~0", "~")]


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for below in value.values() for ref in _references(below)]
    return [ref for below in value for ref in _references(below)] if isinstance(value, list) else []


async def test_every_path_parameter_is_described(routes: list[tuple[Family, Route]]) -> None:
    for _, route in routes:
        if route.documented:
            named = {part[1:-1] for part in route.path.split("/") if part.startswith("{")}
            assert named == set(route.params), route.path


# What each worker says many times a minute: it would push all else out of the account.
_SAID_OVER_AND_OVER = {"/api/workers/heartbeat", "/api/jobs/stream-output"}


async def test_every_change_needs_a_scope_that_changes(routes: list[tuple[Family, Route]]) -> None:
    """A token is issued for the caller's own key, with no more than that holds: to read is enough."""
    for _, route in routes:
        if route.change == "token.issue":
            assert route.scope is Scope.READ
        elif route.path == "/api/v1/update/inspect":
            # It changes nothing, but has RAUC read a file that the caller names.
            assert route.scope is Scope.OPERATE
        elif route.change is not None:
            assert route.scope in (Scope.OPERATE, Scope.ADMIN), route.path
        elif route.path in _SAID_OVER_AND_OVER:
            assert route.scope is Scope.OPERATE
        else:
            assert route.method == "GET", f"{route.method} {route.path} changes something and is not audited"


async def test_only_health_and_documentation_are_open_to_all(routes: list[tuple[Family, Route]]) -> None:
    open_to_all = {route.path for _, route in routes if route.scope is None}
    assert open_to_all == {
        "/health", "/api/health", "/api/v1/health", "/health/ready", "/health/live",
        "/docs", "/redoc", "/docs/assets/{name}", "/openapi.json",
    }  # fmt: skip


async def test_every_limit_class_is_one_of_the_configurations(routes: list[tuple[Family, Route]]) -> None:
    classes = {field.name for field in msgspec.structs.fields(Limits)}
    assert {route.limit for _, route in routes} <= classes


async def test_the_limits_are_those_that_are_documented_by_default() -> None:
    limits = Limits()
    assert (limits.health, limits.services, limits.containers, limits.backups, limits.updates) == (60, 30, 20, 10, 5)


async def test_the_documented_paths_of_homei_are_there(routes: list[tuple[Family, Route]]) -> None:
    served = {f"{route.method} {route.path}" for _, route in routes}
    one, container = "/api/v1/services/{service_name}", "/api/v1/containers/{container_id}"
    assert served >= {
        "GET /health", "GET /health/ready", "GET /health/live", "GET /api/v1/services", f"GET {one}",
        "POST /api/v1/services", f"PUT {one}", f"DELETE {one}", f"POST {one}/start", f"POST {one}/stop",
        f"POST {one}/restart", "GET /api/v1/containers", f"GET {container}", f"GET {container}/logs",
        f"GET {container}/stats", "GET /metrics", "GET /api/v1/system/info", "GET /api/v1/config",
        "PUT /api/v1/config", "GET /api/v1/backups", "POST /api/v1/backups", "DELETE /api/v1/backups/{backup_name}",
        "POST /api/v1/backups/{backup_name}/restore",
        "GET /ws/containers/{container_id}/logs", "GET /ws/events", "GET /docs", "GET /redoc",
    }  # fmt: skip
