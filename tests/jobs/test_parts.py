"""The parts of jobs together: what fails is told of and begun again, and ends nothing else."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from homed.config.jobs import Jobs as Config
from homed.events import Events
from homed.health import Level
from homed.jobs.nodes import Facts
from homed.jobs.parts import Board, Parts
from homed.store.sqlite import SqliteStore
from homed.vault import ClosedVault, Vault
from tests.support.job_world import Scripted


async def info() -> Mapping[str, Any]:
    return {}


def parts(folder: Path, vault: Vault | None = None) -> Parts:
    board = Board(
        folder, "board", "boot", lambda: Facts("linux", 4, 8.0, 64.0, False), info, Scripted(), lambda *_: False
    )
    return Parts(board, SqliteStore(folder / "homed.db"), vault or Vault(bytes(32)), Events(), Config)


async def test_a_work_that_fails_is_begun_again_and_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homed.jobs.parts._AGAIN", 0.01)
    made = parts(tmp_path)
    assert made.tell().status is Level.HEALTHY
    tries = 0

    async def sweep(active: object) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise RecursionError("too deep")

    monkeypatch.setattr(Scripted, "sweep", lambda self, active: sweep(active))
    works = dict(made.works())
    async with asyncio.timeout(20):
        await works["job leftovers"]()
    assert tries == 3
    told = made.tell()
    assert told.status is Level.DEGRADED
    assert told.message is not None
    assert "job leftovers (2)" in told.message
    assert not told.needed


async def test_a_board_that_cannot_open_its_secrets_says_so(tmp_path: Path) -> None:
    told = parts(tmp_path, ClosedVault("the key is gone")).tell()
    assert (told.status, told.message) == (Level.DEGRADED, "the key is gone")
