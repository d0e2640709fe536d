"""Docker Engine's streams (events, logs), read by aiohttp on the event loop.

docker-py would hold a thread for each follower and parse frames one read at a time: see docs/architecture.md.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp

from homed.containers.reachability import unreachable
from homed.errors import ConflictError, EngineError, EngineUnavailableError, NotFoundError

# Without these, the checks that containers run would wake homed at every beat.
_EVENTS = (
    "create", "start", "die", "kill", "stop", "restart", "pause", "unpause", "oom", "destroy", "rename", "update",
    "health_status",
)  # fmt: skip
_LONGEST_EVENT = 1024 * 1024
# Seconds for a response to begin and, unless it is followed, to continue; seconds of silence before a liveness check.
ANSWER_TIMEOUT = 15.0
_SILENCE = 30.0


class Streams:
    """Opens streams at the engine's address. Close it with `await close()`."""

    def __init__(self, address: str):
        self._address = address
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def events(self) -> "AsyncIterator[AsyncIterator[dict[str, Any]]]":
        """Container events from now on. EngineUnavailableError where it cannot be reached, or when it ends."""
        filters = json.dumps({"type": ["container"], "event": list(_EVENTS)})
        async with self._get("/events", {"filters": filters}) as response:
            yield self._parsed(response)

    async def _parsed(self, response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
        pending = b""
        try:
            async for chunk in response.content.iter_any():
                *lines, pending = (pending + chunk).split(b"\n")
                if len(pending) > _LONGEST_EVENT:
                    raise EngineError("an event of Docker Engine has no end")
                for line in lines:
                    if line.strip():
                        yield _event(line)
        except (aiohttp.ClientError, OSError) as error:
            raise EngineUnavailableError(f"Docker Engine's events broke off: {error}") from error
        raise EngineUnavailableError("Docker Engine ended its events")

    @asynccontextmanager
    async def logs(self, container: str, parameters: Mapping[str, str]) -> "AsyncIterator[AsyncIterator[bytes]]":
        """A container's log as the engine gives it, chunk by chunk. NotFoundError, EngineError."""
        async with self._get(f"/containers/{container}/logs", parameters) as response:
            yield self._chunks(response, follow=parameters.get("follow") == "1")

    @asynccontextmanager
    async def exec(self, exec_id: str) -> "AsyncIterator[AsyncIterator[bytes]]":
        """Run what was prepared in a container, and follow its output. Leaving does not end it."""
        body = {"Detach": False, "Tty": False}
        async with self._ask("POST", f"/exec/{exec_id}/start", json=body) as response:
            yield self._chunks(response, follow=True)

    async def _chunks(self, response: aiohttp.ClientResponse, *, follow: bool) -> AsyncIterator[bytes]:
        try:
            while chunk := await self._chunk(response, follow):
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise EngineUnavailableError(f"Docker Engine's stream broke off: {error}") from error

    async def _chunk(self, response: aiohttp.ClientResponse, follow: bool) -> bytes:
        """Return the next chunk, empty at the end. Wait on a silent stream as long as the engine answers others."""
        if not follow:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    return await response.content.readany()
            except TimeoutError as error:
                message = f"Docker Engine did not go on with its answer for {ANSWER_TIMEOUT:.0f} s"
                raise EngineUnavailableError(message) from error
        reading = asyncio.ensure_future(response.content.readany())
        try:
            while not (await asyncio.wait({reading}, timeout=_SILENCE))[0]:
                async with self._get("/_ping", {}) as answer:
                    await self._chunk(answer, follow=False)
            return reading.result()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _get(self, path: str, parameters: Mapping[str, str]) -> "AbstractAsyncContextManager[aiohttp.ClientResponse]":
        return self._ask("GET", path, params=parameters)

    @asynccontextmanager
    async def _ask(self, method: str, path: str, **more: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        session = self._open()
        base = "http://docker" if self._address.startswith("unix://") else self._address.replace("tcp://", "http://", 1)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                response = await session.request(method, f"{base}{path}", **more)
        except TimeoutError as error:
            raise EngineUnavailableError(f"Docker Engine did not answer within {ANSWER_TIMEOUT:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(self._address) from error
        async with response:
            if response.status >= 400:
                text = (await response.content.read(65_536)).decode(errors="replace")
                message = _message(text)
                if response.status == 404:
                    raise NotFoundError(message, code="CONTAINER_NOT_FOUND")
                if response.status == 501:
                    message = f"the container's log cannot be read, as its log driver keeps none: {message}"
                    raise ConflictError(message, code="LOG_NOT_KEPT")
                if response.status == 409:
                    raise ConflictError(message, code="DOCKER_ERROR")
                raise EngineError(message)
            yield response

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            unix = self._address.startswith("unix://")
            connector: aiohttp.BaseConnector = (
                aiohttp.UnixConnector(self._address.removeprefix("unix://"), limit=0)
                if unix
                else aiohttp.TCPConnector(limit=0)
            )
            timeout = aiohttp.ClientTimeout(total=None, connect=10)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=256 * 1024)
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EngineError("an event of Docker Engine is not JSON") from error
    if not isinstance(event, dict):
        raise EngineError("an event of Docker Engine is not an object")
    return event


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip() or "Docker Engine refused without a word"
