"""Commands for services, and looks at what the engine has made of them."""

import urllib.request
from typing import Any

from tests.support.api import Api
from tests.support.engine import DockerEngine
from tests.support.wait import until

# Ends at once when it is told to: a shell that is process 1 ignores SIGTERM unless it is told otherwise.
WEB = ["sh", "-c", "trap 'exit 0' TERM; httpd -f -h /www & wait"]
IDLE = ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]
STUBBORN = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]


def crash(code: int = 3) -> list[str]:
    return ["sh", "-c", f"exit {code}"]


def fetch(engine: DockerEngine, port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://{engine.host}:{port}/", timeout=2) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def container_id(engine: DockerEngine, name: str) -> str:
    found = engine.find(name)
    return str(found["Id"]) if found else ""


def started(engine: DockerEngine, name: str) -> str:
    found = engine.find(name)
    return str(found["State"]["StartedAt"]) if found else ""


def confirmed(api: Api, name: str) -> Any:
    """Wait until a service's configuration has run well, so that a later one can be taken back to it."""

    def look() -> Any:
        seen = api.service(name)
        return seen if seen["status"] == "running" and seen["conditions"]["reason"] is None else None

    return until(f"{name} to have settled", look)
