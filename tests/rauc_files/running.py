"""Running the programs of `rauc/`."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

RAUC_FILES = Path(__file__).resolve().parents[2] / "rauc"

Run = subprocess.CompletedProcess[str]
Build = Callable[..., Run]


def run(*argv: str | Path, **environment: str) -> Run:
    """Run a program to its end, with these variables beside what it needs to find others; it may fail."""
    told = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8", **environment}
    return subprocess.run(argv, env=told, capture_output=True, text=True, timeout=60, check=False)


def need(**packages: str) -> None:
    """Skip where a program is missing: `need(mksquashfs="squashfs-tools")`."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacking = sorted(package for program, package in packages.items() if shutil.which(program, path=path) is None)
    if lacking:
        pytest.skip(f"bundles need the package {', '.join(lacking)}")
