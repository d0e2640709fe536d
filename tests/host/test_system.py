import asyncio
import os
import platform
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from homed.host import network
from homed.host.system import OperatingSystem, System


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool


async def test_the_seeds_fields_are_there_in_its_units(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    info = await System(tmp_path, executor, homed_version="1.2.3").info()
    answer = msgspec.json.decode(msgspec.json.encode(info))
    assert answer["hostname"] == socket.gethostname()
    assert answer["platform"] == "linux"
    assert answer["architecture"] == platform.machine()
    assert answer["cpu_count"] == os.cpu_count()
    kilobytes = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    assert answer["memory"]["total"] == int(kilobytes["MemTotal"].split()[0]) * 1024
    assert 0 < answer["memory"]["available"] < answer["memory"]["total"]
    assert 0 < answer["memory"]["percent"] < 100
    assert set(answer["disk"]) == {"total", "used", "free", "percent"}
    assert abs(answer["uptime"] - float(Path("/proc/uptime").read_text().split()[0])) < 2
    assert len(answer["load_average"]) == 3
    assert answer["homed_version"] == "1.2.3"
    assert answer["unavailable"] == {}


async def test_disk_is_the_filesystem_of_the_state_directory(executor: ThreadPoolExecutor) -> None:
    shared = os.statvfs("/dev/shm")
    info = await System(Path("/dev/shm"), executor, homed_version="1").info()
    assert info.disk is not None
    assert info.disk.total == shared.f_blocks * shared.f_frsize


async def test_a_state_directory_that_is_gone_is_said_and_the_rest_answered(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    info = await System(tmp_path / "gone", executor, homed_version="1").info()
    assert info.disk is None
    assert "FileNotFoundError" in info.unavailable["disk"]
    assert info.memory.total > 0


async def test_netlink_that_is_refused_is_said_and_the_rest_answered(
    tmp_path: Path, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(1, "netlink refused")

    monkeypatch.setattr(network, "interfaces", refuse)
    info = await System(tmp_path, executor, homed_version="1").info()
    assert info.interfaces is None
    assert info.unavailable == {"interfaces": "PermissionError: [Errno 1] netlink refused"}


async def test_facts_of_the_board_come_from_its_root(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    for path, text in {
        "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
        "proc/sys/kernel/random/boot_id": "0b6f2e0e-5b1c-4f4e-8a53-1f6d6f1f7a11\n",
        "etc/os-release": '# who\nNAME="Poky (Yocto Project)"\nVERSION_ID=\'5.0.4\'\nBROKEN="\n',
        "sys/class/thermal/thermal_zone0/temp": "42000\n",
        "sys/class/thermal/thermal_zone0/type": "CPU-therm\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    info = await System(tmp_path, executor, homed_version="1", root=tmp_path).info()
    assert info.model == "NVIDIA Jetson Nano Developer Kit"
    assert info.boot_id == "0b6f2e0e-5b1c-4f4e-8a53-1f6d6f1f7a11"
    assert info.os == OperatingSystem("Poky (Yocto Project)", "5.0.4")
    assert info.temperatures is not None
    assert info.temperatures[0].celsius == 42.0
    assert info.throttling is None


async def test_booted_at_follows_a_clock_that_was_set(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    noon = datetime(2030, 1, 1, 12, tzinfo=UTC).timestamp()
    system = System(tmp_path, executor, homed_version="1", clock=lambda: noon)
    booted_at = (await system.info()).booted_at
    assert booted_at.tzinfo is UTC
    assert abs(booted_at.timestamp() - (noon - uptime)) <= 2


async def test_the_loop_runs_on_while_facts_are_read(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    system = System(tmp_path, executor, homed_version="1")
    release = threading.Event()
    executor.submit(release.wait)
    asked = asyncio.create_task(system.info())
    await asyncio.sleep(0.05)
    assert not asked.done()
    release.set()
    assert (await asked).cpu_count >= 1
