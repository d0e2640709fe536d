"""The serving of the API: by the configuration, and at least for the board itself."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from homed.access.keys import Keys
from homed.api import certificates, closed, listeners
from homed.api.listeners import Listeners
from homed.config import Config
from homed.errors import ConfigError
from homed.health import Component, Level
from homed.settings import Settings

log = logging.getLogger(__name__)
_STORE_DEADLINE = 30.0


class Serving:
    """`passed` are the sockets that systemd listens on. `has_lost_keys` tells whether keys may be missing because the
    state is not what it should be.
    """

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        serves: Listeners,
        state: Path,
        passed: Sequence[socket.socket],
        has_lost_keys: Callable[[], bool],
    ):
        self._settings = settings
        self._keys = keys
        self._listeners = serves
        self._state = state
        self._passed = passed
        self._has_lost_keys = has_lost_keys
        self._tls: ssl.SSLContext | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._trouble = ""

    def health(self) -> Component:
        if self._trouble:
            return Component(Level.DEGRADED, f"only the board itself is served: {self._trouble}")
        return Component(Level.HEALTHY)

    async def start(self, runner: Any) -> None:
        """Bind and listen. What the API stored about that must not stop a start, and neither must keys that were lost
        with the state. ConfigError for what the owner's file, the environment or a flag says.
        """
        self._loop = asyncio.get_running_loop()
        try:
            await self._listen(runner, self._settings.current, self._passed)
        except (ConfigError, OSError) as error:
            said = error.message if isinstance(error, ConfigError) else str(error)
            if self._settings.drop(closed.SETTINGS, f"what the API stored about listening is not in force: {said}"):
                log.error("%s", self._settings.trouble)  # noqa: TRY400  its message says all
                await self.start(runner)
                return
            if isinstance(error, ConfigError) and not self._has_lost_keys():
                raise
            self._trouble = said
            log.error("Only the board itself is served: %s", said)  # noqa: TRY400  its message says all
            await self._listen(runner, closed.config(self._settings.current), closed.sockets(self._passed))

    async def _listen(self, runner: Any, config: Config, passed: Sequence[socket.socket]) -> None:
        listeners.check_exposure(config, have_key=self._keys.any(), sockets=passed)
        self._tls = certificates.context(config.api.tls, self._state, config.api.hosts)
        await self._listeners.start(runner, config, passed, self._tls, self._state / "control.sock")

    def reload(self) -> None:
        """Take a renewed certificate. ConfigError."""
        if self._tls is not None:
            api = self._settings.current.api
            certificates.load(self._tls, api.tls, self._state, api.hosts)

    async def renew(self) -> None:
        """Load the certificate anew each day, while there is one."""
        if self._tls is not None:
            await certificates.renew(self._tls, lambda: self._settings.current.api, self._state)

    def check_exposure(self, config: Config) -> None:
        """Refuse a configuration that would let others in while there is no key: from a thread of the settings.

        A key may have been made on the command line, or restored, since the keys were last looked at.
        """
        if not self._keys.any() and self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._keys.load(), self._loop).result(_STORE_DEADLINE)
        listeners.check_exposure(config, have_key=self._keys.any())
