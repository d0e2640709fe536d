"""The owner's own checks: a command that must exit with 0, or an address that must answer with 2xx or 3xx."""

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress

import aiohttp

from homed import http_client
from homed.config import UpdateCheck
from homed.updates.judgement import Finding

_SAID = 300


async def run(checks: Iterable[UpdateCheck]) -> dict[str, Finding]:
    """All of them at once, by the name of their probe; each has its time-out."""
    wanted = list(checks)
    found = await asyncio.gather(*(_one(check) for check in wanted))
    return {f"check:{check.name}": finding for check, finding in zip(wanted, found, strict=True)}


async def _one(check: UpdateCheck) -> Finding:
    try:
        async with asyncio.timeout(check.timeout):
            if check.url is not None:
                return Finding(await _http(check.url))
            return Finding(await _command(check.command))
    except TimeoutError:
        return Finding(f"did not end within {check.timeout:g} s")
    except (OSError, aiohttp.ClientError, ValueError) as error:
        return Finding(f"{type(error).__name__}: {error}")


async def _http(url: str) -> str | None:
    asked = http_client.exact(url)
    async with aiohttp.ClientSession() as session, session.get(asked, allow_redirects=False) as answer:
        return None if 200 <= answer.status < 400 else f"answered {answer.status}"


async def _command(command: Iterable[str]) -> str | None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said = await _read(process)
        code = await process.wait()
    except BaseException:
        # With it what it started, which may hold its output open after its own end: a shell's children would go on.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if code == 0:
        return None
    return f"exited with {code}" + (f": {said}" if said else "")


async def _read(process: asyncio.subprocess.Process) -> str:
    """The end of what it says; the rest is read and dropped, so that it never waits for a reader."""
    assert process.stdout is not None
    kept = b""
    while chunk := await process.stdout.read(65536):
        kept = (kept + chunk)[-_SAID:]
    return kept.decode(errors="replace").strip()
