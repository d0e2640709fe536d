"""The doctor on a real state directory: it says what is wrong with it, and changes nothing."""

import asyncio
import os
from pathlib import Path
from typing import Any

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


async def test_a_state_that_does_not_exist_is_not_called_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "homed.toml"
    config.touch()
    await asyncio.to_thread(cli.main, ["doctor", "--config", str(config), "--state", str(tmp_path / "none")])
    assert f"state: there is none in {tmp_path / 'none'} yet" in capsys.readouterr().out
    await state_with(tmp_path)
    await asyncio.to_thread(cli.main, ["doctor", "--config", str(config), "--state", str(tmp_path)])
    assert f"state: is whole ({tmp_path})" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["check-config", "doctor"])
async def test_a_user_who_may_not_read_the_state_is_not_told_that_it_is_broken(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "homed.toml"
    config.touch()
    overlay, read = tmp_path / "config.json", Path.read_text
    overlay.write_text("{}")

    def refuse(path: Path, *arguments: Any, **named: Any) -> str:
        if path == overlay:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", refuse)  # the tests run as root, whom no mode keeps out
    call = [command, "--config", str(config), "--state", str(tmp_path)]
    assert await asyncio.to_thread(cli.main, call) == 1
    expected = f"homed: cannot open the state in {tmp_path}: permission denied: run it as root\n"
    assert capsys.readouterr() == ("", expected)


async def test_an_empty_list_of_keys_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await state_with(tmp_path)
    for command, said in ((["key", "list"], "There are no keys."), (["state", "damaged"], "There are no damaged")):
        assert await asyncio.to_thread(cli.main, [*command, "--state", str(tmp_path)]) == 0
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(said)
