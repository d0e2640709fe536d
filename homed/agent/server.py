"""The homed that a worker works for: its calls, and what becomes of them."""

import asyncio
import random
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec

from homed import http_client
from homed.errors import ConfigError, HomedError

_CALL = 30.0
_STALL = 60.0
_CHUNK = 256 * 1024
_MOST_ANSWER = 8 << 20
_DOWNLOAD_TRIES = 10
_REDIRECTS = 10
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.IGNORECASE)
_NOT_ASSIGNED = "Worker is not assigned to this job"


class AwayError(HomedError):
    """The server cannot be reached, or cannot do it now: later it may."""

    code = "SERVER_AWAY"
    status = 503
    grpc = "UNAVAILABLE"


class RefusedError(HomedError):
    """The server will never do it: `answer` is the HTTP status."""

    code = "SERVER_REFUSED"
    status = 502
    grpc = "FAILED_PRECONDITION"

    def __init__(self, answer: int, message: str):
        super().__init__(message)
        self.answer = answer


class KeyRefusedError(HomedError):
    """The server does not take the key, or wants one."""

    code = "KEY_REFUSED"
    status = 401
    grpc = "UNAUTHENTICATED"


class Answer(NamedTuple):
    status: int
    body: Mapping[str, Any]


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row: twice as long each time, half a minute at most, never alike."""
    longest: float = min(30.0, 0.5 * 2 ** min(failures, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311


class Server:
    """`url` is where it listens. Use it within `async with`."""

    def __init__(self, url: str, key: str | None = None, authority: Path | None = None):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"'{url}' is no address of a server: it must be like http://board:8080")
        self.url = url.rstrip("/") + "/"
        self._headers = {} if key is None else {"X-API-Key": key}
        self._tls = _context(authority) if authority is not None else True
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Server":
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        params: Sequence[tuple[str, str]] = (),
        patience: float = _CALL,
        also: Sequence[int] = (),
    ) -> Answer:
        """A call that is answered with 200, 202 or one of `also`. AwayError, RefusedError, KeyRefusedError."""
        assert self._session is not None
        try:
            async with self._session.request(
                method, http_client.exact(urljoin(self.url, path)), json=body, params=list(params),
                headers=self._headers, ssl=self._tls,
                timeout=aiohttp.ClientTimeout(total=patience), allow_redirects=False,
            ) as response:  # fmt: skip
                data = await response.content.read(_MOST_ANSWER)
                while not response.content.at_eof() and len(data) < _MOST_ANSWER:
                    data += await response.content.read(_MOST_ANSWER - len(data))
                return _judged(Answer(response.status, _decoded(data)), also)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise AwayError(f"{self.url}: {error or 'it does not answer'}") from error

    async def download(self, url: str, target: Path, most: int) -> None:
        """Into a file, taken up again where it broke off. AwayError, RefusedError where it cannot be had."""
        failures, version = 0, _Version()
        while True:
            before = _size(target)
            try:
                await self._fetch(urljoin(self.url, url), target, most, version)
            except (aiohttp.InvalidURL, http_client.WrongUrlError) as error:
                raise RefusedError(400, f"{url} is no address") from error
            except aiohttp.TooManyRedirects as error:
                raise RefusedError(error.status, f"{url} leads elsewhere") from error
            except (aiohttp.ClientError, TimeoutError, ConnectionError, AwayError) as error:
                failures = 0 if _size(target) > before else failures + 1
                if failures >= _DOWNLOAD_TRIES:
                    raise AwayError(f"{url}: {error or 'it does not come'}") from error
                await asyncio.sleep(pause(failures))
            else:
                return

    async def _fetch(self, url: str, target: Path, most: int, version: "_Version") -> None:
        """Fetch the missing part of this version, or all of another one. Raises: AwayError, if it stays incomplete."""
        assert self._session is not None
        own = _origin(url) == _origin(self.url)
        have = _size(target)
        headers = {"Accept-Encoding": "identity"} | (self._headers if own else {})
        if have and version.tag:
            headers |= {"Range": f"bytes={have}-", "If-Range": version.tag}
        elif have:
            have = await asyncio.to_thread(_truncate, target)
        response, _ = await http_client.request(
            self._session, "GET", url, headers=headers, ssl=self._tls if own else True,
            max_redirects=0 if own else _REDIRECTS,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CALL, sock_read=_STALL),
        )  # fmt: skip
        async with response:
            if response.status == 416 and have:
                if version.size == have and response.headers.get("Content-Range", "") == f"bytes */{have}":
                    return
                await self._begin_anew(target, version)
            _judged(Answer(response.status, {"error": response.reason}), (206,))
            if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
                raise RefusedError(502, f"{url} is sent compressed, although uncompressed data was requested")
            part = _part(response.headers.get("Content-Range"), have, version, response.headers.get("ETag", ""))
            if part is None and (response.status == 206 or "Content-Range" in response.headers):
                # The status alone is not enough: the body may be neither the missing part nor the whole file.
                await self._begin_anew(target, version)
            if part is None or not have:
                have = await asyncio.to_thread(_truncate, target)
                version.tag = _strong(response.headers.get("ETag", ""))
            version.size = part if part is not None else response.content_length
            async for chunk in response.content.iter_chunked(_CHUNK):
                have += len(chunk)
                if have > most:
                    raise RefusedError(413, f"it has more than {most} bytes")
                await asyncio.to_thread(_append, target, chunk)
            if part is not None and have != part:
                raise AwayError("the server sent another part than its headers describe")

    async def _begin_anew(self, target: Path, version: "_Version") -> NoReturn:
        await asyncio.to_thread(_truncate, target)
        version.tag, version.size = "", None
        raise AwayError("the server sends another part than requested")


@dataclass
class _Version:
    """The version of a file being downloaded: its ETag, and its full size in bytes if the server sent it."""

    tag: str = ""
    size: int | None = None


def _part(content_range: str | None, have: int, version: _Version, tag: str) -> int | None:
    """Return the full size in bytes from Content-Range; None if that is missing or not for the missing part."""
    found = _RANGE.fullmatch((content_range or "").strip())
    if found is None or int(found[1]) != have or int(found[2]) + 1 != int(found[3]):
        return None
    if have and ((tag and tag != version.tag) or (version.size is not None and version.size != int(found[3]))):
        return None
    return int(found[3])


def _strong(tag: str) -> str:
    return "" if tag.startswith("W/") else tag


def _judged(answer: Answer, also: Sequence[int]) -> Answer:
    status, said = answer.status, str(answer.body.get("error", ""))
    if status in (200, 202) or status in also:
        return answer
    if status == 401 or (status == 403 and said != _NOT_ASSIGNED):
        raise KeyRefusedError(said or f"it answers with {status}")
    if 400 <= status < 500 and status not in (408, 421, 425, 429):
        raise RefusedError(status, said or f"it answers with {status}")
    raise AwayError(said or f"it answers with {status}")


def _decoded(data: bytes) -> Mapping[str, Any]:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _context(authority: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise ConfigError(f"{authority}: cannot be used as the authority: {error}") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _truncate(path: Path) -> int:
    path.write_bytes(b"")
    return 0


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
