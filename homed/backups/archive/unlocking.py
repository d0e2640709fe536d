"""Decryption of an archive's identity: the passphrase is tried once for all reads of an operation."""

import threading
from concurrent.futures import Future, wait
from pathlib import Path

from homed.backups.archive import age, seal
from homed.backups.worker.context import Watch
from homed.backups.worker.messages import Unlock

_TOLD_SECONDS = 5.0
_CHECK_INTERVAL = 0.5


def unlocked(path: Path, unlock: Unlock | None, watch: Watch) -> Unlock | None:
    """Return the archive's decryption key, with the identity in place of the passphrase.

    Raises: ArchiveError (BACKUP_KEY_WRONG, BACKUP_KEY_COSTLY, BACKUP_KEY_MISSING, BACKUP_DAMAGED); Stopped.
    """
    found = None if unlock is None else seal.sealed_identity(path, unlock)
    if found is None:
        return unlock
    wrapped, passphrase = found
    try:
        needed = age.cost(wrapped)
        if needed.seconds >= _TOLD_SECONDS:
            watch.warn(f"trying the passphrase takes about {needed.seconds:.0f} s on this board now")
        return Unlock(identity=_tried(wrapped, passphrase, watch))
    except age.AgeError as error:
        raise age.meaning(error.exit, error.message, error.number) from error


def _tried(wrapped: str, passphrase: str, watch: Watch) -> str:
    """Try it on a daemon thread: it cannot be interrupted, and a cancellation must not wait for it."""
    trial: Future[str] = Future()

    def run() -> None:
        try:
            trial.set_result(age.unwrap(wrapped, passphrase))
        except Exception as error:  # noqa: BLE001  raised again in the waiting thread
            trial.set_exception(error)

    threading.Thread(target=run, name="passphrase", daemon=True).start()
    while not wait((trial,), timeout=_CHECK_INTERVAL).done:
        watch.check()
    return trial.result()
