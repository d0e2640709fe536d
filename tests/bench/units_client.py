"""Run on the board: `python3 units_client.py alone|crowd`; prints [[homed, systemd-run], …] (seconds; jobs/s)."""

import http.client
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_ROUNDS, _CROWDS, _CROWD, _AT_ONCE = 40, 3, 192, 32
_QUIET = 0.03
_JOB = json.dumps({"command": "true", "server_id": "local"})


def main(what: str) -> int:
    submit_and_wait()
    measured = alone() if what == "alone" else crowd()
    print(json.dumps(measured))
    return 0


def alone() -> list[tuple[float, float]]:
    pairs = []
    for _ in range(_ROUNDS):
        pairs.append((timed(submit_and_wait), timed(by_systemd_run)))
    return pairs


def crowd() -> list[tuple[float, float]]:
    pairs = []
    for _ in range(_CROWDS):
        started = time.perf_counter()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda _: submit_and_wait(), range(_CROWD)))
        ours = _CROWD / (time.perf_counter() - started)
        started = time.perf_counter()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda _: by_systemd_run(), range(_CROWD)))
        pairs.append((ours, _CROWD / (time.perf_counter() - started)))
    return pairs


def timed(act: Any) -> float:
    # What is done when nobody waits any more (the unit is let go) is not to be the next one's.
    time.sleep(_QUIET)
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def submit_and_wait() -> None:
    """Submit a job and read its stream to the end, where it must have done well."""
    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=60)
    try:
        connection.request("POST", "/api/v1/jobs", _JOB, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        told = answer.read()
        if answer.status != 201:
            raise RuntimeError(f"the job was refused: {told!r}")
        id = json.loads(told)["id"]
        connection.request("GET", f"/api/v1/jobs/{id}/stream")
        stream = connection.getresponse()
        last = b""
        for line in stream:
            if line.startswith(b"data:"):
                last = line
            elif line == b"\n" and b'"completed"' in last:
                return
        raise RuntimeError(f"the job did not do well: {last!r}")
    finally:
        connection.close()


def by_systemd_run() -> None:
    subprocess.run(["systemd-run", "--quiet", "--wait", "true"], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
