"""What an update comes to: a good system stays; one that does not start, or does not do its work, goes again."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from tests.boards.rig.process import RigError

from .bed import DEAD, GOOD, SICK
from .guest import BOOT, Guest
from .report import Report

_INSTALL = 240
_JUDGE = 240


def tell(guest: Guest, report: Report) -> None:
    """On a machine that is off, with version 1 in A."""
    who = guest.machine.name
    with report.step(who, "power on: A boots, homed marks it good"):
        guest.machine.start()
        guest.wait_for_boot()
        _arrive(guest, "A", "1")
        _settled(guest, "rootfs.0")
    with report.step(who, "a good system is installed, and the board starts it in B") as notes:
        update = _install(guest, GOOD, notes)
        _arrive(guest, "B", "2")
    with report.step(who, "homed judges it good"):
        _ended(guest, update, "good")
        _settled(guest, "rootfs.1")
    with report.step(who, "a system without an init is installed; it panics in A, and GRUB comes back to B") as notes:
        update = _install(guest, DEAD, notes)
        _arrive(guest, "B", "2")
        notes.append(f"{_panics(guest)} attempts")
    with report.step(who, "homed tells of it") as notes:
        notes.append(_why(_ended(guest, update, "rolled_back")))
        _settled(guest, "rootfs.1")
    with report.step(who, "a system that does not do its work is installed, and the board starts it in A") as notes:
        update = _install(guest, SICK, notes)
        _arrive(guest, "A", "4")
    with report.step(who, "homed judges it bad, and comes back to B") as notes:
        guest.wait_for_boot()
        _arrive(guest, "B", "2")
        notes.append(_why(_ended(guest, update, "rolled_back")))
        _settled(guest, "rootfs.1")
        _journal(guest, update)


def _install(guest: Guest, bundle: str, notes: list[str]) -> str:
    """Install, and wait for the next boot; the note is how long it took RAUC."""
    update = guest.install(bundle, reboot="now")
    seen: Mapping[str, Any] = {}

    def away() -> bool:
        nonlocal seen
        with suppress(OSError, RigError):
            seen = guest.update(update)
        if seen["state"] == "failed":
            raise AssertionError(f"{bundle} was not installed: {seen}")
        return guest.has_booted()

    guest.wait("a boot after the installation", away, _INSTALL + BOOT)
    at = {step["state"]: datetime.fromisoformat(step["at"]) for step in seen["steps"]}
    if "installed" in at:
        notes.append(f"installed in {(at['installed'] - at['installing']).total_seconds():.1f} s")
    return update


def _arrive(guest: Guest, slot: str, version: str) -> None:
    found = guest.slot(), guest.version()
    if found != (slot, version):
        raise RigError(f"version {version} in {slot} was to boot, and it was version {found[1]} in {found[0]}")
    guest.wait_for_homed()


def _ended(guest: Guest, update: str, state: str) -> Mapping[str, Any]:
    return guest.wait_for_update(update, {state}, _JUDGE)


def _why(update: Mapping[str, Any]) -> str:
    return f"{update['error']['code']}: {update['error']['message']}"


def _settled(guest: Guest, booted: str) -> None:
    """The slot that runs is good and the next to be started, and no update is under way."""

    def look() -> bool:
        status = guest.get("/api/v1/update/status")
        good = {slot["name"] for slot in status["slots"] if slot["boot_status"] == "good"}
        return booted in good and status["booted"] == status["primary"] == booted and status["update"] is None

    guest.wait(f"{booted} to be good and the primary", look, 90)


def _panics(guest: Guest) -> int:
    """How often the kernel gave up; at least once."""
    count = guest.machine.console.read_text(errors="replace").count("Kernel panic")
    if not count:
        raise RigError("the system without an init was never started")
    return count


def _journal(guest: Guest, update: str) -> None:
    """The failed boot's journal was kept, and tells of it."""
    text = str(guest.get(f"/api/v1/update/history/{update}/journal"))
    if "the new system is bad" not in text:
        raise RigError(f"the kept journal does not tell why: {text[-2000:]!r}")
