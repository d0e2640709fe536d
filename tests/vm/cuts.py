"""The power goes while a bundle is installed; the board boots all the same, and an installation succeeds."""

from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

from tests.boards.rig.process import RigError

from . import disk
from .bed import GOOD
from .guest import Guest
from .report import Report

_INSTALL: Final = 240
_OTHER: Final = {"A": "B", "B": "A"}
_NAMES: Final = {"A": "rootfs.0", "B": "rootfs.1"}
_ORDINALS: Final = ("first", "second", "third", "fourth")
_LATE: Final = "later than it was meant to: it is installed"


_COUNTERS: Final = "/boot/efi/EFI/homed/grubenv"


class Moment(NamedTuple):
    """What is done just before the power goes, in a shell, with the slot that runs (old) and the other one (new)."""

    what: str
    script: str


# homed stands still meanwhile, so that it is RAUC's word alone that is on the disk when the power goes. `sync`: what
# is seen in the file may not have reached the disk.
_ACTIVATION: Final = Moment(
    "RAUC has made the new system the first, and homed does not know",
    f"""
systemctl kill --signal=STOP homed.service
until grep -q '^ORDER={{new}} {{old}}$' {_COUNTERS} && grep -q '^{{new}}_OK=1$' {_COUNTERS}; do :; done
sync {_COUNTERS}
""",
)
_TORN: Final = Moment("the boot counters are emptied, as before each write", f": >{_COUNTERS}; sync {_COUNTERS}")


class Point(NamedTuple):
    """When the power goes: at RAUC's percentage, or at a moment that comes after it."""

    percentage: int
    moment: Moment | None = None

    def __str__(self) -> str:
        return f"{self.percentage} %" if self.moment is None else f"{self.percentage} %: {self.moment.what}"


POINTS: Final = (
    *(Point(percentage) for percentage in (0, 20, 46, 55, 64, 73, 82, 91, 99)),
    Point(91, _ACTIVATION),
    Point(60, _TORN),
)
"""0 is just after the request. RAUC 1.13 checks up to 46 % and copies from there to 99 %."""


def suffer(guest: Guest, points: "SimpleQueue[Point]", report: Report) -> None:
    """Take points from the queue until it is empty; then the board starts what was installed last."""
    machine = guest.machine
    with report.step(machine.name, "power on: homed serves"):
        machine.start()
        guest.wait_for_boot()
        guest.wait_for_homed()
    digests: dict[str, str] = {}
    installed = None
    while (point := _next(points)) is not None:
        if installed is not None:
            _withdraw(guest, installed)
        installed = _one(guest, point, report, digests)
    if installed is not None:
        with report.step(machine.name, "what was installed last is started, and good"):
            _start(guest, installed)


def _next(points: "SimpleQueue[Point]") -> Point | None:
    try:
        return points.get_nowait()
    except Empty:
        return None


def _one(guest: Guest, point: Point, report: Report, digests: dict[str, str]) -> str | None:
    """One cut; the update that is installed after it, or None where its system runs already.

    `digests` are those of the slots that ran when the power went before, and were not written since.
    """
    who, machine = guest.machine.name, guest.machine
    before = guest.slot()
    history = guest.status_of(_NAMES[before])["installed"]
    with report.step(who, f"the power goes at {point}") as notes:
        update = guest.install(GOOD, reboot="never")
        whole = _reach(guest, update, point, before, notes)
        machine.cut()
    digests.pop(_OTHER[before], None)
    digest = disk.digest(machine, before)
    if digests.setdefault(before, digest) != digest:
        raise RigError(f"slot {before}, which ran, was written to")
    with report.step(who, "the board boots") as notes:
        machine.start()
        guest.wait_for_boot()
        guest.wait_for_homed()
        after = guest.slot()
        notes.append(f"from {after}")
        if after != before and not whole:
            raise RigError(f"slot {after} was started before it was whole")
    with report.step(who, "the installation succeeds") as notes:
        if after == before:
            return _again(guest, update, notes)
        guest.wait_for_update(update, {"good"}, _INSTALL)
        notes.append("it runs, and was judged good")
        if guest.status_of(_NAMES[before])["installed"] != history:
            raise RigError(f"slot {before}, from which the board could have come back, was written to")
        return None


def _again(guest: Guest, update: str, notes: list[str]) -> str:
    """homed begins anew by itself what was broken off; where it gave up, it is asked to. The update installed."""
    ended = guest.wait_for_update(update, {"installed", "failed"}, _INSTALL)
    notes.append(f"the one that was broken off is {ended['state']} at the {_ORDINALS[ended['interruptions']]} attempt")
    if ended["state"] == "failed":
        notes.append(f"{ended['error']}")
        update = guest.install(GOOD, reboot="never")
        guest.wait_for_update(update, {"installed"}, _INSTALL)
    return update


def _reach(guest: Guest, update: str, point: Point, booted: str, notes: list[str]) -> bool:
    """Wait for the moment; whether the new system is whole by then, and may be started."""
    if not point.percentage:
        notes.append(str(guest.update(update)["state"]))
        return False

    def look() -> str:
        seen = guest.update(update)
        percentage = (seen["progress"] or {"percentage": 0})["percentage"]
        if seen["state"] == "failed":
            raise AssertionError(f"it was not installed: {seen}")
        if seen["state"] == "installed":
            return _LATE
        return f"{percentage} %" if seen["state"] == "installing" and percentage >= point.percentage else ""

    notes.append(guest.wait(f"{point}", look, _INSTALL, every=0.05))
    if point.moment is not None:
        guest.shell(point.moment.script.format(new=_OTHER[booted], old=booted), timeout=_INSTALL)
    return point.moment is _ACTIVATION or notes[-1] == _LATE


def _withdraw(guest: Guest, update: str) -> None:
    """Have the board stay where it is."""
    answer = guest.call("POST", "/api/v1/update/mark-bad", {"slot": "other"})
    if answer.status != 200:
        raise RigError(f"what was installed could not be marked bad: {answer}")
    guest.wait_for_update(update, {"cancelled"}, 60)


def _start(guest: Guest, update: str) -> None:
    booted = guest.slot()
    guest.shell("systemctl reboot")
    guest.wait_for_boot()
    guest.wait_for_homed()
    if guest.slot() == booted:
        raise RigError(f"it was to leave {booted}")
    guest.wait_for_update(update, {"good"}, _INSTALL)
