"""The README's quickstart, run as a stranger would: its own commands, on another port and engine."""

import os
import re
import shutil
import subprocess

import pytest

from tests.boards.rig.cache import REPOSITORY
from tests.engine.conftest import Start
from tests.support.engine import DockerEngine

_FAIL_ON_ERRORS = 'curl() { command curl --fail --silent --show-error "$@"; }\nset -euo pipefail\n'


def quickstart() -> str:
    (script,) = re.findall(r"^```sh\n(.*?)^```", (REPOSITORY / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return str(script)


@pytest.mark.timeout(120)
def test_the_quickstart_of_the_readme_works_as_it_is_written(engine: DockerEngine, start: Start) -> None:
    if shutil.which("docker") is None:
        pytest.skip("the quickstart needs the package docker-cli")
    homed = start(api__limits={"enabled": True})
    script = quickstart().replace("localhost:8080", f"localhost:{homed.port}")
    script = script.replace("localhost:8090", f"{engine.host}:8090")
    ran = subprocess.run(
        ["bash", "-c", _FAIL_ON_ERRORS + script],
        env={**os.environ, "DOCKER_HOST": engine.address},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("hello\n") == 3, "two answers, and the name that docker kill says"
    assert '"status":"running"' in ran.stdout
    assert re.search(r"^\w{3} \w{3} .* UTC \d{4}$", ran.stdout, re.MULTILINE), "the followed log has no dates"
    assert 'homei_services_total{enabled="true"} 1.0' in ran.stdout
    assert ran.stdout.rstrip().endswith('{"name":"hello","status":"deleted","message":"Service deleted successfully"}')
