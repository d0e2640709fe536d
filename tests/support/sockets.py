"""Following homed's WebSockets beside a test that blocks: a thread with a loop of its own gathers what comes."""

import asyncio
import json
import threading
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.support.api import Api
from tests.support.wait import until


class Follower:
    """Gathers the messages of a socket, texts as they come; `code` is how it was closed, None while it is open."""

    def __init__(self, api: Api, path: str):
        self.messages: list[str] = []
        self.code: int | None = None
        self._url = f"{api.url}{path}"
        self._headers = api.headers
        self._opened = threading.Event()
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in list(self.messages)]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def await_event(self, kind: str, **data: object) -> dict[str, Any]:
        """The first event of this type whose data has these values."""

        def look() -> dict[str, Any] | None:
            fits = (e for e in self.of(kind) if all(e["data"].get(k) == v for k, v in data.items()))
            return next(fits, None)

        found = until(f"the event {kind} {data}", look)
        assert found is not None
        return found

    def __enter__(self) -> Self:
        self._thread.start()
        self._opened.wait(20)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        socket = self._socket
        if socket is not None and self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(socket.close(), self._loop)
        self._thread.join(20)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._follow())
        except BaseException as error:
            self._failure = error
        finally:
            self._opened.set()
            self._loop.close()

    async def _follow(self) -> None:
        async with (
            aiohttp.ClientSession(headers=self._headers) as session,
            session.ws_connect(self._url, max_msg_size=2**26) as socket,
        ):
            self._socket = socket
            self._opened.set()
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self.messages.append(message.data)
            self.code = socket.close_code
