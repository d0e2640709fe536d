"""Archives that were uploaded for jobs: written as they come, and removed when no job needs them any more."""

import asyncio
import errno
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from homed import atomic
from homed.config.jobs import JobWorkers
from homed.errors import JobError, NotFoundError, TooLargeError

log = logging.getLogger(__name__)
PREFIX = "/uploads/"
_PARTIAL = ".part-"
_RESERVE = 64 << 20
_EVERY = 3600.0
_LONGEST_NAME = 100
_DAY = 86_400.0
_NAME = re.compile(r"[0-9]{1,20}-[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class UploadSpaceError(JobError):
    """There is no room for what is uploaded."""

    code = "UPLOAD_NO_SPACE"
    status = 507
    grpc = "RESOURCE_EXHAUSTED"


class Upload(NamedTuple):
    """`size` in bytes."""

    name: str
    path: Path
    size: int

    @property
    def url(self) -> str:
        return f"{PREFIX}{self.name}"


def sanitised(filename: str) -> str:
    """What a client called its file, as it may stand in a path, a header and a shell line."""
    last = re.split(r"[/\\]", filename)[-1]
    kept = re.sub(r"[^A-Za-z0-9._-]+", "_", last).lstrip("._-")
    if len(kept) > _LONGEST_NAME:
        stem, dot, suffix = kept.rpartition(".")
        kept = kept[:_LONGEST_NAME] if len(suffix) > 10 else stem[: _LONGEST_NAME - len(suffix) - 1] + dot + suffix
    return kept or "archive"


def is_upload(url: str) -> bool:
    """Whether it is the address of an upload here, be it there or not."""
    name = url.removeprefix(PREFIX)
    return name != url and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name) is not None


class Uploads:
    """The uploads in `root`. `run` while homed runs."""

    def __init__(self, root: Path, config: Callable[[], JobWorkers]):
        self._root = root
        self._config = config
        self._open: set[str] = set()

    async def receive(self, filename: str, chunks: AsyncIterator[bytes]) -> Upload:
        """Durable when it returns; nothing is left where it fails. TooLargeError, UploadSpaceError, JobError."""
        partial = self._root / f"{_PARTIAL}{os.urandom(8).hex()}"
        self._open.add(partial.name)
        try:
            size = await self._write(partial, chunks)
            return await asyncio.to_thread(self._publish, partial, sanitised(filename), size)
        except OSError as error:
            kind = UploadSpaceError if error.errno in _FULL else JobError
            raise kind(f"the upload cannot be written: {error.strerror}") from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            self._open.discard(partial.name)

    async def _write(self, partial: Path, chunks: AsyncIterator[bytes]) -> int:
        most, size = self._config().upload_limit, 0
        with await asyncio.to_thread(self._create, partial) as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > most:
                    raise TooLargeError(f"an upload may have {most} bytes here: see jobs.workers.upload_limit")
                await asyncio.to_thread(_append, file.fileno(), chunk)
            await asyncio.to_thread(os.fsync, file.fileno())
        return size

    def _create(self, partial: Path):  # type: ignore[no-untyped-def]  # the type of an unbuffered file has no name
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open(partial, "xb", buffering=0, opener=lambda path, flags: os.open(path, flags, 0o600))

    def _publish(self, partial: Path, filename: str, size: int) -> Upload:
        stamp = int(time.time() * 1000)
        while True:
            name = f"{stamp}-{filename}"
            try:
                os.link(partial, self._root / name)  # and not rename: another's is not written over
            except FileExistsError:
                stamp += 1
                continue
            atomic.sync_folder(self._root)
            return Upload(name, self._root / name, size)

    def path(self, name: str) -> Path:
        """NotFoundError (UPLOAD_NOT_FOUND)."""
        path = self._root / name
        if _NAME.fullmatch(name) is None or not path.is_file():
            raise NotFoundError("Upload not found", code="UPLOAD_NOT_FOUND")
        return path

    async def discard(self, upload: Upload) -> None:
        """Nobody will ask for it."""
        with suppress(OSError):
            await asyncio.to_thread(upload.path.unlink, missing_ok=True)

    async def run(self, needed: Callable[[], Collection[str]]) -> None:
        """Remove what is left over: halves at once, uploads by their age. `needed` are addresses that jobs name."""
        while True:
            try:
                await asyncio.to_thread(self._sweep, frozenset(needed()))
            except OSError as error:
                log.warning("Uploads cannot be swept: %s", error)
            await asyncio.sleep(_EVERY)

    def _sweep(self, needed: Collection[str]) -> None:
        if not self._root.is_dir():
            return
        oldest = time.time() - self._config().upload_days * _DAY
        for entry in list(os.scandir(self._root)):
            with suppress(FileNotFoundError):
                half = entry.name.startswith(_PARTIAL) and entry.name not in self._open
                old = _NAME.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < oldest
                if half or (old and f"{PREFIX}{entry.name}" not in needed):
                    os.unlink(entry.path)


def _append(descriptor: int, chunk: bytes) -> None:
    free = os.fstatvfs(descriptor)
    if free.f_bavail * free.f_frsize < _RESERVE + len(chunk):
        raise UploadSpaceError("the disk is nearly full: nothing more is taken")
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]
