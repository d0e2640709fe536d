"""A bundle over HTTP: resumed where it broke off, bounded in size and rate, whole and checked once it has its name.

`<target>.part` is what there is so far; `<target>.part.json` says of what, and how much of it a power cut leaves.
"""

import asyncio
import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
from msgspec.structs import replace

from homed import atomic, http_client
from homed.errors import BundleError, DownloadError, NoSpaceError, UpdateError
from homed.http_client import WrongUrlError
from homed.updates.rate import Bucket

log = logging.getLogger(__name__)

T = TypeVar("T")
# Told how many bytes are here, those of an earlier call too, and how many the whole has where the server said.
Progress = Callable[[int, int | None], None]

_MIB = 1024 * 1024
_CHUNK = 256 * 1024
_URL = re.compile(r"(?i)https?://([^\s/?#\\]*@)?(\[[0-9a-f:.]+\]|[^\s/?#\\@:[\]]+)(:[0-9]{1,5})?([/?#][^\s\\]*)?")
_ETAG = re.compile(r'"[\x21\x23-\x7e]{0,512}"')
_DATE = re.compile(r"[A-Za-z0-9,: +-]{8,64}")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
_SECRET = re.compile(r"([?&][^=&#]*(?:token|sig|secret|passw|credential|api_?key)[^=&#]*=)[^&#]*", re.IGNORECASE)


class Limits(msgspec.Struct, frozen=True):
    """Sizes in bytes, `rate` in bytes a second (0: none), times in seconds. `reserve` stays free on the disk.

    `attempts` in a row may bring nothing, each may stand still for `stall`. A power cut may cost `sync_every`.
    """

    max_size: int
    rate: int = 0
    reserve: int = 64 * _MIB
    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    stall: float = 60.0
    sync_every: int = 8 * _MIB


class Fetched(msgspec.Struct, frozen=True):
    """A bundle as it is on the disk; `sha256` in hexadecimal."""

    path: Path
    size: int
    sha256: str


class Known(msgspec.Struct, frozen=True):
    """What a part is of. `validator` is a strong ETag or a date, `size` that of the whole; `synced` bytes are sure."""

    source: str
    validator: str = ""
    size: int | None = None
    synced: int = 0


class TryAgainError(Exception):
    """This try failed, another may not. `anew`: from the first byte; `after`: not before so many seconds."""

    def __init__(self, message: str, *, anew: bool = False, after: float = 0.0):
        super().__init__(message)
        self.anew = anew
        self.after = after


async def fetch(
    url: str,
    target: Path,
    limits: Limits,
    *,
    sha256: str | None = None,
    progress: Progress = lambda received, size: None,
    session: aiohttp.ClientSession | None = None,
) -> Fetched:
    """Bring what is at `url` to `target`, whose folder is there; go on where an earlier call was ended.

    After a DownloadError or a cancellation what came so far is kept for the next call; after NoSpaceError and
    BundleError (UPDATE_TOO_LARGE, UPDATE_CHECKSUM) it is not. `target` is there whole or not at all.
    """
    if (why := wrong(url)) is not None:
        raise DownloadError(f"{shown(url)}: {why}")
    part = _Part(target, Known(shown(url)), limits)
    try:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_on_disk, part.close)
            await _on_disk(part.open)
            if session is None:
                session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
            await _Download(url, part, progress, session, limits).run()
            await _on_disk(part.save)
            digest, at = hashlib.sha256(), 0
            while length := await _on_disk(partial(part.hash_on, digest, at)):
                at += length
            found = digest.hexdigest()
            if sha256 is not None and found != sha256.lower():
                raise BundleError(f"{shown(url)} has the sha256 {found}, not {sha256}", code="UPDATE_CHECKSUM")
            await _on_disk(part.take_place)
    except (NoSpaceError, BundleError):
        await _on_disk(partial(discard, target))
        raise
    return Fetched(target, at, found)


def discard(target: Path) -> None:
    """Remove what is left of a download that did not become `target`. It blocks, for a moment."""
    part, note = _paths(target)
    for path in (note.with_name(f".{note.name}.new"), note, part):
        path.unlink(missing_ok=True)


def _paths(target: Path) -> tuple[Path, Path]:
    return target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")


def shown(url: str) -> str:
    """The URL as it may be shown and logged: without its user and password, and without what signs its query."""
    # A slash in a password ends the host before its time: then all that stands before the last @ may be of it.
    user = r"//.*@" if wrong(url) else r"//[^/?#]*@"
    text = _SECRET.sub(r"\1***", re.sub(user, "//***@", url, count=1, flags=re.DOTALL))
    return "".join(each if each.isprintable() else "?" for each in text)


def wrong(url: str) -> str | None:
    """Why nothing can be fetched from there, where the URL alone says so."""
    return None if url.isprintable() and _URL.fullmatch(url) else "it is not a URL of http or https"


def understand(status: int, headers: Mapping[str, str], at: int, known: Known) -> tuple[Known, int, int | None]:
    """What the answer to "all from `at` on, if it is of what is known" is of, from which byte, and up to which."""
    codings = {headers.get(name, "").strip().lower() for name in ("Content-Encoding", "Transfer-Encoding")}
    if status in (200, 206) and codings - {"", "identity", "chunked"}:
        raise DownloadError(f"{known.source} is sent packed, though it was asked for as it is")
    if status == 200 and "Content-Range" in headers:  # some say 200 for a part
        found = _RANGE.fullmatch(headers["Content-Range"].strip())
        if at and found is not None and int(found[1]) == at:
            return _rest(headers, at, known)
        if found is None or int(found[1]) or found[3] != str(int(found[2]) + 1):
            raise TryAgainError("the server sends a part as the whole", anew=True)
    if status == 200:
        length, tag, date = (headers.get(name, "") for name in ("Content-Length", "ETag", "Last-Modified"))
        size = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
        # It is sent back: what is not fit for that is as good as none.
        validator = tag if _ETAG.fullmatch(tag) else date if _DATE.fullmatch(date) else ""
        return Known(known.source, validator, size), 0, size
    if status == 206 and at:
        return _rest(headers, at, known)
    if status == 416 and at:
        raise TryAgainError("the server has no more than what is here", anew=True)
    said = f"the server answered {status}"
    if status >= 500 or status in (408, 429):
        raise TryAgainError(said, after=_seconds(headers.get("Retry-After", "").strip()))
    raise DownloadError(f"{known.source}: {said}", details={"status": status})


def _rest(headers: Mapping[str, str], at: int, known: Known) -> tuple[Known, int, int | None]:
    match = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if match is None or int(match[1]) != at or int(match[2]) < at:
        raise TryAgainError("the server sends another part than was asked for", anew=True)
    end = int(match[2]) + 1
    size = known.size if match[3] == "*" else int(match[3])
    validator = headers.get("ETag" if known.validator.startswith('"') else "Last-Modified", known.validator)
    if validator != known.validator or size != (known.size or size) or end > (size or end):
        raise TryAgainError("the server has something else there now", anew=True)
    return replace(known, size=size), at, end


def _seconds(retry_after: str) -> float:
    if re.fullmatch(r"[0-9]{1,9}", retry_after):
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
        return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0


@dataclass
class _Part:
    """The part on the disk: `at` bytes of what is `known`. All of it blocks."""

    target: Path
    known: Known
    limits: Limits
    at: int = 0
    restarts: int = 0
    file: int = -1

    def open(self) -> None:
        """Take up what an earlier call left, as far as it is sure to be on the disk."""
        path, note = _paths(self.target)
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        left = Known("")
        with suppress(OSError, ValueError, RecursionError):
            left = msgspec.json.decode(note.read_bytes(), type=Known)
        if left.source == self.known.source and left.validator and 0 < left.synced <= os.fstat(self.file).st_size:
            # Of a whole, the last byte is asked for anew: so the server says whether it has the same there still.
            self.known, self.at = left, left.synced - (left.synced == left.size)
            os.ftruncate(self.file, self.at)
        else:
            self.begin(self.known)

    def begin(self, known: Known) -> None:
        """Begin anew. What is noted changes first: it must never count bytes that are gone."""
        self.restarts += self.at > 0
        self.at, self.known = 0, known
        self.save()
        os.ftruncate(self.file, 0)

    def room(self, size: int | None = None) -> None:
        """NoSpaceError where a whole of that size, or any more of an unknown one, would not leave the reserve."""
        disk = os.fstatvfs(self.file)
        free, needed = disk.f_bavail * disk.f_frsize, max(0, (size or 0) - self.at) + self.limits.reserve
        if free < needed:
            raise NoSpaceError(f"{self.target.parent} has {free} bytes free, and {needed} are needed")

    def write(self, data: bytearray) -> None:
        left = memoryview(data)
        while left:
            written = os.pwrite(self.file, left, self.at)
            self.at += written
            left = left[written:]
        self.room()
        if self.at - self.known.synced >= self.limits.sync_every:
            self.save()

    def save(self) -> None:
        os.fsync(self.file)
        # What is read again is to come from the disk, and what else is cached is to stay so.
        os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_DONTNEED)
        self.known = replace(self.known, synced=self.at)
        atomic.write(_paths(self.target)[1], msgspec.json.encode(self.known))

    def hash_on(self, digest: "hashlib._Hash", at: int) -> int:
        """Hash the next stretch from `at` on, as the disk has it; how long it is."""
        piece = os.pread(self.file, 4 * _MIB, at)
        digest.update(piece)
        return len(piece)

    def take_place(self) -> None:
        path, note = _paths(self.target)
        os.replace(path, self.target)
        note.unlink(missing_ok=True)
        atomic.sync_folder(self.target.parent)

    def close(self) -> None:
        # What cannot be saved, the next call does not count on: that is all.
        with suppress(OSError):
            if self.known.synced < self.at:
                self.save()
        if self.file >= 0:
            os.close(self.file)


class _Download:
    """Requests, one after another, until the part is the whole."""

    def __init__(self, url: str, part: _Part, progress: Progress, session: aiohttp.ClientSession, limits: Limits):
        self._url, self._part, self._progress, self._session, self._limits = url, part, progress, session, limits
        self._bucket = Bucket(limits.rate, time.monotonic()) if limits.rate else None
        self._told_at = 0.0

    async def run(self) -> None:
        """To its end, or a DownloadError: `failures` tries in a row brought nothing."""
        failures, part, limits = 0, self._part, self._limits
        while True:
            before = part.at
            try:
                if await self._once():
                    return
                continue
            except (aiohttp.TooManyRedirects, aiohttp.InvalidURL, WrongUrlError, UnicodeError) as error:
                raise DownloadError(f"{part.known.source} leads nowhere: {type(error).__name__}") from error
            except TryAgainError as error:
                trouble = error
            except TimeoutError:
                trouble = TryAgainError(f"nothing came for {limits.stall:g} s")
            except (aiohttp.ClientError, OSError) as error:
                # The disk's errors come as UpdateError: these are the network's.
                trouble = TryAgainError(f"{type(error).__name__} {getattr(error, 'strerror', None) or ''}".rstrip())
            failures = 0 if part.at > before else failures + 1
            if trouble.anew:
                await _on_disk(partial(part.begin, Known(part.known.source)))
            # A server that has homed begin anew again and again brings nothing either.
            if max(failures, part.restarts) >= limits.attempts:
                raise DownloadError(f"{part.known.source}: {trouble}; that was the last try") from trouble
            log.warning("%s: %s (%d bytes are here); it is tried again", part.known.source, trouble, part.at)
            wait = max(trouble.after, limits.first_wait * 2.0 ** min(max(0, failures - 1), 32))
            await asyncio.sleep(min(wait, limits.longest_wait))

    async def _once(self) -> bool:
        """One request and what it brings; whether the whole is there then."""
        part = self._part
        if part.at and not part.known.validator:
            await _on_disk(partial(part.begin, part.known))
        ranged = {"Range": f"bytes={part.at}-", "If-Range": part.known.validator} if part.at else {}
        async with asyncio.timeout(self._limits.stall):
            response, hops = await http_client.request(
                self._session, "GET", self._url,
                headers={"Accept-Encoding": "identity", **ranged}, timeout=aiohttp.ClientTimeout(),
                max_redirects=5, auto_decompress=False, read_bufsize=_CHUNK,
            )  # fmt: skip
        try:
            if ("https", "http") in pairwise(hop.scheme for hop in hops):
                raise DownloadError(f"{part.known.source} is sent on from https to http")
            known, begin, end = understand(response.status, response.headers, part.at, part.known)
            self._allow(known.size or 0)
            if begin:
                part.known = known
            else:
                await _on_disk(partial(part.begin, known))
            await _on_disk(partial(part.room, known.size))
            await self._take(response.content, end)
        finally:
            response.close()
        self._tell(part.at, surely=True)
        return part.known.size in (None, part.at)

    async def _take(self, content: aiohttp.StreamReader, end: int | None) -> None:
        """Write a body to the part as it comes, up to where it breaks off."""
        part, waiting, at = self._part, bytearray(), self._part.at
        most = max(1024, min(_CHUNK, self._limits.rate // 4)) if self._limits.rate else _CHUNK
        try:
            while True:
                async with asyncio.timeout(self._limits.stall):
                    piece = await content.read(most)
                if not piece:
                    break
                waiting += piece
                at += len(piece)
                self._allow(at)
                if len(waiting) >= _CHUNK:
                    data, waiting = waiting, bytearray()
                    await _on_disk(partial(part.write, data))
                self._tell(at)
                if self._bucket is not None:
                    await asyncio.sleep(self._bucket.wait(len(piece), time.monotonic()))
        finally:
            await _on_disk(partial(part.write, waiting))
        if end is not None and at != end:
            raise TryAgainError("the server sent more or less than it said", anew=at > end)

    def _allow(self, size: int) -> None:
        if size > self._limits.max_size:
            said = f"{self._part.known.source} has more than the {self._limits.max_size} bytes that are allowed"
            raise BundleError(said, code="UPDATE_TOO_LARGE")

    def _tell(self, at: int, *, surely: bool = False) -> None:
        now = time.monotonic()
        if surely or now - self._told_at >= 0.1:
            self._told_at = now
            self._progress(at, self._part.known.size)


async def _on_disk(work: Callable[[], T]) -> T:
    """`work` in a thread, to its end though this be cancelled: nothing may write to a file that was given up."""
    running = asyncio.get_running_loop().run_in_executor(None, work)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    try:
        done = running.result()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError("the disk is full") from error
        raise UpdateError(f"the download cannot be kept: {error}") from error
    if cancelled is not None:
        raise cancelled
    return done
