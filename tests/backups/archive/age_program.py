"""Debian's own `age`, as a person runs it: what homed seals it opens, with the key file or the passphrase."""

import os
import pty
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.tools import program

_DEADLINE = 60


def age() -> str:
    return shutil.which("age") or str(program("age", "usr/bin/age"))


def keygen() -> str:
    return shutil.which("age-keygen") or str(program("age", "usr/bin/age-keygen"))


def recipient(identity: str) -> str:
    done = subprocess.run(
        [keygen(), "-y"], input=identity, capture_output=True, text=True, check=True, timeout=_DEADLINE
    )
    return done.stdout.strip()


def new_key() -> tuple[str, str]:
    """A recipient, and the text of the file with its identity."""
    done = subprocess.run([keygen()], capture_output=True, text=True, check=True, timeout=_DEADLINE)
    return recipient(done.stdout), done.stdout


def decrypt(sealed: Path, identity: Path) -> bytes:
    command = [age(), "-d", "-i", str(identity), str(sealed)]
    return subprocess.run(command, capture_output=True, check=True, timeout=_DEADLINE).stdout


def at_a_terminal(arguments: Sequence[str], typed: str, output: Path) -> int:
    """Run age at a terminal of its own, where `typed` is what it is told when it asks. Returns its exit status."""
    here, there = pty.openpty()
    command = ["setsid", "--ctty", "--wait", age(), "-o", str(output), *arguments]
    process = subprocess.Popen(command, stdin=there, stdout=there, stderr=there)
    os.close(there)
    try:
        asked = b""
        while b"passphrase" not in asked.lower():
            asked += os.read(here, 1024)
        os.write(here, typed.encode() + b"\n")
        return process.wait(_DEADLINE)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(here)
