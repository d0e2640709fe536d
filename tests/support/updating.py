"""Slots, facts and records of updates for the tests, as one would find them on a board with two systems."""

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from homed.updates.records import ENDED, Bundle, Judgement, Kind, Source, State, Step, Update
from homed.updates.slots import Facts, Slot, SlotBundle, Times

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
OLD, NEW = "rootfs.0", "rootfs.1"
FIRST_BOOT, LATER_BOOT = "b0", "b1"


def slot(name: str = OLD, **changes: object) -> Slot:
    """A slot that runs if it is the first one, delivered and good."""
    made = Slot(
        name=name, class_="rootfs", device=f"/dev/{name}", type="raw", bootname="A" if name == OLD else "B",
        state="booted" if name == OLD else "inactive", boot_status="good", status=None, sha256=None, size=None,
        installed=None, activated=None, bundle=None, description=None, parent=None, mountpoint=None,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def written(count: int = 1, version: str = "2.0", **changes: object) -> Slot:
    """The second slot, written whole."""
    at = Times(EPOCH, count)
    content = SlotBundle("board", version, None, None)
    return slot(NEW, **{"status": "ok", "installed": at, "activated": at, "bundle": content, **changes})


def facts(booted: str | None = OLD, *, other: Slot | None = None, **changes: object) -> Facts:
    """The first slot has run since the first boot, and is the primary; `other` is the second one."""
    slots = (slot(), other or slot(NEW))
    shown = tuple(msgspec.structs.replace(one, state="booted" if one.name == booted else "inactive") for one in slots)
    made = Facts(compatible="board", booted=booted, primary=OLD, slots=shown, boot_id=FIRST_BOOT)
    return msgspec.structs.replace(made, **changes)


def update(state: State = State.DOWNLOADING, **changes: object) -> Update:
    """An update from the first slot to the second, begun in the first boot; RAUC has not been called."""
    known = state is not State.DOWNLOADING
    made = Update(
        id="1", kind=Kind.INSTALL, state=state, source=Source(path="/data/update.raucb"),
        bundle=Bundle(version="2.0", compatible="board") if known else None,
        bundle_path="/data/update.raucb" if known else None,
        from_slot=OLD if known else None, to_slot=NEW if known else None, to_bootname="B" if known else None,
        created_at=EPOCH, updated_at=EPOCH, boot_id=FIRST_BOOT, steps=(Step(State.DOWNLOADING, EPOCH),),
        finished_at=EPOCH if state in ENDED else None,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def judgement(boot_id: str = LATER_BOOT, until: float = 600.0) -> Judgement:
    end = EPOCH + timedelta(seconds=until)
    return Judgement(boot_id=boot_id, started_at=EPOCH, deadline_at=end, until=until)
