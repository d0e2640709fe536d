"""Outputs in a folder of the test's own, watched."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from homed.jobs.output.outputs import Outputs

LIMIT = 1 << 20


@pytest.fixture
async def outputs(tmp_path: Path) -> AsyncIterator[Outputs]:
    made = Outputs(tmp_path / "jobs", lambda: LIMIT)
    watch = asyncio.create_task(made.run())
    yield made
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch
    made.close()
