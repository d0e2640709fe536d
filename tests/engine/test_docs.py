"""The pages of the documentation in a real browser, with nothing but the daemon to load from."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.engine.conftest import Start
from tests.support.api import Api
from tests.support.engine import DockerEngine

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=20000", "--dump-dom",
)  # fmt: skip


def rendered(api: Api, path: str, folder: Path) -> str:
    """The page's DOM once its scripts have run."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed: the package chromium")
    profile = folder / f"profile{path.replace('/', '-')}"
    done = subprocess.run(
        [chromium, *_FLAGS, f"--user-data-dir={profile}", f"{api.url}{path}"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return html.unescape(done.stdout)


@pytest.fixture
def unlimited(engine: DockerEngine, start: Start) -> Api:
    return start().api


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_shows_every_operation(unlimited: Api, tmp_path: Path, path: str) -> None:
    document = unlimited.get("/openapi.json").json
    page = rendered(unlimited, path, tmp_path)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page.replace("\u200b", "").replace("<wbr>", "")))
    for route, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"] in text, (method, route)
            if path == "/docs":
                assert route in text, route
    assert "Failed to load" not in text
    assert "Something went wrong" not in text


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_loads_from_the_daemon_only(unlimited: Api, path: str) -> None:
    answer = unlimited.get(path)
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    page = answer.body.decode()
    sources = re.findall(r'(?:src|href|spec-url)="([^"]+)"', page)
    assert sources
    for source in sources:
        assert source.startswith("/"), source
        assert unlimited.get(source).status == 200, source
    assert "://" not in page
    for wrong in ("../homed.toml", "..%2f..%2fpyproject.toml", "%2e%2e/x", "nothing.js", "%00"):
        assert unlimited.get(f"/docs/assets/{wrong}").status == 404, wrong
