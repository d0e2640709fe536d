"""Asking RAUC what a bundle holds, with whatever means its version has."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec

from homed.errors import BundleError, NotFoundError
from homed.updates import bundle
from homed.updates.bundle import Inspection
from homed.updates.installer import Watch
from homed.updates.slots import Facts

log = logging.getLogger(__name__)
_PATIENCE = 300.0
_MOST = 1 << 20


class Inspector:
    """Nothing is told of a bundle whose signature RAUC has not verified."""

    def __init__(self, watch: Watch):
        self._watch = watch

    async def inspect(self, path: Path) -> tuple[Inspection, Facts]:
        """A bundle and the board that it was compared with. BundleError where RAUC refuses it."""
        size = await asyncio.to_thread(_size, path)
        facts = await self._watch.look()
        found, (compatible, version) = await self._watch.inspect(str(path))
        if found is not None:
            update, images, form = bundle.from_inspect(found)
        else:
            update, images, form = bundle.from_json(await _by_command(path))
            update |= {"compatible": compatible, "version": version}
        signers = await asyncio.to_thread(bundle.signers, path)
        sizes = await asyncio.to_thread(bundle.device_sizes, facts.slots)
        return bundle.inspection(update, images, form, facts, sizes, size, signers), facts


def _size(path: Path) -> int:
    """In bytes. NotFoundError where it is no file."""
    try:
        if path.is_file():
            return path.stat().st_size
    except (OSError, ValueError) as error:
        raise NotFoundError(f"the bundle cannot be read: {error}", code="BUNDLE_NOT_FOUND") from error
    raise NotFoundError(f"there is no bundle {path}", code="BUNDLE_NOT_FOUND")


async def _by_command(path: Path) -> dict[str, Any]:
    """`rauc info`, for the images: RAUC's service tells only of two fields before 1.9.

    The service has verified the bundle, so the command need not, and needs no keyring. Empty where it fails.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            "rauc", "info", "--no-verify", "--output-format=json", str(path),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        log.warning("rauc cannot be run: %s", error)
        return {}
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_PATIENCE):
            said = await process.stdout.read(_MOST)
            await process.wait()
        found = msgspec.json.decode(said)
    except (TimeoutError, msgspec.DecodeError) as error:
        raise BundleError(f"{path.name}: `rauc info` does not tell what is in it: {error}") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return dict(found) if isinstance(found, dict) else {}
