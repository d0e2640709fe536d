"""A request that homed makes for somebody never comes back to it, whatever is allowed; with a real homed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.retire.test_tasks import ended, submit
from tests.support.homed import Homed, free_port

_METRICS = free_port()


_OPERATE, _ADMIN = "operator", "first"
_HOSTS = ("127.0.0.1", "localhost", "127.8.9.10", "0.0.0.0", "[::ffff:127.0.0.1]", "2130706433", "127.1")


@pytest.fixture(scope="module")
def homed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homed]:
    folder: Path = tmp_path_factory.mktemp("homed")
    tables: dict[str, dict[str, Any]] = {
        "jobs.http": {"allow_private": True},
        "monitoring": {"metrics_port": _METRICS},
    }
    homed = Homed(folder, f"unix://{folder}/no-engine.sock", tables)
    homed.make_key(_ADMIN, "admin")
    homed.api = homed.api.with_key(homed.make_key(_OPERATE, "operate")[0])
    homed.tables["api"]["host"] = "0.0.0.0"
    homed.write_config()
    with homed:
        yield homed
        homed.stop()


def test_a_task_cannot_make_itself_an_admin(homed: Homed) -> None:
    before = homed.command("key", "list").stdout
    assert _OPERATE in before
    ids = []
    for host in _HOSTS:
        for port, path in ((homed.port, "/api/v1/keys"), (_METRICS, "/metrics")):
            key = {"name": "mine", "scope": "admin"}
            payload = {"url": f"http://{host}:{port}{path}", "method": "POST", "json": key}
            ids.append(submit(homed.api, "http_request", payload))
    for id in ids:
        result = ended(homed.api, id)
        assert (result["status"], result["error_code"] in ("ADDRESS_NOT_ALLOWED", "HTTP_FAILED")) == ("failed", True)
    assert "mine" not in homed.command("key", "list").stdout
