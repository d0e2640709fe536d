"""What the guard goes by where the new system's homed does not start."""

from pathlib import Path

import pytest

from homed.updates import pending
from homed.updates.records import State
from tests.support.updating import judgement, update


def read(folder: Path) -> dict[str, str]:
    lines = (folder / pending.NAME).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_the_guard_is_told_which_system_has_how_long(tmp_path: Path) -> None:
    pending.write(tmp_path, update(State.INSTALLED), 600.9)
    assert read(tmp_path) == {"id": "1", "slot": "rootfs.1", "bootname": "B", "deadline": "600"}


def test_the_guard_is_told_until_when_it_is_judged(tmp_path: Path) -> None:
    pending.write(tmp_path, update(State.INSTALLED), 600)
    pending.write(tmp_path, update(State.JUDGING), 600, judgement("0123456789abcdef", until=712.9))
    found = read(tmp_path)
    assert (found["boot"], found["until"]) == ("0123456789abcdef", "712")
    assert [path.name for path in tmp_path.iterdir()] == [pending.NAME]


def test_it_is_gone_when_there_is_nothing_to_guard(tmp_path: Path) -> None:
    pending.write(tmp_path, update(State.INSTALLED), 600)
    pending.remove(tmp_path)
    pending.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_whose_it_is_can_be_told(tmp_path: Path) -> None:
    assert pending.identity(tmp_path) is None
    pending.write(tmp_path, update(State.INSTALLED, id="12"), 600)
    assert pending.identity(tmp_path) == "12"


@pytest.mark.parametrize("damage", [b"", b"\xff", b"slot=rootfs.1\nid=1\n"])
def test_whose_a_damaged_one_is_cannot(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / pending.NAME).write_bytes(damage)
    assert pending.identity(tmp_path) is None
