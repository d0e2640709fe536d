"""homed on a board, as a device gets it: wheels in a virtual environment, installed from a directory."""

import os
import platform
import re
import sys
from functools import partial
from pathlib import Path
from typing import Final

from .board import Board
from .cache import REPOSITORY, cached, key, remove
from .process import RigError, command, contained
from .root import PYTHON

HOME: Final = "/opt/homed"

LOCKS: Final = tuple(REPOSITORY / "requirements" / name for name in ("runtime.lock", "assets.lock"))
"""What homed needs on a board."""

# What has no wheel comes from Debian's own package, which the environment sees (--system-site-packages).
_FROM_DEBIAN: Final = frozenset({"systemd-python"})

# pip takes the platforms that it is told literally: a wheel for an older libc must be asked for by its name.
_NEWEST_GLIBC: Final = 41
_OLDEST_GLIBC: Final = 5

_BUILD_LAYER: Final = f"""
set -eu
lower=$1 wheels=$2 layer=$3
mount -t overlay layer -o "lowerdir=$lower,upperdir=$layer/upper,workdir=$layer/work" "$layer/root"
mount -t proc proc "$layer/root/proc"
mount --rbind /dev "$layer/root/dev"
mount --bind "$wheels" "$layer/root/mnt"
inside() {{ chroot "$layer/root" env -i PATH=/usr/bin LANG=C.UTF-8 PIP_DISABLE_PIP_VERSION_CHECK=1 "$@"; }}
inside python3 -m venv --system-site-packages {HOME}
inside {HOME}/bin/pip install --quiet --no-cache-dir --root-user-action=ignore \\
    --no-index --find-links=/mnt --no-deps --requirement=/mnt/requirements.txt
"""


def wheelhouse(*locks: Path) -> Path:
    """A directory with the wheels that lock files name, for the boards' Python, and a list of them."""
    text = "".join(_without_debians(lock.read_text()) for lock in locks)
    return cached(f"wheels-{key('1', PYTHON, platform.machine(), text)}", partial(_download, text))


def dependencies(root: Path, *locks: Path) -> Path:
    """A layer for over the root: homed's virtual environment with all that the lock files name."""
    wheels = wheelhouse(*locks)
    name = f"layer-{key('1', _BUILD_LAYER, root.name, wheels.name)}"
    return cached(name, partial(_build_layer, root, wheels)) / "upper"


def install_wheel(board: Board, wheel: Path, wheels: Path | None = None) -> None:
    """Install homed; on a board without the layer of its dependencies, these come from a wheelhouse."""
    arrived = f"/tmp/{wheel.name}"
    board.push(wheel, arrived)
    pip = (
        f"{HOME}/bin/pip",
        "install",
        "--quiet",
        "--no-cache-dir",
        "--root-user-action=ignore",
        "--no-index",
    )
    if wheels is not None:
        board.run("python3", "-m", "venv", "--system-site-packages", HOME)
        board.push(wheels, "/tmp/wheels")
        board.run(*pip, "--find-links=/tmp/wheels", arrived, timeout=300)
        board.run("rm", "-r", "/tmp/wheels", arrived)
    elif board.run("test", "-e", HOME, check=False).returncode:
        raise RigError(f"{board.name} has no {HOME}: boot it with the layer of `dependencies`, or give a wheelhouse")
    else:
        board.run(*pip, "--no-deps", "--force-reinstall", arrived, timeout=120)
        board.run("rm", arrived)


def _download(requirements: str, target: Path) -> None:
    target.mkdir()
    listed = target / "requirements.txt"
    listed.write_text(requirements)
    machine = platform.machine()
    libcs = range(_NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1)
    platforms = (*(f"manylinux_2_{minor}_{machine}" for minor in libcs), f"manylinux2014_{machine}")
    command(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--implementation=cp", f"--python-version={PYTHON}", f"--dest={target}", f"--requirement={listed}"),
        *(f"--platform={name}" for name in platforms),
        timeout=600,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )


def _build_layer(root: Path, wheels: Path, target: Path) -> None:
    for directory in ("upper", "work", "root"):
        (target / directory).mkdir(parents=True)
    contained("sh", "-c", _BUILD_LAYER, "layer", root, wheels, target, timeout=600)
    remove(target / "work")
    remove(target / "root")


def _without_debians(lock: str) -> str:
    """A lock file's text without what Debian provides; an entry goes on after a backslash."""
    entries = re.findall(r"(?:.*\\\n)*.*\n?", lock)
    return "".join(entry for entry in entries if _project(entry) not in _FROM_DEBIAN)


def _project(entry: str) -> str:
    """The normal form of the name at the start of a lock file's entry."""
    named = re.match(r"\s*([A-Za-z0-9._-]*)", entry)
    return re.sub(r"[-_.]+", "-", named[1]).lower() if named else ""
