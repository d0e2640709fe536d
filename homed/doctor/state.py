"""Findings on the state directory: its integrity, and its damaged records (pure)."""

from collections.abc import Sequence
from pathlib import Path

from homed.doctor.findings import Finding, Level
from homed.store.damage import Kept
from homed.store.standing import Seen, Standing


def state_findings(seen: Seen, kept: Sequence[Kept], folder: Path) -> list[Finding]:
    """`folder` is the state directory; `kept` are the damaged records."""
    found = []
    if seen.standing is Standing.MISSING:
        found.append(Finding(Level.BAD, "state", seen.message))
    elif seen.standing is Standing.DAMAGED:
        what = f"{seen.message}: restart homed, which saves what can be read, and compare; or restore a backup"
        found.append(Finding(Level.BAD, "state", what))
    elif seen.standing is Standing.UNREADABLE:
        found.append(Finding(Level.WARNING, "state", f"cannot be looked at: {seen.message}"))
    elif seen.message:
        found.append(Finding(Level.WARNING, "state", seen.message))
    elif not seen.records:  # one that exists has its buckets, though they be empty
        found.append(Finding(Level.OK, "state", f"there is none in {folder} yet: homed makes it at its first start"))
    else:
        found.append(Finding(Level.OK, "state", f"is whole ({folder})"))
    if kept:
        names = ", ".join(f"{one.bucket}/{one.key}" for one in kept[:5])
        what = f"{len(kept)} were set aside ({names}{' …' if len(kept) > 5 else ''}): homed state damaged"
        found.append(Finding(Level.WARNING, "damaged records", what))
    return found


def settings_findings(trouble: str) -> list[Finding]:
    return [Finding(Level.WARNING, "config.json", trouble)] if trouble else []
