"""From the wish for a service to the first answer from its container, beside `docker run -d`."""

import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Final

from tests.bench.bed import NAME, Bed, Served
from tests.bench.figures import Figure, at_most, in_turn, medians, ratios
from tests.support.engine import IMAGE, DockerEngine
from tests.support.wait import until

_ROUNDS: Final = 9
_PORT: Final = 18080
_PUBLISHED: Final = f"{_PORT}:80"
_COMMAND: Final = ("httpd", "-f", "-p", "80", "-h", "/www")
_REQUEST: Final = b"GET /index.html HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
_PATIENCE, _CONNECTING, _ANSWERING, _BETWEEN = 30.0, 1.0, 1.0, 0.002


def run(bed: Bed) -> Iterator[Figure]:
    with bed.homed() as homed:
        _by_docker(bed.engine)  # the first one finds nothing in the caches
        pairs = in_turn(_ROUNDS, lambda: _by_homed(homed, bed.engine), lambda: _by_docker(bed.engine))
        note = medians([(1000 * ours, 1000 * theirs) for ours, theirs in pairs], "ms")
        yield at_most("POST of a service to its first answer, of `docker run -d`", 1.3, ratios(pairs), note=note)


def _by_homed(homed: Served, engine: DockerEngine) -> float:
    started = time.perf_counter()
    homed.api.create(NAME, image=IMAGE, command=list(_COMMAND), ports=[_PUBLISHED], stop_timeout=0)
    # `docker run` comes back when it runs. Who asks earlier finds docker-proxy before the container's own network is
    # up: its address is asked for in vain, and for a second nobody reaches it.
    until("the service to run", lambda: homed.api.service(NAME)["status"] == "running", every=_BETWEEN)
    seconds = _first_answer(engine) - started
    homed.api.delete(f"/api/v1/services/{NAME}")
    until("the container to go", lambda: engine.find(NAME) is None)
    return seconds


def _by_docker(engine: DockerEngine) -> float:
    command = ["docker", "-H", engine.address, "run", "-d", "--name", NAME, "-p", _PUBLISHED, IMAGE, *_COMMAND]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = _first_answer(engine) - started
    engine.client.api.remove_container(NAME, force=True)
    return seconds


def _first_answer(engine: DockerEngine) -> float:
    """When (`perf_counter`) the container first answered over HTTP, asked all the time."""
    end = time.perf_counter() + _PATIENCE
    while time.perf_counter() < end:
        try:
            with socket.create_connection((engine.host, _PORT), timeout=_CONNECTING) as web:
                web.settimeout(_ANSWERING)
                web.sendall(_REQUEST)
                if web.recv(4096).startswith(b"HTTP/1.1 200"):
                    return time.perf_counter()
        except OSError:
            time.sleep(_BETWEEN)
    raise TimeoutError("the container does not answer")
