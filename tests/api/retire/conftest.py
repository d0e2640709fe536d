"""A homed with no engine: its jobs run on this machine, as processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.homed import Homed


@pytest.fixture(scope="module")
def homed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homed]:
    folder: Path = tmp_path_factory.mktemp("homed")
    with Homed(folder, f"unix://{folder}/no-engine.sock") as homed:
        yield homed
        homed.stop()


@pytest.fixture
def api(homed: Homed) -> Api:
    return homed.api
