"""The folder that a worker works in: who it is, and what it has begun and not yet reported."""

import fcntl
import hashlib
import os
import re
import secrets
import socket
from pathlib import Path

from homed import atomic
from homed.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Home:
    """`root` is this worker's alone while it runs. ConfigError."""

    def __init__(self, root: Path):
        self.root = root
        self._jobs = root / "jobs"
        try:
            self._jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"{root}: cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(f"{root}: another worker works there") from error

    def close(self) -> None:
        os.close(self._lock)

    def id(self, wanted: str | None) -> str:
        """The worker's id: as it is wanted, or that of the last time, or a new one, which stays. ConfigError."""
        path = self.root / "id"
        try:
            if wanted is None and path.exists():
                wanted = path.read_text(encoding="utf-8").strip()
            elif wanted is None:
                wanted = f"worker-{socket.gethostname()[:64]}-{secrets.token_hex(4)}"
                atomic.write(path, f"{wanted}\n".encode())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        if _ID.fullmatch(wanted) is None:
            raise ConfigError(f"{wanted!r} cannot be a worker's id: 1 to 128 characters without spaces")
        return wanted

    def folder(self, job: str) -> Path:
        """Where a job of this id lies; any text is one of a safe name there."""
        name = job if _NAME.fullmatch(job) else f"_{hashlib.sha256(job.encode(errors='replace')).hexdigest()}"
        return self._jobs / name

    def left(self) -> list[Path]:
        """What an earlier run has left."""
        return sorted(self._jobs.iterdir())
