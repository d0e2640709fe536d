"""RAUC's slots as homed looks at them: its loose dictionaries made into values."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from homed import clock


class Times(msgspec.Struct, frozen=True):
    """When something was last done to a slot, and how often."""

    timestamp: datetime
    count: int


class SlotBundle(msgspec.Struct, frozen=True):
    """What was installed into a slot."""

    compatible: str | None
    version: str | None
    description: str | None
    build: str | None


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """One slot. `state` is booted, active or inactive; `boot_status` is the bootloader's good or bad; size in bytes.

    What RAUC wrote about the content (`status`, `sha256`) is to be distrusted where `boot_status` is not good.
    """

    name: str
    class_: str = msgspec.field(name="class")
    device: str | None
    type: str | None
    bootname: str | None
    state: str
    boot_status: str | None
    status: str | None
    sha256: str | None
    size: int | None
    installed: Times | None
    activated: Times | None
    bundle: SlotBundle | None
    description: str | None
    parent: str | None
    mountpoint: str | None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The board at one moment. `booted` and `primary` are names of slots; None where RAUC cannot tell."""

    compatible: str = ""
    variant: str = ""
    booted: str | None = None
    primary: str | None = None
    operation: str = "idle"
    last_error: str = ""
    slots: tuple[Slot, ...] = ()
    boot_id: str = ""

    def slot(self, name: str | None) -> Slot | None:
        return next((slot for slot in self.slots if slot.name == name), None)

    @property
    def other(self) -> Slot | None:
        """The slot beside the booted one that the bootloader can start, where there is just one such."""
        booted = self.slot(self.booted)
        others = [
            slot
            for slot in self.slots
            if slot.bootname and slot.name != self.booted and (booted is None or slot.class_ == booted.class_)
        ]
        return others[0] if len(others) == 1 else None


def slots(found: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[Slot, ...]:
    """From GetSlotStatus, sorted by name."""
    return tuple(sorted((_slot(name, status) for name, status in found), key=lambda slot: slot.name))


def booted(slots: Iterable[Slot], boot_slot: str) -> str | None:
    """The name of the slot that runs: RAUC says so of it, else BootSlot is its bootname or its device."""
    known = list(slots)
    running = [slot for slot in known if slot.state == "booted"]
    named = [slot for slot in known if boot_slot and boot_slot in (slot.bootname, slot.device, slot.name)]
    # A child of the booted slot (an appfs) may be called active, never booted.
    return next((slot.name for slot in (*running, *named)), None)


def _slot(name: str, status: Mapping[str, Any]) -> Slot:
    def text(key: str) -> str | None:
        value = status.get(key)
        return str(value) if value not in (None, "") else None

    has_bundle = any(key.startswith("bundle.") for key in status)
    size = status.get("size")
    return Slot(
        name=name,
        class_=str(status.get("class", "")),
        device=text("device"),
        type=text("type"),
        bootname=text("bootname"),
        state=str(status.get("state", "")),
        boot_status=text("boot-status"),
        status=text("status"),
        sha256=text("sha256"),
        size=int(size) if size is not None else None,
        installed=_times(status, "installed"),
        activated=_times(status, "activated"),
        bundle=SlotBundle(
            text("bundle.compatible"), text("bundle.version"), text("bundle.description"), text("bundle.build")
        )
        if has_bundle
        else None,
        description=text("description"),
        parent=text("parent"),
        mountpoint=text("mountpoint"),
    )


def _times(status: Mapping[str, Any], act: str) -> Times | None:
    try:
        return Times(clock.parse(str(status[f"{act}.timestamp"])), int(status.get(f"{act}.count", 0)))
    except (KeyError, ValueError):
        return None
