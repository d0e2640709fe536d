"""A board with two systems, RAUC and a bootloader, without any of them: its disk, and what a boot makes of it.

RAUC's work is cut into stages, each of which is durable; whoever holds the board may cut the power between any two.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

A, B = "A", "B"
SLOTS: Final[Mapping[str, str]] = {"rootfs.0": A, "rootfs.1": B}
ATTEMPTS: Final = 3
_MOST_BOOTS = 40
_DATE = "2026-01-01T00:00:00Z"


class Behaviour(StrEnum):
    """What a system does when it is started."""

    WELL = "well"
    SICK = "sick"  # homed runs, and what was healthy is not
    MUTE = "mute"  # it comes up, homed does not
    DEAD = "dead"  # the watchdog starts the board anew
    HALF = "half"  # half-written: dead as well


@dataclass(frozen=True)
class Content:
    version: str
    kind: Behaviour = Behaviour.WELL


class Bootloader(Protocol):
    def boot(self) -> str:
        """Choose a slot, count the attempt."""

    def primary(self) -> str | None:
        """As RAUC reads it."""

    def status(self, name: str) -> str | None:
        """good or bad, as RAUC reads it; None where the bootloader keeps none."""

    def mark(self, name: str, state: str) -> None:
        """good, bad or active."""


@dataclass
class UBoot:
    """An order, and the attempts left of each."""

    order: list[str] = field(default_factory=lambda: [A, B])
    left: dict[str, int] = field(default_factory=lambda: {A: ATTEMPTS, B: ATTEMPTS})

    def boot(self) -> str:
        for name in self.order:
            if self.left[name] > 0:
                self.left[name] -= 1
                return name
        self.order = self.order or [A, B]
        self.left = {A: ATTEMPTS, B: ATTEMPTS}
        return self.boot()

    def primary(self) -> str | None:
        return next((name for name in self.order if self.left[name] > 0), None)

    def status(self, name: str) -> str | None:
        return "good" if name in self.order and self.left[name] > 0 else "bad"

    def mark(self, name: str, state: str) -> None:
        rest = [one for one in self.order if one != name]
        if state == "active":
            self.order = [name, *rest]
        elif state == "good" and name not in self.order:
            self.order = [*self.order, name]
        elif state == "bad":
            self.order = rest
        self.left[name] = 0 if state == "bad" else ATTEMPTS


@dataclass
class Grub:
    """OK and TRY of each, and attempts that RAUC does not see: one that was started and not marked is bad for RAUC."""

    order: list[str] = field(default_factory=lambda: [A, B])
    ok: set[str] = field(default_factory=lambda: {A, B})
    tried: dict[str, int] = field(default_factory=lambda: {A: 0, B: 0})

    def boot(self) -> str:
        for _ in range(2):
            for name in self.order:
                if name in self.ok and self.tried[name] < ATTEMPTS:
                    self.tried[name] += 1
                    return name
            self.tried = {A: 0, B: 0}
        self.order, self.ok = [A, B], {A, B}
        return self.boot()

    def primary(self) -> str | None:
        return next((name for name in self.order if self.status(name) == "good"), None)

    def status(self, name: str) -> str | None:
        return "good" if name in self.ok and not self.tried[name] else "bad"

    def mark(self, name: str, state: str) -> None:
        if state == "bad":
            self.ok.discard(name)
            return
        if state == "active":
            self.order = [name, *(one for one in self.order if one != name)]
        self.ok.add(name)
        self.tried[name] = 0


@dataclass
class Noted:
    """RAUC's own record of a slot."""

    status: str | None = None
    count: int | None = None
    version: str | None = None


class BrickError(AssertionError):
    """No system of this board comes up any more."""


@dataclass
class Board:
    """`counts`: RAUC keeps records of its slots. `forgets`: newer ones note that they have begun to write."""

    bootloader: Bootloader = field(default_factory=UBoot)
    counts: bool = True
    forgets: bool = True
    contents: dict[str, Content] = field(default_factory=lambda: {A: Content("1.0"), B: Content("0.9")})
    noted: dict[str, Noted] = field(default_factory=lambda: {A: Noted(), B: Noted()})
    booted: str = A
    boots: int = 0
    last_error: str = ""
    # What RAUC is writing, and how far it is.
    writing: Content | None = None
    stage: int = 0
    refuses: str = ""
    # Each mark that RAUC was asked for: `B good`.
    marks: list[str] = field(default_factory=list)

    @property
    def boot_id(self) -> str:
        return f"b{self.boots}"

    @property
    def target(self) -> str:
        return B if self.booted == A else A

    @property
    def runs(self) -> Content:
        return self.contents[self.booted]

    def start_installing(self, content: Content) -> None:
        assert self.writing is None
        self.writing, self.stage, self.last_error = content, 0, ""

    def advance(self) -> int | None:
        """RAUC's next stage; its result (0 is success) with the last one."""
        assert self.writing is not None
        name, content = self.target, self.writing
        self.stage += 1
        match self.stage:
            case 1:
                if self.refuses:
                    return self._end(self.refuses)
                self.bootloader.mark(name, "bad")
            case 2:
                self.contents[name] = Content(content.version, Behaviour.HALF)
                if self.counts and self.forgets:
                    self.noted[name].status = "pending"
            case 3:
                self.contents[name] = content
            case 4:
                if self.counts:
                    self.noted[name] = Noted("ok", (self.noted[name].count or 0) + 1, content.version)
            case 5:
                self.bootloader.mark(name, "active")
            case _:
                return self._end("")
        return None

    def crash_rauc(self) -> None:
        self.writing, self.last_error = None, ""

    def reboot(self) -> None:
        """The power is cut or the board starts anew: it boots until a system comes up. BrickError where none does."""
        self.crash_rauc()
        for _ in range(_MOST_BOOTS):
            self.booted = self.bootloader.boot()
            self.boots += 1
            if self.runs.kind not in (Behaviour.DEAD, Behaviour.HALF):
                return
        raise BrickError(f"nothing comes up: {self}")

    def mark(self, state: str, slot: str) -> str:
        """By `booted`, `other` or a slot's name, which is given back."""
        name = {"booted": self.booted, "other": self.target}.get(slot) or SLOTS[slot]
        self.bootloader.mark(name, state)
        self.marks.append(f"{name} {state}")
        return slot_of(name)

    def status(self) -> list[tuple[str, dict[str, Any]]]:
        """As GetSlotStatus has it."""
        return [(name, self._slot(bootname)) for name, bootname in SLOTS.items()]

    @property
    def primary(self) -> str | None:
        name = self.bootloader.primary()
        return slot_of(name) if name is not None else None

    def _slot(self, name: str) -> dict[str, Any]:
        noted, status = self.noted[name], self.bootloader.status(name)
        known: dict[str, Any] = {
            "class": "rootfs", "device": f"/dev/{name}", "type": "raw", "bootname": name,
            "state": "booted" if name == self.booted else "inactive",
        }  # fmt: skip
        if status is not None:
            known["boot-status"] = status
        if noted.status is not None:
            known["status"] = noted.status
        if noted.count is not None:
            known |= {"installed.timestamp": _DATE, "installed.count": noted.count, "bundle.version": noted.version}
        return known

    def _end(self, error: str) -> int:
        self.writing, self.last_error = None, error
        return 1 if error else 0


def slot_of(bootname: str) -> str:
    return next(name for name, other in SLOTS.items() if other == bootname)
