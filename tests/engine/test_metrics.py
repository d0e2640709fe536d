"""What Prometheus gets: the documented names, a clean bill from promtool, and a real Prometheus that scrapes."""

import json
import os
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.boards.rig.process import spawn
from tests.engine.conftest import Start
from tests.support.api import Api
from tests.support.engine import IMAGE, DockerEngine
from tests.support.homed import free_port
from tests.support.services import IDLE, confirmed
from tests.support.tools import program
from tests.support.wait import until


def metrics(api: Api) -> list[str]:
    answer = api.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.body.decode().splitlines()


def test_the_documented_metrics_count_what_is_there(api: Api, engine: DockerEngine) -> None:
    found = metrics(api)
    for line in (
        "# HELP homei_containers_total Total number of containers",
        "# TYPE homei_containers_total gauge",
        'homei_containers_total{status="running"} 0.0',
        'homei_containers_total{status="stopped"} 0.0',
        "# HELP homei_services_total Total number of managed services",
        "# TYPE homei_services_total gauge",
        'homei_services_total{enabled="true"} 0.0',
        'homei_services_total{enabled="false"} 0.0',
    ):
        assert line in found
    for name in ("one", "two"):
        api.create(name, image=IMAGE, command=IDLE)
        confirmed(api, name)
    api.create("off", image=IMAGE, command=IDLE, enabled=False)
    engine.run("true", name="ended").wait()
    until("its end", lambda: 'homei_containers_total{status="stopped"} 1.0' in metrics(api))
    found = metrics(api)
    for line in (
        'homei_containers_total{status="running"} 2.0',
        'homei_services_total{enabled="true"} 2.0',
        'homei_services_total{enabled="false"} 1.0',
        'homed_services{status="running"} 2.0',
        "homed_docker_up 1.0",
        'homed_component_healthy{component="docker"} 1.0',
    ):
        assert line in found
    assert any(line.startswith('homed_reconcile_steps_total{outcome="ok",step="create"} 2') for line in found)


def test_what_is_asked_for_that_does_not_exist_makes_no_new_series(api: Api) -> None:
    before = [line for line in metrics(api) if line.startswith("homed_http_requests_total")]
    for method in ("GET", "POST", "BREW", "DELETE"):
        for i in range(30):
            api.call(method, f"/nothing/{i}")
            api.call(method, f"/api/v1/services/nothing{i}")
    found = [line for line in metrics(api) if line.startswith("homed_http_requests_total")]
    # One or two for each method, and the look before.
    assert len(found) <= len(before) + 9
    assert not any("nothing" in line or "BREW" in line for line in found)


def test_promtool_finds_nothing_but_the_documented_names(api: Api, engine: DockerEngine) -> None:
    promtool = program("prometheus", "usr/bin/promtool")
    api.create("app", image=IMAGE, command=IDLE)
    confirmed(api, "app")
    api.get("/nothing")
    told = subprocess.run(
        [promtool, "check", "metrics"], input=api.get("/metrics").body, capture_output=True, timeout=60, check=False
    )
    complaints = (told.stdout + told.stderr).decode().splitlines()
    own = [line for line in complaints if not line.startswith(("homei_containers_total ", "homei_services_total "))]
    assert own == []
    assert all('non-counter metrics should not have "_total" suffix' in line for line in complaints)


@contextmanager
def prometheus(folder: Path, *targets: str, key: str | None = None) -> Iterator[Api]:
    """A Prometheus that scrapes these addresses."""
    config = folder / "prometheus.yml"
    jobs: dict[str, object] = {
        "job_name": "homed",
        "scrape_interval": "300ms",
        "scrape_timeout": "300ms",
        "static_configs": [{"targets": list(targets)}],
    }
    if key is not None:
        jobs["authorization"] = {"credentials": key}
    config.write_text(json.dumps({"scrape_configs": [jobs]}))  # JSON is YAML
    port = free_port()
    arguments = (
        f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
    )  # fmt: skip
    with (folder / "prometheus.log").open("ab") as log:
        process = spawn([program("prometheus", "usr/bin/prometheus"), *arguments], dict(os.environ), log)
    try:
        api = Api(port)
        until("Prometheus", lambda: _ready(api))
        yield api
    finally:
        process.kill()
        process.wait()


def _ready(api: Api) -> bool:
    try:
        return api.get("/-/ready").status == 200
    except OSError:
        return False


def query(api: Api, text: str) -> dict[str, str]:
    """The values of an instant query, by instance."""
    url = f"{api.url}/api/v1/query?query={urllib.parse.quote(text)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = json.load(answer)["data"]["result"]
    return {one["metric"]["instance"]: one["value"][1] for one in found}


def test_a_real_prometheus_scrapes_the_api_and_the_port_of_its_own(
    engine: DockerEngine, start: Start, tmp_path: Path
) -> None:
    alone = free_port()
    homed = start(api={"require_key": True}, monitoring={"metrics_port": alone})
    key, _ = homed.make_key("prometheus", "read")
    admin, _ = homed.make_key("admin", "admin")
    api = homed.api.with_key(admin)
    until("the key to hold", lambda: api.get("/api/v1/services").status == 200, deadline=5)
    for name in ("one", "two"):
        api.create(name, image=IMAGE, command=IDLE)
    own = Api(alone).with_key(admin)
    assert own.get("/metrics").status == 200
    for path in ("/health", "/api/v1/services", "/docs"):
        assert own.get(path).status == 404
    assert own.post("/api/v1/services", {"name": "three", "image": IMAGE}).status == 404
    targets = [f"127.0.0.1:{homed.port}", f"127.0.0.1:{alone}"]
    with prometheus(tmp_path, *targets, key=key) as asked:
        until("both to be up", lambda: query(asked, "up") == dict.fromkeys(targets, "1"))
        until(
            "the services", lambda: query(asked, 'homei_services_total{enabled="true"}') == dict.fromkeys(targets, "2")
        )
        assert query(asked, "homed_docker_up") == dict.fromkeys(targets, "1")
        until("a rate", lambda: query(asked, "sum by (instance) (rate(homed_http_requests_total[1m])) > 0"))


def test_metrics_that_are_off_are_not_there(engine: DockerEngine, start: Start) -> None:
    assert start(monitoring={"enabled": False}).api.get("/metrics").status == 404
