"""The two client classes that the API's documents show, unchanged."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.api.retire.test_tasks import ended
from tests.support.api import Api
from tests.support.homed import Homed

_SDK = Path(__file__).resolve().parent.parent.parent / "support" / "sdk"
_SCRIPT = """
const api = new RetireClusterAPI(process.argv[1], process.argv[2]);
const made = await api.submitTask('echo', {message: 'Hello'});
const more = await api.submitTask('sleep', {duration: 0.1}, {priority: 'high', metadata: {by: 'js'}});
const wrong = await api.submitTask('no_such', {});
const status = await api.getClusterStatus();
console.log(JSON.stringify([made, more, wrong, status]));
"""


def check(api: Api, made: Any, more: Any, wrong: Any, status: Any) -> None:
    for answer in (made, more):
        assert answer["status"] == "success"
        assert answer["data"]["task"]["task_id"] == answer["data"]["task_id"]
    assert ended(api, made["data"]["task_id"])["result_data"] == {"echo": {"message": "Hello"}}
    assert more["data"]["task"]["priority"] == "high"
    assert ended(api, more["data"]["task_id"])["status"] == "success"
    assert (wrong["status"], wrong["error_code"]) == ("error", "VALIDATION_ERROR")
    assert isinstance(status, dict)


def test_pythons_class_submits_tasks(homed: Homed) -> None:
    names: dict[str, Any] = {}
    exec(compile((_SDK / "retire_cluster.py.txt").read_text(), "retire_cluster.py", "exec"), names)
    key, _ = homed.make_key("python-sdk", "operate")
    sdk = names["RetireClusterAPI"](f"{homed.api.url}/api/v1", key)
    made = sdk.submit_task("echo", {"message": "Hello"})
    more = sdk.submit_task("sleep", {"duration": 0.1}, priority="high", metadata={"by": "python"})
    check(homed.api, made, more, sdk.submit_task("no_such", {}), sdk.get_cluster_status())


def test_javascripts_class_submits_tasks(homed: Homed) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("nodejs is not installed")
    key, _ = homed.make_key("javascript-sdk", "operate")
    script = (_SDK / "retire_cluster.js").read_text() + _SCRIPT
    ran = subprocess.run(
        [node, "--input-type=module", "--eval", script, f"{homed.api.url}/api/v1", key],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    check(homed.api, *json.loads(ran.stdout))
