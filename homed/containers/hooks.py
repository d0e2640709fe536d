"""A command that a service's owner wants run in its container before or after its data is captured."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from homed.containers.engine import Engine
from homed.containers.frames import Line, Lines
from homed.containers.streams import Streams
from homed.errors import BackupError, ConflictError, HomedError
from homed.model import Hook

_KEPT = 2048  # bytes of each stream
_ASKS_EVERY = 0.1


class Hooks:
    def __init__(self, engine: Engine, streams: Streams):
        self._engine = engine
        self._streams = streams

    async def run(self, service: str, container: str, hook: Hook) -> int | None:
        """None where it ended with 0; its process's id on the board where it still runs after its deadline.

        BackupError (BACKUP_HOOK_FAILED) where it failed; NotFoundError where the container is gone.
        """
        command = ("/bin/sh", "-c", hook.command) if isinstance(hook.command, str) else tuple(hook.command)
        tail = _Tail()
        try:
            exec_id = await self._engine.prepare_exec(container, command)
            try:
                async with asyncio.timeout(hook.timeout):
                    async with self._streams.exec(exec_id) as chunks:
                        await tail.read(chunks)
                    # It may have closed its output and go on.
                    state = await self._until(exec_id, lambda now: not now.get("Running"))
            except TimeoutError:
                # Of one that is just being started, the engine does not know the process yet.
                state = await self._until(exec_id, lambda now: now.get("Pid") or not now.get("Running"))
        except ConflictError as error:  # it does not run, or is paused
            raise _failed(service, error.message) from error
        except HomedError as error:
            if error.code == "DOCKER_ERROR":
                raise _failed(service, error.message) from error
            raise
        if state.get("Running"):
            return int(state["Pid"])
        if state.get("ExitCode") != 0:
            said = tail.text()
            raise _failed(service, f"it ended with exit code {state.get('ExitCode')}" + (f": {said}" if said else ""))
        return None

    async def _until(self, exec_id: str, known: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Ask until the engine knows that of it: there is no event for a command."""
        while True:
            state = await self._engine.inspect_exec(exec_id)
            if known(state):
                return state
            await asyncio.sleep(_ASKS_EVERY)


class _Tail:
    """The end of what a command says. Its errors have a place of their own: much output must not push them out."""

    def __init__(self) -> None:
        self._lines = Lines(tty=False)
        self._kept = {"stdout": b"", "stderr": b""}

    async def read(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            for line in self._lines.feed(chunk):
                self._keep(line)
        for line in self._lines.finish():
            self._keep(line)

    def _keep(self, line: Line) -> None:
        kept = self._kept.get(line.stream, b"")
        self._kept[line.stream] = (kept + line.text + b"\n")[-_KEPT:]

    def text(self) -> str:
        return (self._kept["stdout"] + self._kept["stderr"]).decode(errors="replace").strip()


def _failed(service: str, why: str) -> BackupError:
    return BackupError(f"{service}: its hook failed: {why}", code="BACKUP_HOOK_FAILED", details={"service": service})
