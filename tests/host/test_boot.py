"""Which boot this is."""

import re
import time
from pathlib import Path

import pytest

from homed.host import boot


def test_the_boot_has_the_name_that_journalctl_takes() -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", boot.boot_id())
    assert boot.boot_id() == boot.boot_id()


def test_a_kernel_without_names_gives_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(boot, "_BOOT_ID", tmp_path / "gone")
    assert boot.boot_id() == ""


def test_the_boots_clock_is_the_kernels() -> None:
    before = boot.boot_clock()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert before - 0.02 <= uptime <= boot.boot_clock() + 0.02
    assert boot.boot_clock() >= time.monotonic() - 0.02
