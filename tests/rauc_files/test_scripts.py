"""The shell scripts, by those who know shells."""

import os
from pathlib import Path

import pytest

from tests.rauc_files.running import RAUC_FILES, need, run
from tests.support.tools import program

SCRIPTS = sorted(path for path in RAUC_FILES.rglob("*") if path.is_file() and path.read_bytes().startswith(b"#!"))
SHELL = [path for path in SCRIPTS if not path.read_text().startswith("#!/usr/bin/env python3")]
POSIX = [path for path in SHELL if path.read_text().startswith("#!/bin/sh\n")]


def name(path: Path) -> str:
    return path.name


def test_none_is_overlooked() -> None:
    found = {str(path.relative_to(RAUC_FILES)) for path in SCRIPTS}

    assert found == {
        "bundle",
        "pki",
        "grub-efi/keep-grubenv",
        "hooks/hook",
        "hooks/install-check",
        "hooks/slot",
        "jetson/nvbootctrl-backend",
    }
    assert len(POSIX) == len(SHELL) - 1 == 5


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_it_can_be_run(script: Path) -> None:
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("script", SHELL, ids=name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    checker = program("shellcheck", "usr/bin/shellcheck")

    done = run(checker, script)

    if done.returncode == 127:
        pytest.skip("shellcheck does not run here: libraries are missing")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", POSIX, ids=name)
def test_a_board_s_small_shell_takes_it(script: Path) -> None:
    need(busybox="busybox-static")

    done = run("busybox", "ash", "-n", script)

    assert (done.returncode, done.stderr) == (0, "")
