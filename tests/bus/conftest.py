"""Fixtures: a real dbus-daemon of the tests' own, and what must not be left behind."""

import asyncio
import gc
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support.bus import eventually
from tests.support.rauc import SystemBus


@pytest.fixture(scope="session")
def _daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemBus]:
    for program in ("dbus-daemon", "dbus-send", "setpriv"):
        if shutil.which(program) is None:
            pytest.skip(f"a system bus of the tests' own needs {program}")
    daemon = SystemBus(tmp_path_factory.mktemp("bus"))
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()


@pytest.fixture
def daemon(_daemon: SystemBus) -> SystemBus:
    """Running, whatever the test before did to it."""
    if not _daemon.owns("org.freedesktop.DBus"):
        _daemon.start()
    return _daemon


@pytest.fixture(scope="session")
def _quick_collection() -> Iterator[None]:
    """What was there before is not looked at again by each collection."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
async def nothing_left(_quick_collection: None) -> AsyncIterator[None]:
    """No descriptor stays open, and no error stays in the event loop that nobody has looked at."""
    unseen: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    await eventually("what was opened to be closed", lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert unseen == []
