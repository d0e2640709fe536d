"""Asking RAUC what a bundle holds, with whatever means its version has."""

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from homed.bus.rauc import meaning
from homed.errors import BundleError, NotFoundError, UpdateError
from homed.updates import bundle
from homed.updates.bundle import Inspection
from homed.updates.installer import Watch
from homed.updates.slots import Facts

_PATIENCE = 300.0
_UNTOLD = "rauc info error"


class Inspector:
    """Nothing is told of a bundle whose signature RAUC has not verified."""

    def __init__(self, watch: Watch):
        self._watch = watch

    async def inspect(self, path: Path) -> tuple[Inspection, Facts]:
        """A bundle and the board that it was compared with. BundleError where RAUC refuses it."""
        size = await asyncio.to_thread(_size, path)
        facts = await self._watch.look()
        try:
            found, (compatible, version) = await self._watch.inspect(str(path))
        except UpdateError as error:
            raise await _explained(path, error) from error
        if found is not None:
            update, images, form = bundle.from_inspect(found)
        else:
            # The service has verified it and tells of two fields only: the command tells the rest.
            told = await _rauc("info", "--no-verify", "--output-format=json", str(path))
            update, images, form = bundle.from_json(_decoded(path, told))
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


async def _explained(path: Path, error: UpdateError) -> UpdateError:
    """RAUC 1.8's service says just `rauc info error`, whatever it was: the command knows more."""
    if _UNTOLD not in error.message:
        return error
    verified = await _rauc("info", str(path))
    if verified.code != 0 and "keyring" not in verified.last_words:
        return meaning("", verified.last_words)
    # It has no configuration here: what is whole, and still refused, is refused for its signature.
    unverified = await _rauc("info", "--no-verify", str(path))
    if unverified.code == 0:
        return BundleError(f"RAUC does not trust the signature of {path.name}", code="UPDATE_SIGNATURE")
    return BundleError(f"RAUC: {unverified.last_words}", details={"rauc": unverified.last_words})


class _Told(NamedTuple):
    code: int
    output: bytes
    last_words: str


async def _rauc(*arguments: str) -> _Told:
    """The rauc command, to its end. UpdateError where it cannot be run or does not end."""
    try:
        process = await asyncio.create_subprocess_exec(
            "rauc", *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        raise UpdateError(f"the command rauc cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(_PATIENCE):
            output, errors = await process.communicate()
    except TimeoutError as error:
        raise UpdateError(f"rauc {arguments[0]} did not end within {_PATIENCE:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = errors.decode(errors="replace").strip().splitlines()
    return _Told(process.returncode or 0, output, lines[-1] if lines else "")


def _decoded(path: Path, told: _Told) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(told.output)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"`rauc info` does not tell what is in {path.name}: {told.last_words}") from error
    return dict(found) if isinstance(found, dict) else {}
