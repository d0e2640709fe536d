"""homed killed by -9 at any moment: what runs is not touched by it, and the end is always reached."""

import random
import threading
from contextlib import suppress

from tests.support.engine import IMAGE, DockerEngine
from tests.support.homed import Homed
from tests.support.services import IDLE, confirmed, container_id, started
from tests.support.wait import until

_KILLS = 8
_SEED = 20_260_101


def kill_amid(homed: Homed, delay: float, act: object) -> None:
    """Have `act` done in a thread, kill homed after `delay` seconds, and start it again."""
    assert callable(act)
    thread = threading.Thread(target=_quietly, args=(act,), daemon=True)
    thread.start()
    thread.join(delay)
    homed.kill()
    thread.join(10)
    homed.start()


def _quietly(act: object) -> None:
    assert callable(act)
    with suppress(OSError, AssertionError):
        act()


def bystander(homed: Homed, engine: DockerEngine) -> tuple[str, str]:
    homed.api.create("bystander", image=IMAGE, command=IDLE)
    confirmed(homed.api, "bystander")
    return container_id(engine, "bystander"), started(engine, "bystander")


def test_kills_amid_creations(homed: Homed, engine: DockerEngine) -> None:
    chance = random.Random(_SEED)
    untouched = bystander(homed, engine)
    acknowledged = set()
    for i in range(_KILLS):
        name = f"app{i}"

        def create(name: str = name) -> None:
            homed.api.create(name, image=IMAGE, command=IDLE)
            acknowledged.add(name)

        kill_amid(homed, chance.uniform(0.005, 0.4), create)
    for name in acknowledged:
        confirmed(homed.api, name)
    stored = {service["name"] for service in homed.api.get("/api/v1/services").json["services"]}
    assert acknowledged <= stored
    for name in stored:
        confirmed(homed.api, name)
    assert engine.names() == stored
    assert (container_id(engine, "bystander"), started(engine, "bystander")) == untouched


def test_kills_amid_replacements(homed: Homed, engine: DockerEngine) -> None:
    chance = random.Random(_SEED + 1)
    untouched = bystander(homed, engine)
    homed.api.create("app", image=IMAGE, command=IDLE, environment={"V": "-1"})
    confirmed(homed.api, "app")
    for i in range(_KILLS):
        kill_amid(
            homed,
            chance.uniform(0.005, 0.9),
            lambda i=i: homed.api.change("app", environment={"V": str(i)}),
        )
        assert [c for c in engine.names() if c.startswith("app")], "the service has no container at all"
    homed.api.change("app", environment={"V": "end"})
    until("the last one alone", lambda: engine.names() == {"app", "bystander"} and engine.is_running("app"))
    until("its environment", lambda: "V=end" in engine.inspect("app")["Config"]["Env"])
    assert confirmed(homed.api, "app")["conditions"]["rolled_back"] is None
    assert (container_id(engine, "bystander"), started(engine, "bystander")) == untouched


def test_kills_amid_changes_that_are_taken_back(homed: Homed, engine: DockerEngine) -> None:
    chance = random.Random(_SEED + 2)
    homed.api.create("app", image=IMAGE, command=IDLE)
    confirmed(homed.api, "app")
    old = container_id(engine, "app")
    for i in range(4):
        crash = ["sh", "-c", f"exit {i + 1}"]
        kill_amid(homed, chance.uniform(0.01, 0.5), lambda c=crash: homed.api.change("app", command=c))
        until("the old one to run", lambda: engine.is_running(old) and engine.names() == {"app"})
    homed.api.change("app", command=["sh", "-c", "exit 9"])
    until("it to be taken back", lambda: homed.api.conditions("app")["rolled_back"])
    until("the old one in its place", lambda: container_id(engine, "app") == old and engine.names() == {"app"})
    assert homed.api.conditions("app")["rolled_back"]["reason"]


def test_kills_amid_deletions(homed: Homed, engine: DockerEngine) -> None:
    chance = random.Random(_SEED + 3)
    untouched = bystander(homed, engine)
    for i in range(_KILLS):
        name = f"app{i}"
        homed.api.create(name, image=IMAGE, command=IDLE)
        homed.api.await_status(name, "running")
        before = {s["name"] for s in homed.api.get("/api/v1/services").json["services"]}
        kill_amid(homed, chance.uniform(0.002, 0.25), lambda n=name: homed.api.delete(f"/api/v1/services/{n}"))
        after = {s["name"] for s in homed.api.get("/api/v1/services").json["services"]}
        assert after in (before, before - {name})
    for service in homed.api.get("/api/v1/services").json["services"]:
        if service["name"] != "bystander":
            assert homed.api.delete(f"/api/v1/services/{service['name']}").status in (200, 404)
    until("them to be gone", lambda: engine.names() == {"bystander"})
    assert [s["name"] for s in homed.api.get("/api/v1/services").json["services"]] == ["bystander"]
    assert (container_id(engine, "bystander"), started(engine, "bystander")) == untouched


def test_kills_amid_stops_and_starts(homed: Homed, engine: DockerEngine) -> None:
    chance = random.Random(_SEED + 4)
    homed.api.create("app", image=IMAGE, command=IDLE)
    confirmed(homed.api, "app")
    for i in range(_KILLS):
        verb = ("stop", "start", "restart")[i % 3]
        kill_amid(homed, chance.uniform(0.002, 0.3), lambda v=verb: homed.api.act("app", v))
    homed.await_ready()
    assert homed.api.act("app", "start").status == 200
    confirmed(homed.api, "app")
    assert engine.is_running("app")
    assert homed.api.act("app", "stop").status == 200
    homed.kill()
    homed.start()
    homed.api.await_status("app", "stopped")
    assert not engine.is_running("app")
