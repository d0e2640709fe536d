"""What a bundle holds is asked of RAUC with the means that it has; its command is played by a program on PATH."""

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from homed.bus import rauc
from homed.errors import HomedError, UpdateError
from homed.updates import bundle, inspecting
from homed.updates.inspecting import Inspector
from homed.updates.installer import Watch
from homed.updates.slots import Facts
from tests.support.updating import facts
from tests.support.wait import until

IMAGE = {"filename": "rootfs.img", "checksum": "f3e0", "size": 500}
INSPECTED = {"update": {"compatible": "board", "version": "2.0"}, "images": [{"slot-class": "rootfs", **IMAGE}]}
TOLD = {"compatible": "another", "version": "9", "images": [{"rootfs": IMAGE}]}


class FakeWatch:
    """RAUC's service: it inspects, or only gives (compatible, version), or refuses."""

    def __init__(self, found: Mapping[str, Any] | None = None, refusal: str = ""):
        self._found = found
        self._refusal = refusal

    async def look(self) -> Facts:
        return facts()

    async def inspect(self, path: str) -> tuple[Mapping[str, Any] | None, tuple[str, str]]:
        if self._refusal:
            raise rauc.meaning("", self._refusal)
        return self._found, ("", "") if self._found is not None else ("board", "2.0")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle; what RAUC says of it is played."""
    monkeypatch.setattr(bundle, "signers", lambda _: ())
    monkeypatch.setattr(bundle, "device_sizes", lambda slots: {slot.name: 1000 for slot in slots})
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()
    made = tmp_path / "update.raucb"
    made.write_bytes(b"squashfs")
    return made


def play(path: Path, script: str) -> None:
    """The `rauc` command; in `$*` is what it is asked."""
    program = path.parent / "bin" / "rauc"
    program.write_text(f'#!/bin/sh\necho "$*" >> {path.parent}/asked\n{script}\n')
    program.chmod(0o755)


def inspector(found: Mapping[str, Any] | None = None, refusal: str = "") -> Inspector:
    return Inspector(cast(Watch, FakeWatch(found, refusal)))


async def code(path: Path, *, refusal: str = "") -> str:
    with pytest.raises(HomedError) as raised:
        await inspector(refusal=refusal).inspect(path)
    return raised.value.code


async def test_a_new_rauc_tells_all_by_itself(path: Path) -> None:
    play(path, "exit 1")
    found, board = await inspector(INSPECTED).inspect(path)
    assert (found.version, found.compatible_with_board, found.fits, found.size) == ("2.0", True, True, 8)
    assert board.booted == "rootfs.0"
    assert not (path.parent / "asked").exists()


async def test_of_an_old_rauc_the_command_tells_the_rest_and_the_service_what_counts(path: Path) -> None:
    play(path, f"cat <<'.'\n{json.dumps(TOLD)}\n.")
    found, _ = await inspector().inspect(path)
    # Only the service has verified what it says.
    assert (found.version, found.compatible) == ("2.0", "board")
    assert found.images[0].filename == "rootfs.img"
    assert (path.parent / "asked").read_text() == f"info --no-verify --output-format=json {path}\n"


@pytest.mark.parametrize("script", ["echo nonsense", "exit 1", r"printf '{\"version\": \"\377\"}'", ":"])
async def test_a_command_that_makes_no_sense_is_told(path: Path, script: str) -> None:
    play(path, script)
    assert await code(path) == "UPDATE_BUNDLE"


async def test_a_command_that_tells_something_else_tells_nothing(path: Path) -> None:
    play(path, "echo '[1]'")
    found, _ = await inspector().inspect(path)
    assert (found.version, found.images) == ("2.0", [])


async def test_without_the_command_that_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(path.parent))
    with pytest.raises(UpdateError, match="cannot be run"):
        await inspector().inspect(path)


async def test_what_rauc_refuses_with_words_is_refused_with_them(path: Path) -> None:
    assert await code(path, refusal="signature verification failed: certificate has expired") == "UPDATE_SIGNATURE"
    assert not (path.parent / "asked").exists()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        # With the board's configuration the command says what it is.
        ("echo 'Verify error: certificate has expired' >&2; exit 1", "UPDATE_SIGNATURE"),
        ("echo 'Invalid bundle format: Signature size is 0' >&2; exit 1", "UPDATE_BUNDLE"),
        # Without it, only that it is whole or not.
        (
            "case $* in *--no-verify*) ;; *) echo 'No keyring file provided' >&2; exit 1 ;; esac",
            "UPDATE_SIGNATURE",
        ),
        (
            "case $* in *--no-verify*) echo 'Invalid bundle format: x' >&2; exit 1 ;; "
            "*) echo 'No keyring file provided' >&2; exit 1 ;; esac",
            "UPDATE_BUNDLE",
        ),
    ],
)
async def test_where_an_old_rauc_says_nothing_the_command_is_asked(path: Path, script: str, expected: str) -> None:
    play(path, script)
    assert await code(path, refusal="rauc info error") == expected


async def test_a_command_that_hangs_is_ended(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(path, f"echo $$ > {path.parent}/pid; exec sleep 600")
    monkeypatch.setattr(inspecting, "_PATIENCE", 0.5)
    with pytest.raises(UpdateError, match="did not end"):
        await inspector().inspect(path)
    pid = int((path.parent / "pid").read_text())
    await asyncio.to_thread(until, "its end", lambda: not os.path.exists(f"/proc/{pid}"))


@pytest.mark.parametrize("name", ["gone.raucb", ".", "bin", "x" * 300, "nul\0"])
async def test_what_is_no_file_is_not_asked_about(path: Path, name: str) -> None:
    assert await code(path.parent / name) == "BUNDLE_NOT_FOUND"
