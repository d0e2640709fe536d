"""The journal of a boot that failed, kept beside the update that it belongs to."""

import asyncio
import logging
from pathlib import Path

from homed import atomic

log = logging.getLogger(__name__)
_MOST = 4 << 20
_PATIENCE = 60.0


async def keep(path: Path, boot: str) -> bool:
    """The newest 4 MiB of a boot's journal (`0` is this one, `-1` the one before, or an id) as text; False where none.

    Bounded in memory by reading newest first.
    """
    try:
        text = await _read(boot)
        if not text:
            return False
        await asyncio.to_thread(atomic.write, path, text)
    except (OSError, TimeoutError) as error:
        log.warning("The journal of boot %s could not be kept: %s", boot, error)
        return False
    return True


async def _read(boot: str) -> bytes:
    command = ("journalctl", "--quiet", "--no-pager", "--reverse", "--output=short-iso-precise", f"--boot={boot}")
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    read = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE):
            while len(read) < _MOST and (chunk := await process.stdout.read(65536)):
                read += chunk
            if len(read) < _MOST:
                await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    # Of what is cut off the last line is not whole.
    whole, _, _ = bytes(read[:_MOST]).rpartition(b"\n")
    return _in_order(whole)


def _in_order(newest_first: bytes) -> bytes:
    """Oldest first; the lines of one message, of which all but the first are indented, stay together."""
    entries: list[list[bytes]] = []
    for line in filter(None, newest_first.split(b"\n")):
        if line.startswith(b" ") and entries:
            entries[-1].append(line)
        else:
            entries.append([line])
    return b"".join(b"\n".join(entry) + b"\n" for entry in reversed(entries))
