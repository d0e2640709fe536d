"""Ways to a container that nobody allowed, to one that is not homed's, and to a keeper that cannot act."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from homed.clock import now
from homed.config import Containers
from homed.containers import creation, engine, policy, records, services
from homed.containers.engine import Engine
from homed.containers.executor import Executor
from homed.containers.model import from_inspect
from homed.containers.plan import STAND_IN, START, Step
from homed.containers.protected import Protected
from homed.containers.sealing import Sealing
from homed.containers.services import Services
from homed.containers.spec import DIGEST_LABEL, MANAGED_LABEL, SERVICE_LABEL, ServiceSpec
from homed.containers.view import View
from homed.errors import ConflictError, EngineError, EngineUnavailableError, HomedError, ValidationError
from homed.events import Events
from homed.store.sqlite import SqliteStore
from homed.vault import Vault
from tests.support.fake_engine import FakeEngine

STATE = Protected(private=("/var/lib/homed",))


def _refused(**spec: Any) -> list[str]:
    return [e.field for e in policy.violations(ServiceSpec(image="app:1", **spec), Containers(), STATE)]


@pytest.mark.parametrize(
    "source",
    ["/proc/self/cwd", "/proc/self/cwd/config.json", "//proc/thread-self/fd/9", "/./proc/4242/cwd/x", "/run/udev",
     "/run/udev/control", "/home", "/home/pi", "/home/pi/.ssh", "/home/pi/.profile", "/var/lib/dpkg/info", "/var/log",
     "/var/backups", "/var/snap/lxd/common/lxd", "/var/spool"],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["", ":ro"])
def test_what_leads_to_root_by_a_detour_is_refused(source: str, mode: str) -> None:
    assert _refused(volumes=(f"{source}:/x{mode}",)) == ["volumes[0]"]


def test_what_lies_in_a_users_folder_is_not(tmp_path: Path) -> None:
    assert _refused(volumes=("/home/pi/data:/data", "/run/udev/data:/run/udev/data:ro")) == []


def test_proc_may_be_had_where_the_file_gives_the_board_away() -> None:
    spec = ServiceSpec(image="exporter:1", volumes=("/proc/bus:/x:ro",))
    assert policy.violations(spec, Containers(allow_host_root=True), STATE) == []


@pytest.mark.parametrize("device", ["/dev/bsg", "/dev/ng0n1", "/dev/vc-mem"])
def test_disks_and_memory_behind_character_devices_are_refused(device: str) -> None:
    assert _refused(devices=(device,)) == ["devices[0]"]


def test_what_a_made_container_takes_is_read_from_itself() -> None:
    spec = ServiceSpec(
        image="app:1", volumes=("/data:/data:ro", "v:/v"), devices=("/dev/ttyUSB0:/dev/x:rw",), privileged=True
    )
    taken = creation.taken({"HostConfig": creation.configuration("web", spec)["HostConfig"]})
    assert (taken.volumes, taken.devices, taken.privileged) == (("/data:/data:ro", "v:/v:rw"), spec.devices, True)
    assert creation.taken({"HostConfig": {"Binds": None, "Devices": None, "Privileged": False}}).volumes == ()


async def test_a_container_that_stands_in_is_checked_as_it_was_made(tmp_path: Path) -> None:
    """Not as its successor is wanted: a link in it may lead elsewhere by now."""
    fake = FakeEngine()
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    old = ServiceSpec(image="app:1", volumes=(f"{tmp_path}/link:/host",))
    identity = await fake.create("web", creation.configuration("web", old))
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("/etc")
    view = View(fake, fake, Events(), lambda: 30.0)  # type: ignore[arg-type]
    allowed = Containers(data_roots=(str(tmp_path),))
    executor = Executor(fake, view, None, Events(), lambda: allowed, lambda: STATE, lambda step, worked: None)  # type: ignore[arg-type]
    new = ServiceSpec(image="missing:1")
    service = records.Service(name="web", spec=new, good=old, created_at=now(), updated_at=now())
    with pytest.raises(EngineError) as refused:
        await executor.run(Step(START, identity, text=STAND_IN), service, lambda shown: None)
    assert refused.value.code == "NOT_ALLOWED"
    assert fake.running() == []


class _Client:
    """docker-py's, as far as starts, stops and pulls go."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.go_on = threading.Event()
        self.error: Exception | None = None

    def inspect_container(self, container: str) -> dict[str, Any]:
        self.calls.append("inspect")
        return {"Id": container}

    def start(self, container: str) -> None:
        self.calls.append("start")

    def stop(self, container: str, timeout: int) -> None:
        self.go_on.wait(20)

    def pull(self, *_: object, **__: object) -> Any:
        self.go_on.wait(20)
        if self.error is not None:
            raise self.error
        return iter(())

    def close(self) -> None:
        pass


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> _Client:
    made = _Client()
    monkeypatch.setattr(Engine, "_connected", lambda self: made)
    return made


def _engine() -> Engine:
    return Engine("unix:///nonexistent", lambda call: lambda seconds, worked: None)


async def test_the_check_of_a_start_is_made_on_its_thread_and_stops_it(client: _Client) -> None:
    """Made before, it would be old by as long as the start waits for a thread."""
    threads: list[str] = []

    def refuse(made: dict[str, Any]) -> None:
        threads.append(threading.current_thread().name)
        raise EngineError("no", code="NOT_ALLOWED")

    one = _engine()
    with pytest.raises(EngineError):
        await one.start("c1", refuse)
    await one.close()
    assert client.calls == ["inspect"]
    assert threads[0].startswith("docker-slow")


async def test_neither_hanging_pulls_nor_hanging_stops_hold_up_a_start(client: _Client) -> None:
    one = _engine()
    hanging = [asyncio.create_task(one.pull("a:1", None, lambda m: None)) for _ in range(engine._PULL_THREADS + 2)]
    hanging += [asyncio.create_task(one.stop(f"c{i}", 3600)) for i in range(40)]
    try:
        async with asyncio.timeout(10):
            await one.start("c1", lambda made: None)
    finally:
        client.go_on.set()
        await asyncio.gather(*hanging)
        await one.close()
    assert client.calls == ["inspect", "start"]


async def test_a_pull_that_breaks_off_below_requests_is_an_engine_that_is_away(client: _Client) -> None:
    import urllib3

    client.go_on.set()
    client.error = urllib3.exceptions.ProtocolError("Connection broken: IncompleteRead")
    one = _engine()
    with pytest.raises(EngineUnavailableError):
        await one.pull("a:1", None, lambda message: None)
    await one.close()


@pytest.mark.parametrize(
    ("name", "service"),
    [("web", "web"), ("web.0123abcd", "web"), ("web.0123abcd.old", "web"), ("debug", None), ("webster", None)],
)
def test_labels_that_came_with_an_image_make_no_container_homeds(name: str, service: str | None) -> None:
    """`docker commit` keeps them, and what somebody runs of it would be removed as an old one."""
    data = {
        "Id": "1", "Name": f"/{name}", "Created": "2026-01-01T00:00:00Z",
        "State": {"Status": "running", "StartedAt": "2026-01-01T00:00:00Z"},
        "Config": {"Image": "x", "Labels": {MANAGED_LABEL: "true", SERVICE_LABEL: "web", DIGEST_LABEL: "d"}},
    }  # fmt: skip
    assert from_inspect(data).service == service


async def test_what_services_hold_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read at each start: more than fits into the memory would keep homed from ever starting again."""
    store = SqliteStore(tmp_path / "homed.db")
    await store.open()
    kept = Services(store, lambda spec: [], Sealing(Vault(bytes(32))))
    big = ServiceSpec(image="app:1", environment={f"V{i}": "x" * 4096 for i in range(70)})
    with pytest.raises(ValidationError, match="at most 262144 bytes"):
        await kept.create("web", big, enabled=True)
    monkeypatch.setattr(services, "MAX_TOTAL_BYTES", 90_000)
    large = {f"V{i}": "x" * 4096 for i in range(12)}
    await kept.create("first", ServiceSpec(image="app:1", environment=large), enabled=True)
    with pytest.raises(ConflictError, match="over 90000 bytes together") as too_much:
        await kept.create("second", ServiceSpec(image="app:1", environment=large), enabled=True)
    assert too_much.value.code == "TOO_MANY_SERVICES"
    await kept.delete("first")
    await kept.forget("first")
    monkeypatch.setattr(services, "MOST_SERVICES", 2)
    for name in ("s1", "s2"):
        await kept.create(name, ServiceSpec(image="app:1"), enabled=True)
    with pytest.raises(ConflictError) as full:
        await kept.create("s3", ServiceSpec(image="app:1"), enabled=True)
    assert full.value.code == "TOO_MANY_SERVICES"
    await store.close()


@pytest.mark.parametrize("field", ["ports", "volumes", "devices", "tmpfs"])
def test_lists_are_bounded(field: str) -> None:
    with pytest.raises(HomedError, match="at most 256 entries"):
        msgspec.convert({"image": "app:1", field: ["/x"] * 257}, ServiceSpec)


async def test_a_folder_that_hangs_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead NFS server, for one: on the event loop it would hang all of homed, until the watchdog ends it."""
    hangs = threading.Event()

    def look(spec: ServiceSpec) -> list[Any]:
        if spec.volumes:
            hangs.wait(20)
        return []

    monkeypatch.setattr(services, "_LOOK", 0.05)
    store = SqliteStore(tmp_path / "homed.db")
    await store.open()
    kept = Services(store, look, Sealing(Vault(bytes(32))))
    try:
        with pytest.raises(ValidationError, match="could not be checked"):
            await kept.create("web", ServiceSpec(image="app:1", volumes=("/mnt/nfs:/x",)), enabled=True)
        await kept.create("other", ServiceSpec(image="app:1"), enabled=True)
    finally:
        hangs.set()
        await store.close()
