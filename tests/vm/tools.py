"""Debian 13's QEMU and what makes disks and bundles, in a tree of their own: the machine's may be too old."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import IO, Final

from tests.boards.rig.cache import cached, key
from tests.boards.rig.process import contained, spawn

SUITE: Final = "trixie"

_PACKAGES: Final = (
    "dosfstools",
    "e2fsprogs",
    "gdisk",
    "grub-common",
    "grub-efi-amd64-bin",
    "mtools",
    "openssl",
    "ovmf",
    "python3",
    "qemu-system-x86",
    "qemu-utils",
    "rauc",
    "squashfs-tools",
)

PATH: Final = "/usr/sbin:/usr/bin"

# The machine's own files are seen from inside below this directory.
_MACHINE: Final = "/machine"

_ENTER: Final = f"""
set -eu
tree=$1; shift
mkdir -p "$tree{_MACHINE}"
mount --rbind / "$tree{_MACHINE}"
mount --rbind /dev "$tree/dev"
mount -t proc proc "$tree/proc" 2>/dev/null || mount --rbind /proc "$tree/proc"
mount -t tmpfs tmp "$tree/tmp"
exec chroot "$tree" env -i PATH={PATH} LANG=C.UTF-8 HOME=/tmp "$@"
"""

# Nobody reads manuals there; without them and without fsync the build is faster.
_UNREAD: Final = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")


def debian(target: Path, packages: tuple[str, ...], *options: str) -> None:
    """Debian 13 with these packages and little else, as a directory."""
    contained(
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        f"--include={','.join(packages)}",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _UNREAD),
        *options,
        SUITE,
        target,
        timeout=900,
    )


def tools() -> Path:
    """The tree of tools, built first if it is not in the cache (about half a minute)."""
    return cached(f"vm-tools-{key('1', SUITE, *_PACKAGES)}", lambda target: debian(target, _PACKAGES))


def seen(path: Path) -> str:
    """A file of the machine, as it is named among the tools."""
    return f"{_MACHINE}{path.resolve()}"


def run(*argv: str | Path, timeout: float = 120) -> str:
    """Run one of the tools to its end and return its output; paths are the machine's."""
    return contained("sh", "-c", _ENTER, "tools", tools(), *_translated(argv), timeout=timeout)


def script(text: str, *arguments: str | Path, timeout: float = 300) -> str:
    """Run a shell script among the tools."""
    return run("sh", "-euc", text, "script", *arguments, timeout=timeout)


def start(*argv: str | Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start one of the tools. Each program on the way there becomes the next: the process is the tool's own."""
    enter = ("unshare", "--mount", "--", "sh", "-c", _ENTER, "tools", tools())
    return spawn((*enter, *_translated(argv)), dict(os.environ), output)


def quoted(*argv: str | Path) -> str:
    """A line of a shell script that is run among the tools."""
    return shlex.join(_translated(argv))


def _translated(argv: tuple[str | Path, ...]) -> list[str]:
    return [seen(argument) if isinstance(argument, Path) else argument for argument in argv]
