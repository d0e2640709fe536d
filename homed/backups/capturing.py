"""homed's part while a backup is made: hooks, freezing and stopping before a group is read, and all of it undone."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from homed.backups.ports import Capture, Hook, Mode, Services
from homed.errors import BackupError, HomedError, NotFoundError

log = logging.getLogger(__name__)
Kill = Callable[[int, str], Awaitable[None]]
_STARTS_WITHIN = 60.0
_WHY = "it is being backed up"


class Capturing:
    """The services of one backup. `kill` ends a hook that is past its deadline: homed may not, the worker may."""

    def __init__(self, services: Services, captures: Sequence[Capture], warn: Callable[[str], None], kill: Kill):
        self._services = services
        self._captures = {capture.service: capture for capture in captures}
        self._warn = warn
        self._kill = kill
        self._begun: dict[str, Capture] = {}

    async def begin(self, data: Mapping[str, object]) -> Mapping[str, object]:
        """Prepare the services of a group. Where one fails, what was done is undone, and the backup fails."""
        names = _names(data)
        captures = [self._captures[name] for name in names if self._is_up(name)]
        self._begun.update({capture.service: capture for capture in captures})
        try:
            for capture in captures:
                if capture.before is not None:
                    await self._hook(capture.service, capture.before)
            await self._services.hold([c.service for c in captures if c.mode is Mode.STOPPED], _WHY)
            await self._services.pause([c.service for c in captures if c.mode is Mode.PAUSED])
        except HomedError:
            await self.end({"services": names})
            raise
        return {}

    async def end(self, data: Mapping[str, object]) -> Mapping[str, object]:
        """Let them go on. That a hook afterwards fails is told, and does not undo the backup."""
        captures = [self._begun.pop(name) for name in _names(data) if name in self._begun]
        frozen = [c.service for c in captures if c.mode is Mode.PAUSED]
        stopped = [c.service for c in captures if c.mode is Mode.STOPPED]
        await self._anyway(", ".join(frozen), self._services.resume(frozen))
        await self._anyway(", ".join(stopped), self._services.release(stopped))
        for capture in captures:
            if capture.after is not None:
                await self._anyway(capture.service, self._after(capture, capture.after))
        return {}

    async def _anyway(self, names: str, work: Awaitable[None]) -> None:
        """What goes wrong with one must not keep the others frozen."""
        try:
            await work
        except HomedError as error:
            self._warn(f"{names}, after the capture: {error.message}")

    async def _after(self, capture: Capture, hook: Hook) -> None:
        if capture.mode is Mode.STOPPED:
            await self._services.settle([capture.service], _STARTS_WITHIN)
        await self._hook(capture.service, hook)

    async def end_all(self) -> None:
        """Whatever ended the backup: nothing stays frozen, stopped or prepared."""
        if self._begun:
            await self.end({"services": list(self._begun)})

    def _is_up(self, name: str) -> bool:
        if self._services.container(name) is not None:
            return True
        self._warn(f"{name} does not run any more: it is captured as it lies there")
        return False

    async def _hook(self, name: str, hook: Hook) -> None:
        container = self._services.container(name)
        try:
            pid = await self._services.run_hook(name, hook)
        except NotFoundError:
            self._warn(f"{name} went away before its hook ran")
            return
        if pid is None:
            return
        if container is not None:
            await self._kill(pid, container)
        raise BackupError(
            f"{name}: its hook had not ended after {hook.timeout:g} s, and was killed", code="BACKUP_HOOK_FAILED"
        )


def _names(data: Mapping[str, object]) -> list[str]:
    names = data.get("services")
    return [str(name) for name in names] if isinstance(names, list | tuple) else []
