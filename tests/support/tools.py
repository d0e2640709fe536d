"""Programs out of Debian packages, unpacked into the cache: nothing is installed, so no service is started."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.boards.rig.cache import REPOSITORY, locked, remove

_DEADLINE = 120


def program(package: str, path: str) -> Path:
    """A program of a package (`usr/bin/prometheus`); the test is skipped, with the reason, where apt cannot deliver."""
    folder = _cache()
    unpacked = folder / package
    with locked(folder / f"{package}.lock"):
        if not unpacked.exists():
            reason = _fetch(package, unpacked)
            if reason is not None:
                pytest.skip(f"the package {package} cannot be had: {reason}")
    return unpacked / path


def _cache() -> Path:
    folder = Path(os.environ.get("HOMED_CACHE") or REPOSITORY / ".cache").resolve() / "tools"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fetch(package: str, target: Path) -> str | None:
    """Download and unpack, whole or not at all. The reason where that failed."""
    # The lock is ours, so what lies here was left by one that was broken off.
    beside = target.with_suffix(".new")
    remove(beside)
    beside.mkdir()
    try:
        download = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package]
        _run(download, beside)
        (archive,) = beside.glob("*.deb")
        _run(["dpkg", "-x", archive.name, "root"], beside)
        (beside / "root").rename(target)
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip().rpartition("\n")[2] or str(error)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        remove(beside)
    return None


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=_DEADLINE)
