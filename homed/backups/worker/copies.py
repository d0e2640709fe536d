"""Copy an archive, and its record, to a target: over SFTP, to S3, or to another board.

What lies at targets is neither listed nor deleted by homed: how long copies are kept is up to whoever runs the target.
"""

from collections.abc import Callable
from pathlib import Path

from homed.backups.worker.context import Watch
from homed.backups.worker.delivery import Target, backoff, deliver
from homed.backups.worker.messages import Copy
from homed.backups.worker.rclone import Rclone
from homed.backups.worker.upload import Board

_STALL = 120.0


def copy(
    request: Copy,
    watch: Watch,
    *,
    wait: Callable[[int], float] = backoff,
    stall: float = _STALL,
    rclone: str = "rclone",
) -> None:
    """Bring the archive at `request.path` to the target, under the name of its record, the record beside it.

    A copy that is there already is left. `wait` gives the seconds after the nth try, in each of which nothing may move
    for `stall` seconds. RemoteError (BACKUP_REMOTE), Stopped, OSError.
    """
    settings = request.settings
    target: Target
    if settings["kind"] == "board":
        target = Board(settings, stall=stall)
    else:
        target = Rclone(settings, Path(request.work), stall=stall, program=rclone)
    deliver(Path(request.path), request.record, target, settings, watch, wait=wait)
