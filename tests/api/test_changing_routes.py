"""Which routes change something, of all that there are: pages of others may send to none of them."""

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from homed.api.routes import Route
from homed.daemon import Daemon
from homed.host.notify import Notifier
from homed.settings import Settings
from homed.state import StateDirectory
from tests.support.api import Api
from tests.support.homed import Homed

# Written down by people: a GET that changes something must be declared, and so be here.
_ACTING = {"/api/jobs/get-job", "/api/v1/servers/status/all", "/api/v1/servers/{server_id}/status"}
_FOREIGN: tuple[dict[str, str], ...] = (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
)


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[Route]:
    """All routes of a homed, also those that are not documented."""
    state = tmp_path_factory.mktemp("routes")

    async def made() -> list[Route]:
        settings = Settings(state / "none.toml", state / "none.json")
        return Daemon(settings, StateDirectory(state), Notifier({})).front._routes

    return asyncio.run(made())


@pytest.fixture(scope="module")
def homed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homed]:
    folder = tmp_path_factory.mktemp("homed")
    with Homed(folder, f"unix://{folder}/no-engine.sock") as homed:
        yield homed
        homed.stop()


def filled(path: str, **known: str) -> str:
    return re.sub(r"\{([^}]*)\}", lambda found: known.get(found[1], "nothing"), path)


def test_a_page_of_others_can_use_no_route_that_changes_something(homed: Homed, routes: list[Route]) -> None:
    guarded = [route for route in routes if route.changes or route.socket]
    assert len(guarded) > 50
    assert {route.path for route in guarded if route.method == "GET" and route.acts} == _ACTING
    for route in guarded:
        for headers in _FOREIGN:
            answer = homed.api.call(route.method, filled(route.path), headers=headers)
            assert answer.status == 403, (route.method, route.path, headers)
            assert "pages of " in answer.body.decode()


def test_every_route_that_is_no_get_changes_something(routes: list[Route]) -> None:
    for route in routes:
        if route.method not in ("GET", "*"):
            assert route.changes, (route.method, route.path)


def test_a_page_of_its_own_and_a_program_may(homed: Homed) -> None:
    own = f"http://127.0.0.1:{homed.port}"
    for headers in ({}, {"Origin": own, "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        assert homed.api.get("/api/jobs/get-job", headers=headers).status == 202, headers
    assert homed.api.get("/health", headers={"Sec-Fetch-Site": "cross-site"}).status in (200, 503)


def test_what_takes_a_job_is_not_for_head(homed: Homed) -> None:
    assert homed.api.call("HEAD", "/api/jobs/get-job").status == 405


def stored(homed: Homed) -> dict[str, list[tuple[object, ...]]]:
    """All that is in the store, but the audit log."""
    with sqlite3.connect(f"file:{homed.state}/homed.db?mode=ro", uri=True) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {
            name: sorted(database.execute(f"SELECT * FROM {name}"), key=repr) for name in names if "audit" not in name
        }
    database.close()
    return found


@pytest.mark.thorough
def test_a_get_that_is_not_declared_to_change_something_changes_nothing_that_is_stored(
    homed: Homed, routes: list[Route]
) -> None:
    api: Api = homed.api
    work = {"command": "echo a", "fileUrl": "http://198.51.100.1/a.zip", "filename": "a.zip"}
    created = api.post("/api/jobs/create", work).json
    job = created["jobId"]
    worker = {"workerId": "w1", "hostname": "h", "os": "linux", "cpuCount": 1}
    assert api.post("/api/workers/register", worker).status == 200
    before = stored(homed)
    known = {"job_id": job, "task_id": job, "worker_id": "w1"}
    for route in routes:
        if route.method == "GET" and not (route.changes or route.socket):
            # A stream of a job that waits goes on until its client goes.
            endless = "text/event-stream" in route.streams
            with contextlib.suppress(TimeoutError):
                api.get(f"{filled(route.path, **known)}?jobId={job}&workerId=w1", timeout=0.5 if endless else 20)
    assert stored(homed) == before
    assert api.get("/api/jobs/get-job?workerId=w1").status == 200
    assert stored(homed) != before, "this one does"


def test_a_private_key_is_never_served(homed: Homed) -> None:
    pem = b"-----BEGIN OPENSSH PRIVATE KEY-----\n-----END OPENSSH PRIVATE KEY-----\n"
    (homed.state / "pem-files").mkdir(exist_ok=True)
    (homed.state / "pem-files" / "x").write_bytes(pem)
    for path in ("/pem-files/x", "/api/v1/pem-files/x", "/pem-files/", "/api/v1/pem-files", "/uploads/../pem-files/x"):
        answer = homed.api.get(path)
        assert answer.status in (404, 405), path
        assert b"PRIVATE KEY" not in answer.body


def test_with_require_key_little_is_open(tmp_path: Path, routes: list[Route]) -> None:
    with Homed(tmp_path, f"unix://{tmp_path}/no-engine.sock", {"api": {"require_key": True}}) as homed:
        for route in routes:
            path = filled(route.path)
            is_open = path.startswith(("/health", "/docs", "/redoc")) or path in (
                "/openapi.json", "/api/health", "/api/v1/health"
            )  # fmt: skip
            if route.method == "*":
                path = "/anything/else"
            method = "GET" if route.method == "*" else route.method
            status = homed.api.call(method, path).status
            assert (status != 401) if is_open else (status == 401), (route.method, route.path, status)
        assert homed.api.get("/pem-files/x").status == 401
        homed.stop()
