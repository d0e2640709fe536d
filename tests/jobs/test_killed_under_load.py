"""homed is killed with -9 a hundred times while jobs of all sizes come, run, fail and are cancelled.

What was acknowledged is there at the end, whole; each attempt ran once; nothing is left of what was not.
"""

import asyncio
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from homed.jobs import contents
from homed.jobs.records import BUCKET
from homed.store import base
from homed.store.sqlite import SqliteStore
from tests.support.api import Answer, Api
from tests.support.homed import Homed
from tests.support.stored_jobs import keys
from tests.support.wait import until

_CLIENTS = 8
_LARGE = 200_000
_TABLES: Mapping[str, Mapping[str, Any]] = {
    "log": {"level": "warning"},
    "jobs": {"retry_delay": 0.2, "queue": 100_000, "queue_bytes": 1 << 32},
    "jobs.keep": {"count": 1_000_000, "size": 1 << 40},
}
_OVER = {"completed", "failed", "canceled", "success", "cancelled", "timeout"}


class Sent(NamedTuple):
    """A job that was acknowledged. `tries` is how often it is to run; None: it was to be cancelled."""

    kind: str
    number: int
    tries: int | None


class Load:
    """Clients that submit, with a key of each job's own, until they get an answer; and cancel some."""

    def __init__(self, api: Api, ran: Path, seed: int):
        self.sent: dict[str, Sent] = {}
        self.twice: list[str] = []
        self.refused: list[Answer] = []
        self._api = api
        self._ran = ran
        self._chance = random.Random(seed)
        self._numbers = iter(range(1 << 30))
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(_CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)

    def _work(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                number, kind = next(self._numbers), self._chance.choice(list(_KINDS))
            path, body, tries = _KINDS[kind](self._ran, number)
            answer = self._answered(path, body, {"Idempotency-Key": f"k{number}"})
            if answer is None:
                return
            if answer.status != 201:
                self.refused.append(answer)
                continue
            id = answer.json.get("id") or answer.json["data"].get("task_id")
            with self._lock:
                if id in self.sent:
                    self.twice.append(id)
                self.sent[id] = Sent(kind, number, tries)
            if tries is None:
                self._answered(f"/api/v1/tasks/{id}/cancel", None, {})
            # The same once more is the same job.
            elif number % 5 == 0:
                again = self._answered(path, body, {"Idempotency-Key": f"k{number}"})
                if again is not None and id not in again.body.decode():
                    self.twice.append(id)
            time.sleep(0.002)

    def _answered(self, path: str, body: object, headers: dict[str, str]) -> Answer | None:
        """Tried again while there is no homed; None where all stops."""
        while True:
            try:
                return self._api.post(path, body, headers=headers, timeout=20)
            except OSError:
                if self._stopping.wait(0.05):
                    return None


def _command(ran: Path, number: int) -> tuple[str, object, int]:
    line = f"echo $HOMED_JOB_ATTEMPT >> {ran}/{number}; echo out {number}"
    return "/api/v1/jobs", {"command": line, "server_id": "local"}, 1


def _failing(ran: Path, number: int) -> tuple[str, object, int]:
    line = f"echo $HOMED_JOB_ATTEMPT >> {ran}/{number}; exit 3"
    return "/api/v1/jobs", {"command": line, "server_id": "local", "max_retries": 1}, 2


def _script(ran: Path, number: int) -> tuple[str, object, int]:
    text = f"echo $HOMED_JOB_ATTEMPT >> {ran}/{number}; echo out {number}\n" + "#" * _LARGE
    return "/api/v1/jobs/script", {"script": text, "shell": "/bin/sh", "server_id": "local"}, 1


def _echo(ran: Path, number: int) -> tuple[str, object, int]:
    return "/api/v1/tasks", {"task_type": "echo", "payload": {"number": number, **keys(_LARGE)}}, 1


def _waiting(ran: Path, number: int) -> tuple[str, object, None]:
    body = {"task_type": "echo", "payload": keys(_LARGE), "requirements": {"required_role": "nobody"}}
    return "/api/v1/tasks", body, None


_KINDS: dict[str, Callable[[Path, int], tuple[str, object, int | None]]] = {
    "command": _command, "failing": _failing, "script": _script, "echo": _echo, "waiting": _waiting,
}  # fmt: skip


@pytest.mark.thorough
@pytest.mark.timeout(3600)
def test_a_hundred_kills_under_mixed_load_lose_and_repeat_nothing(root: Path) -> None:
    kills = 100
    ran = root / "ran"
    ran.mkdir()
    ran.chmod(0o777)
    one = Homed(root / "homed", "unix:///run/no-engine-is-needed.sock", _TABLES)
    chance = random.Random(kills)
    with Load(one.api, ran, kills) as load:
        for _ in range(kills):
            one.start()
            time.sleep(chance.uniform(0.02, 2.5))
            one.kill()
        one.start()
        time.sleep(1)
    try:
        until("all to have ended", lambda: not list(_unfinished(one.api, load)), deadline=600, every=0.5)
        faults = [fault for id, sent in load.sent.items() for fault in _faults(one.api, ran, id, sent)]
        numbers = Counter(sent.kind for sent in load.sent.values())
        print(f"{kills} kills, {len(load.sent)} acknowledged jobs {dict(numbers)}, {len(faults)} faults")
        assert (faults, load.twice, load.refused) == ([], [], [])
        assert min(numbers.values()) > 10
    finally:
        one.stop()
    asyncio.run(_check_store(one.state / "homed.db"))


def _unfinished(api: Api, load: Load) -> Iterator[str]:
    for path, states in (
        ("/api/v1/jobs", ("queued", "running")),
        ("/api/v1/tasks", ("pending", "queued", "assigned", "running")),
    ):
        for state in states:
            found = api.get(f"{path}?status={state}&limit=100&page_size=100").json
            rows = found["jobs"] if path == "/api/v1/jobs" else found["data"]
            for row in rows:
                id = row.get("id") or row["task_id"]
                sent = load.sent.get(id)
                # A cancellation may not have come before the end, and nor may the answer to a submission.
                if path == "/api/v1/tasks" and state == "queued" and (sent is None or sent.tries is None):
                    api.post(f"/api/v1/tasks/{id}/cancel")
                yield id


def _faults(api: Api, ran: Path, id: str, sent: Sent) -> Iterator[str]:
    path = f"/api/v1/{'jobs' if sent.kind in ('command', 'failing', 'script') else 'tasks'}/{id}"
    answer = api.get(path)
    if answer.status != 200:
        yield f"{id} {sent} was acknowledged, and is not there: {answer.status}"
        return
    found = answer.json if sent.kind in ("command", "failing", "script") else answer.json["data"]
    match sent.kind:
        case "waiting":
            good = found["status"] == "cancelled" and found["payload"] == keys(_LARGE)
        case "echo":
            payload = {"number": sent.number, **keys(_LARGE)}
            good = found["status"] == "success" and found["payload"] == payload
            good = good and found["result"]["result_data"] == {"echo": payload}
        case "failing":
            good = found["status"] == "failed" and found["exit_code"] == 3
        case _:
            good = found["status"] == "completed" and found["stdout"] == f"out {sent.number}\n"
    if good and sent.kind == "script":
        good = len(found["original_script"] or "") > _LARGE
    if not good:
        yield f"{id} {sent} is {str(found)[:500]}"
    if sent.kind in ("command", "script", "failing"):
        attempts = (ran / str(sent.number)).read_text().split()
        if len(attempts) != len(set(attempts)) or len(attempts) != sent.tries:
            yield f"{id} {sent} has run as {attempts}"


async def _check_store(path: Path) -> None:
    """What lies beside records is all of it, and there is nothing that no record has."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    store = SqliteStore(path)
    await store.open()
    try:
        wanted: dict[str, Any] = {}
        async for record in base.records(store, BUCKET):
            job, _ = contents.read(record.value)
            for keys_, size in (
                (contents.work_keys(job), job.beside.work),
                (contents.data_keys(job), job.beside.data),
            ):
                wanted |= dict.fromkeys(keys_, size)
        async for record in base.records(store, contents.BUCKET):
            assert wanted.pop(record.key, None) is not None, record.key
        assert wanted == {}
    finally:
        await store.close()
