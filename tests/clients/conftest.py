"""A homed with no engine, for clients of the shapes that are in use."""

from collections.abc import Iterator

import pytest

from tests.support.api import Api
from tests.support.executor import board


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with board(tmp_path_factory.mktemp("homed")) as homed:
        yield homed.api
