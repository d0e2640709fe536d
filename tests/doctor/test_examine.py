"""The doctor on a real state directory: it says what is wrong with it, and changes nothing."""

import asyncio
import os
from pathlib import Path

import pytest

from homed import cli
from homed.access.keys import Keys
from homed.access.scopes import Scope
from homed.store import damage
from homed.store.sqlite import SqliteStore


async def state_with(folder: Path, *, key: bool = False, damaged: bool = False) -> Path:
    store = SqliteStore(folder / "homed.db")
    await store.open()
    if key:
        await Keys(store).create("a", Scope.ADMIN)
    if damaged:
        await store.put(damage.BUCKET, "services/web", b"x", 0)
    await store.close()
    return folder


@pytest.fixture(autouse=True)
def no_wait_for_a_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homed.doctor.updates._CONNECT", 0.1)


def doctor(state: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The levels of its findings, by what they are about."""
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    cli.main(["doctor", "--config", str(config), "--state", str(state)])
    assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == before
    lines = capsys.readouterr().out.splitlines()
    return {line[9:].partition(": ")[0]: line[:9].strip() for line in lines}


async def test_it_sees_what_is_wrong_with_the_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "homed.toml"
    config.write_text("[api]\nhost = '0.0.0.0'\n")
    state = await state_with(tmp_path / "state", key=True, damaged=True)
    (state / "config.json").write_text("{")

    found = await asyncio.to_thread(doctor, state, config, capsys)
    assert found["state"] == "ok" and found["exposure"] == "ok"
    assert found["damaged records"] == found["config.json"] == found["api.tls"] == "warning"
    data = bytearray((state / "homed.db").read_bytes())
    data[4096 : 4096 + 100] = os.urandom(100)
    (state / "homed.db").write_bytes(data)
    assert (await asyncio.to_thread(doctor, state, config, capsys))["state"] == "bad"
    (state / "homed.db").write_bytes(b"")
    found = await asyncio.to_thread(doctor, state, config, capsys)
    assert found["state"] == found["exposure"] == "bad"


async def test_check_config_says_that_anybody_could_reach_the_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    config = tmp_path / "homed.toml"
    config.write_text("[api]\nhost = '0.0.0.0'\n")
    call = ["check-config", "--config", str(config), "--state", str(tmp_path / "state")]
    assert await asyncio.to_thread(cli.main, call) == 78
    assert "homed key create" in capsys.readouterr().err
    await state_with(tmp_path / "state", key=True)
    assert await asyncio.to_thread(cli.main, call) == 0
    assert "right" in capsys.readouterr().out
    assert await asyncio.to_thread(cli.main, ["check-config", "--config", str(tmp_path / "none.toml")]) == 78
