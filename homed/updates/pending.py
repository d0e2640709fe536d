"""`updates/pending`: what the guard (units/homed-update-guard) goes by where the new system's homed does not start.

Lines of `key=value`, for a shell: id, slot, bootname, deadline (s), and, once the judging has begun, boot and until
(seconds of the boot clock).
"""

from pathlib import Path

from homed import atomic
from homed.updates.records import Judgement, Update

NAME = "pending"


def write(folder: Path, update: Update, deadline: float, judgement: Judgement | None = None) -> None:
    lines = [
        f"id={update.id}",
        f"slot={update.to_slot or ''}",
        f"bootname={update.to_bootname or ''}",
        f"deadline={int(deadline)}",
    ]
    if judgement is not None:
        lines += [f"boot={judgement.boot_id}", f"until={int(judgement.until)}"]
    atomic.write(folder / NAME, ("\n".join(lines) + "\n").encode())


def identity(folder: Path) -> str | None:
    """The id of the update that the guard watches; None where there is none, or it cannot be told."""
    try:
        first = (folder / NAME).read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return None
    return first.removeprefix("id=") if first.startswith("id=") else None


def remove(folder: Path) -> None:
    (folder / NAME).unlink(missing_ok=True)
    atomic.sync_folder(folder)
