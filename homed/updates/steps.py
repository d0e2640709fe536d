"""The steps up to the reboot, one method each: what `decide` names is done here, and written down first."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from homed.bus import rauc
from homed.config import Updates
from homed.errors import BundleError, NotFoundError, StoreError, UpdateConflictError, UpdateError
from homed.updates import bundle, decide, download
from homed.updates.desk import Desk
from homed.updates.inspecting import Inspector
from homed.updates.installer import Watch
from homed.updates.judgement import Findings, healthy
from homed.updates.records import Kind, State, Update
from homed.updates.slots import Facts

log = logging.getLogger(__name__)
Observe = Callable[[], Awaitable[Findings]]


class Steps:
    """`copy` copies homed's state into a folder (blocking); `observe` tells what is healthy now."""

    def __init__(
        self,
        desk: Desk,
        watch: Watch,
        inspector: Inspector,
        config: Callable[[], Updates],
        observe: Observe,
        copy: Callable[[Path], None],
    ):
        self._desk = desk
        self._watch = watch
        self._inspector = inspector
        self._config = config
        self._observe = observe
        self._copy = copy

    @property
    def downloads(self) -> Path:
        configured = self._config().directory
        return Path(configured) if configured else self._desk.ledger.folder / "downloads"

    def download_of(self, update: Update) -> Path:
        return self.downloads / f"{update.id}.raucb"

    async def fetch(self, update: Update) -> None:
        """Get the bundle, have RAUC verify it, see that it belongs and fits here."""
        path, sha256 = await self._bring(update)
        identity = await asyncio.to_thread(_identity, path)
        inspected, facts = await self._inspector.inspect(path)
        bundle.check(
            inspected, facts, allow_downgrade=update.allow_downgrade, ignore_compatible=update.ignore_compatible
        )
        target = facts.other
        if facts.booted is None or target is None:
            raise UpdateError("RAUC does not tell which slot runs and which one is beside it")
        update = self._desk.ledger.get(update.id)
        await self._desk.move(
            update, State.VERIFIED, bundle=bundle.summary(inspected, sha256), bundle_path=str(path),
            bundle_identity=identity, from_slot=facts.booted, to_slot=target.name, to_bootname=target.bootname,
            boot_id=facts.boot_id,
        )  # fmt: skip

    async def _bring(self, update: Update) -> tuple[Path, str | None]:
        if update.source.url is None:
            path = Path(update.source.path or "")
            if not await asyncio.to_thread(path.is_file):
                raise NotFoundError(f"there is no bundle {path}", code="BUNDLE_NOT_FOUND")
            if update.sha256 is not None and (found := await asyncio.to_thread(_sha256, path)) != update.sha256.lower():
                raise BundleError(f"the bundle's sha256 is {found}", code="UPDATE_CHECKSUM")
            return path, update.sha256
        target = self.download_of(update)
        if update.fetched_sha256 is not None and await asyncio.to_thread(target.is_file):
            return target, update.fetched_sha256
        config = self._config()
        await asyncio.to_thread(_make_folder, self.downloads)

        def progress(received: int, total: int | None) -> None:
            percentage = received * 100 // total if total else 0
            self._desk.progressed(State.DOWNLOADING, percentage, f"Downloaded {received} of {total or 'unknown'} bytes")

        limits = download.Limits(max_size=config.max_bundle_size, rate=config.download_rate)
        fetched = await download.fetch(update.source.url, target, limits, sha256=update.sha256, progress=progress)
        await self._desk.note(update, fetched_sha256=fetched.sha256)
        return fetched.path, fetched.sha256

    async def back_up(self, update: Update, facts: Facts) -> None:
        """Copy homed's own state, note what is healthy."""
        if update.state is State.VERIFIED:
            update = await self._desk.move(update, State.BACKING_UP_STATE)
        try:
            await asyncio.to_thread(self._copy, self._desk.ledger.of(update.id))
        except StoreError as error:
            raise UpdateError(f"homed's own state cannot be copied: {error.message}") from error
        required = healthy(await self._observe())
        target = facts.slot(update.to_slot)
        installed = target.installed if target is not None else None
        await self._desk.move(
            update, State.INSTALLING, required=required, called=False, error_before=facts.last_error,
            count_before=installed.count if installed is not None else None,
        )  # fmt: skip

    async def install(self, update: Update, facts: Facts, *, interrupted: bool) -> None:
        """Have RAUC install, to the end. What it came to is read off the slots afterwards, by `decide`."""
        if await asyncio.to_thread(_identity, Path(update.bundle_path or "")) != update.bundle_identity:
            # What was checked (its size, its version) would not be what is installed.
            raise BundleError(f"{update.bundle_path} was changed after it was verified")
        if interrupted:
            log.warning("Update %s: the installation was broken off and is begun anew", update.id)
        update = await self._desk.note(
            update, called=True, error_before=facts.last_error, interruptions=update.interruptions + int(interrupted)
        )
        options: dict[str, object] = {"ignore-compatible": True} if update.ignore_compatible else {}
        try:
            result = await self._watch.install(str(update.bundle_path), options)
        except UpdateConflictError:
            # Somebody else was faster, and what that comes to says nothing of this update.
            await self._watch.follow()
            await self._desk.note(update, called=False)
            return
        await self._ended(update, result)

    async def follow(self, update: Update) -> None:
        await self._ended(update, await self._watch.follow())

    async def _ended(self, update: Update, result: int | None) -> None:
        if result is None:
            return
        if result != 0:
            text = await self._watch.last_error()
            raise rauc.meaning("", text or f"the installation ended with {result}")
        facts = await self._watch.look()
        if not decide.is_installed(update, facts):
            raise UpdateError(f"RAUC reported success, but {update.to_slot} does not hold the bundle")

    async def note_installed(self, update: Update, facts: Facts) -> None:
        if facts.primary not in (None, update.to_slot) and facts.booted != update.to_slot:
            # As with activate-installed=false: to activate is homed's part.
            facts = await self._watch.mark("active", str(update.to_slot))
        here = facts.boot_id if facts.booted == update.from_slot else update.boot_id
        await self._desk.move(update, State.INSTALLED, boot_id=here)
        await self.discard(update)

    async def revive(self, update: Update, facts: Facts) -> None:
        """Give the new system the bootloader's attempts anew: power cuts had used them up."""
        log.warning("Update %s: the power went while it was judged; it is started once more", update.id)
        await self._watch.mark("active", str(update.to_slot))
        await self._desk.move(update, State.REBOOTING, boot_id=facts.boot_id, revivals=update.revivals + 1, reboots=0)

    async def discard(self, update: Update) -> None:
        """Remove what was downloaded for an update."""
        if update.source.url is not None and update.kind is Kind.INSTALL:
            target = self.download_of(update)
            try:
                await asyncio.to_thread(download.discard, target)
                await asyncio.to_thread(target.unlink, missing_ok=True)
            except OSError as error:
                log.warning("%s cannot be removed: %s", target, error.strerror)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UpdateError(f"{folder} cannot be made: {error.strerror}") from error


def _identity(path: Path) -> str:
    """Another one for another file under the name, or another content. NotFoundError where it is gone."""
    try:
        status = path.stat()
    except OSError as error:
        raise NotFoundError(f"the bundle {path} cannot be read: {error.strerror}", code="BUNDLE_NOT_FOUND") from error
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
