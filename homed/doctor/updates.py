"""Findings on updates: RAUC, its slots, units that mark them, and the guard."""

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree

from homed.bus import connection
from homed.bus.connection import Bus
from homed.bus.rauc import NAME, Installer, Properties
from homed.bus.systemd1 import UnitFile, Units
from homed.config import Updates
from homed.doctor.findings import Finding, Level
from homed.errors import HomedError
from homed.updates import slots
from homed.updates.slots import Slot

# rauc, busctl, and the Jetson's own.
_MARKS_GOOD = re.compile(
    r"^\s*Exec\w+=.*(mark-good\b|\bMark\b.*\bgood\b|nvbootctrl\b.*\b(verify|mark-boot-successful)\b)", re.MULTILINE
)
STARTS: Final = frozenset({"enabled", "enabled-runtime", "linked", "linked-runtime", "alias", "static", "generated"})
GUARD = "homed-update-guard.timer"
_GUARD_SCRIPT = "usr/lib/homed/update-guard"
_POLICIES = ("/usr/share/dbus-1/system.d", "/etc/dbus-1/system.d", "/usr/local/share/dbus-1/system.d")
_CONNECT = 5.0


class Board(NamedTuple):
    """What was found out; None where it could not be."""

    units: Sequence[UnitFile] | None
    properties: Properties | None
    slots: Sequence[Slot]
    trouble: str


def findings(board: Board, config: Updates, root: Path = Path("/")) -> list[Finding]:
    """All of them, the good ones too. A board without RAUC on which nothing asks for updates lacks only that."""
    if board.properties is None and shutil.which("rauc") is None and not is_prepared(board.units, config):
        what = "is not installed: this board cannot be updated by homed (rauc/README.md says what it takes)"
        return [Finding(Level.WARNING, "rauc", what)]
    return [
        *rauc_findings(board),
        *unit_findings(board.units, config, lambda path: read_text(root, path)),
        *policy_findings([path for folder in _POLICIES for path in sorted((root / folder[1:]).glob("*.conf"))]),
        *tool_findings(root),
    ]


async def ask() -> Board:
    """Ask systemd and RAUC."""
    bus = Bus(connection.address())
    running = asyncio.create_task(bus.run())
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CONNECT):
                while not bus.connected:  # noqa: ASYNC110  it is a moment, once
                    await asyncio.sleep(0.05)
        if not bus.connected:
            return Board(None, None, (), "the system bus cannot be reached")
        units: Sequence[UnitFile] | None = None
        with suppress(HomedError):
            units = await Units(bus).files()
        try:
            installer = Installer(bus)
            properties, found = await installer.properties(), slots.slots(await installer.slots())
        except HomedError as error:
            return Board(units, None, (), error.message)
        return Board(units, properties, found, "")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def rauc_findings(board: Board) -> list[Finding]:
    if board.properties is None:
        what = f"{board.trouble}: there are no updates without it (on Debian 13 its service is in rauc-service)"
        return [Finding(Level.BAD, "rauc", what)]
    booted = slots.booted(board.slots, board.properties.boot_slot)
    found = [Finding(Level.OK, "rauc", f"RAUC answers; the board is {board.properties.compatible}")]
    if booted is None:
        found.append(Finding(Level.BAD, "slots", "RAUC does not know which slot runs: see bootname= and rauc.slot="))
    for slot in board.slots:
        if not slot.bootname:
            continue
        if slot.boot_status == "good":
            found.append(Finding(Level.OK, slot.name, "is good"))
        elif slot.boot_status == "bad":
            level = Level.BAD if slot.name == booted else Level.WARNING
            found.append(Finding(level, slot.name, "is bad" + ("" if slot.name == booted else ": no way back to it")))
        else:
            found.append(Finding(Level.WARNING, slot.name, "RAUC does not tell whether it is good"))
    return found


def unit_findings(units: Sequence[UnitFile] | None, config: Updates, read: Callable[[str], str]) -> list[Finding]:
    """No unit may mark good unasked beside homed, and the guard must be there."""
    if units is None:
        return [Finding(Level.WARNING, "units", "systemd cannot be asked which units mark the slot good")]
    found = []
    for unit in units:
        if unit.state in STARTS and not unit.name.startswith("homed") and _MARKS_GOOD.search(read(unit.path)):
            what = f"marks the booted slot good without asking homed ({unit.path}): systemctl mask {unit.name}"
            # A static one is started only by what names it.
            found.append(Finding(Level.WARNING if unit.state == "static" else Level.BAD, unit.name, what))
    if not found:
        found.append(Finding(Level.OK, "units", "no unit marks the booted slot good unasked"))
    guard = next((unit for unit in units if unit.name == GUARD), None)
    if guard is None or guard.state not in STARTS - {"static"}:
        what = f"is not enabled: nobody leaves a new system in which homed does not start: systemctl enable {GUARD}"
        return [*found, Finding(Level.BAD, GUARD, what)]
    # The last one that sets it counts: drop-ins come after the unit.
    drop_in = read(f"/etc/systemd/system/{GUARD}.d/override.conf")
    return [*found, guard_finding(f"{read(guard.path)}\n{drop_in}", config)]


def is_prepared(units: Sequence[UnitFile] | None, config: Updates) -> bool:
    """Tell whether the owner means to update this board: the guard is enabled, or `[updates]` says something."""
    guard = any(unit.name == GUARD and unit.state in STARTS - {"static"} for unit in units or ())
    return guard or config != Updates()


def guard_finding(text: str, config: Updates) -> Finding:
    """The guard must come after the judging is over."""
    spans = [span for span in re.findall(r"^OnBootSec=(.*)$", text, re.MULTILINE) if span.strip()]
    after = seconds(spans[-1]) if spans else None
    if after is None:
        return Finding(Level.WARNING, GUARD, "has no OnBootSec= that can be read")
    needed = config.deadline + config.soak
    if after <= needed:
        what = f"comes after {after:g} s, but the judging may last {needed:g} s: raise OnBootSec="
        return Finding(Level.BAD, GUARD, what)
    return Finding(Level.OK, GUARD, f"is enabled, and comes {after:g} s after the boot")


def seconds(text: str) -> float | None:
    """A span as systemd.time(7) has it, in seconds; None where it is not one of the usual kinds."""
    units = {"": 1, "s": 1, "sec": 1, "second": 1, "seconds": 1, "m": 60, "min": 60, "minute": 60, "minutes": 60,
             "h": 3600, "hr": 3600, "hour": 3600, "hours": 3600}  # fmt: skip
    parts = re.findall(r"([0-9.]+)\s*([a-z]*)", text)
    if not parts or re.sub(r"[0-9.]+\s*[a-z]*", "", text).strip() or any(unit not in units for _, unit in parts):
        return None
    return sum(float(number) * units[unit] for number, unit in parts)


def policy_findings(files: Iterable[Path]) -> list[Finding]:
    """Whether anybody but root may call RAUC."""
    opened = [path for path in files if _opens_rauc(path)]
    if opened:
        what = "lets every user install updates: put rauc/de.pengutronix.rauc.conf in its place"
        return [Finding(Level.BAD, str(path), what) for path in opened]
    return [Finding(Level.OK, "policy", "only who is named may call RAUC over the bus")]


def _opens_rauc(path: Path) -> bool:
    try:
        tree = ElementTree.parse(path)  # noqa: S314  files of root's, which dbus-daemon parses too
    except (OSError, ElementTree.ParseError):
        return False
    default = tree.iterfind("policy[@context='default']")
    return any(rule.get("send_destination") == NAME for policy in default for rule in policy.iterfind("allow"))


def tool_findings(root: Path) -> list[Finding]:
    found = []
    if not os.access(root / _GUARD_SCRIPT, os.X_OK):
        found.append(Finding(Level.BAD, f"/{_GUARD_SCRIPT}", "is missing, or not executable: the guard cannot run"))
    missing = [name for name in ("rauc", "timeout") if shutil.which(name) is None]
    if missing:
        found.append(Finding(Level.BAD, ", ".join(missing), "is not among the commands: the guard needs it"))
    if shutil.which("unsquashfs") is None:
        what = "is missing (squashfs-tools): RAUC needs it for bundles in the plain format, not for verity"
        found.append(Finding(Level.WARNING, "unsquashfs", what))
    if not (root / "var/log/journal").is_dir():
        what = "is not persistent: of a boot that the bootloader ended no journal is left (mkdir /var/log/journal)"
        found.append(Finding(Level.WARNING, "journal", what))
    return found


def read_text(root: Path, path: str) -> str:
    """A file of the board; empty if it cannot be read."""
    try:
        return (root / path.lstrip("/")).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
