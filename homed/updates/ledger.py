"""The updates of this board, each a folder with `update.json`, a copy of homed's state, and what else it left.

Not in the store: what the newer homed wrote there is set aside after a rollback, and this must be kept.
"""

import logging
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec

from homed import atomic
from homed.errors import NotFoundError, StoreError
from homed.updates.records import Update

log = logging.getLogger(__name__)
_RECORD = "update.json"
JOURNAL = "journal.log"


class Ledger:
    """Held in memory, every change written first. Only `load` and `save` block: they are short, and synced."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._updates: dict[int, Update] = {}

    def load(self) -> None:
        """Read what is there; one that cannot be read is told of and left alone."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: dict[int, Update] = {}
        for path in self.folder.glob(f"*/{_RECORD}"):
            if not path.parent.name.isdecimal():
                continue
            try:
                update = msgspec.json.decode(path.read_bytes(), type=Update)
                if update.id != path.parent.name:
                    raise ValueError(f"it is update {update.id}")
                found[int(update.id)] = update
            except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
                log.error("%s cannot be read: %s", path, error)  # noqa: TRY400  its message says all
        self._updates = found

    def all(self) -> list[Update]:
        """The newest first."""
        return [self._updates[number] for number in sorted(self._updates, reverse=True)]

    def current(self) -> Update | None:
        """The one under way."""
        return next((update for update in self.all() if not update.ended), None)

    def get(self, identity: str) -> Update:
        number = int(identity) if identity.isdecimal() and len(identity) < 10 else 0
        if number not in self._updates:
            raise NotFoundError(f"there is no update '{identity}'", code="UPDATE_NOT_FOUND")
        return self._updates[number]

    def next_id(self) -> str:
        """A number that no folder has, readable or not."""
        taken = [int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()]
        return str(max(taken, default=0) + 1)

    def save(self, update: Update) -> None:
        """Durable when it returns. StoreError where the disk does not take it."""
        folder = self.of(update.id)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            atomic.write(folder / _RECORD, msgspec.json.format(msgspec.json.encode(update), indent=1) + b"\n")
            atomic.sync_folder(self.folder)
        except OSError as error:
            with suppress(OSError):
                folder.rmdir()  # one that was just made for it, and is empty
            raise StoreError(f"{folder / _RECORD} cannot be written: {error.strerror}") from error
        self._updates[int(update.id)] = update

    def of(self, identity: str) -> Path:
        """The folder of an update."""
        return self.folder / identity

    def prune(self, kept: int) -> None:
        """Forget all but the newest `kept` that have ended."""
        for update in [update for update in self.all() if update.ended][kept:]:
            shutil.rmtree(self.of(update.id), ignore_errors=True)
            self._updates.pop(int(update.id), None)
