"""The schedules of backups as systemd's timers: what they are made of, and keeping systemd's as the configuration says.

The timers are `homed-backup@NAME.timer`; a drop-in in /run gives each its calendar. It starts
`homed-backup@NAME.service`, which asks homed to do what the schedule says.
"""

import asyncio
import logging
import subprocess
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from homed.bus.connection import CallError
from homed.bus.systemd1 import BAD_SETTING, Timer, Unit
from homed.config.backups import BackupSchedule
from homed.errors import FieldError, HomedError, ValidationError
from homed.health import Component, Level

log = logging.getLogger(__name__)
FOLDER = Path("/run/systemd/system")
TIMER = "homed-backup@{}.timer"
_DROP_IN = f"{TIMER}.d/schedule.conf"
_FIRST = 5.0
_AGAIN = 60.0
_PARSES_WITHIN = 5.0
_TEXT = """\
# Made by homed from [[backups.schedules]] in its configuration, and made anew when that changes.
[Timer]
OnCalendar=
OnCalendar={}
"""


class Units(Protocol):
    """systemd, as `homed.bus.systemd1` asks it."""

    async def reload(self) -> None: ...

    async def start(self, name: str) -> None: ...

    async def restart(self, name: str) -> None: ...

    async def stop(self, name: str) -> None: ...

    async def unit(self, name: str) -> Unit: ...

    async def timer(self, name: str) -> Timer: ...


class Scheduled(NamedTuple):
    """A schedule and its timer. `problem` says why it does not run, where it does not."""

    schedule: BackupSchedule
    next: datetime | None = None
    last: datetime | None = None
    problem: str | None = None


def drop_ins(schedules: Iterable[BackupSchedule]) -> dict[str, str]:
    """The files that give the timers their calendars: text by path in systemd's folder."""
    # What follows a % there would be taken for a specifier.
    return {_DROP_IN.format(one.name): _TEXT.format(one.calendar.replace("%", "%%")) for one in schedules}


def refused(calendars: Iterable[str]) -> dict[str, str]:
    """Those that systemd does not take, with why. Blocks; none where nobody can tell (systemd-analyze is not there)."""
    found = {}
    for calendar in calendars:
        command = ("systemd-analyze", "calendar", "--", calendar)
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PARSES_WITHIN, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return {}
        if done.returncode:
            found[calendar] = f"is no calendar event as systemd has them (systemd.time(7)): '{calendar}'"
    return found


def check(schedules: Sequence[BackupSchedule], known: Collection[BackupSchedule] = ()) -> None:
    """ValidationError where systemd would refuse a calendar that is not among the `known` ones. Blocks."""
    old = {schedule.calendar for schedule in known}
    wrong = refused({schedule.calendar for schedule in schedules} - old)
    errors = [
        FieldError(f"backups.schedules[{i}].calendar", wrong[schedule.calendar])
        for i, schedule in enumerate(schedules)
        if schedule.calendar in wrong
    ]
    if errors:
        raise ValidationError(errors)


class Timers:
    """Keeps systemd's timers as `schedules` says, while `run` runs: at the start, and after each `wake`."""

    def __init__(self, units: Units, schedules: Callable[[], Sequence[BackupSchedule]], folder: Path = FOLDER):
        self._units = units
        self._schedules = schedules
        self._folder = folder
        self._woken = asyncio.Event()
        self._problems: dict[str, str] = {}
        self._trouble = ""

    def wake(self) -> None:
        """The configuration has changed, or the bus is there again."""
        self._woken.set()

    async def run(self) -> None:
        # The bus comes a moment after the start, and wakes this.
        patience: float | None = _FIRST
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._woken.wait()
            self._woken.clear()
            await self._try()
            patience = _AGAIN if self._trouble else None

    async def apply(self) -> None:
        """Make them so, once. HomedError where systemd cannot be asked; OSError where its folder cannot be written."""
        schedules = list(self._schedules())
        if not self._folder.is_dir():
            self._tell({schedule.name: "there is no systemd to run it" for schedule in schedules})
            return
        wanted = drop_ins(schedules)
        written = await asyncio.to_thread(_write, self._folder, wanted)
        gone = await asyncio.to_thread(_strangers, self._folder, wanted)
        for name in gone:
            await self._units.stop(TIMER.format(name))
        await asyncio.to_thread(_remove, self._folder, gone)
        if gone or written or await self._stale(schedules):
            await self._units.reload()
        problems = {}
        for schedule in schedules:
            try:
                await self._start(schedule.name, anew=_DROP_IN.format(schedule.name) in written)
            except CallError as error:
                problems[schedule.name] = _why(schedule, error)
        self._tell(problems)

    async def states(self) -> list[Scheduled]:
        """Each with the times of its timer, as far as systemd can be asked."""
        found = []
        for schedule in self._schedules():
            timer = Timer(None, None)
            with suppress(HomedError):
                if self._folder.is_dir():
                    timer = await self._units.timer(TIMER.format(schedule.name))
            problem = self._problems.get(schedule.name) or self._trouble or None
            found.append(Scheduled(schedule, None if problem else timer.next, timer.last, problem))
        return found

    def component(self) -> Component:
        """For /health: a board without schedules lacks nothing."""
        names = [schedule.name for schedule in self._schedules()]
        said = [f"schedule '{name}': {self._problems[name]}" for name in names if name in self._problems]
        if names and self._trouble:
            said.insert(0, f"the schedules cannot be given to systemd: {self._trouble}")
        if said:
            return Component(Level.DEGRADED, "; ".join(said), needed=False)
        return Component(Level.HEALTHY, needed=False)

    async def _try(self) -> None:
        before = self._trouble
        try:
            await self.apply()
            self._trouble = ""
        except HomedError as error:
            self._trouble = error.message
        except OSError as error:
            self._trouble = f"{error.filename}: {error.strerror}"
        if self._trouble and self._trouble != before and self._schedules():
            log.warning("The backup schedules cannot be given to systemd: %s", self._trouble)

    async def _stale(self, schedules: Sequence[BackupSchedule]) -> bool:
        """Whether systemd does not know what an earlier homed, or this one before it was killed, has written."""
        for schedule in schedules:
            if (await self._units.unit(TIMER.format(schedule.name))).stale:
                return True
        return False

    async def _start(self, name: str, *, anew: bool) -> None:
        unit = TIMER.format(name)
        try:
            await (self._units.restart(unit) if anew else self._units.start(unit))
        except CallError as error:
            # A timer that ran before keeps on running by what it was.
            if error.name == BAD_SETTING:
                await self._units.stop(unit)
            raise

    def _tell(self, problems: Mapping[str, str]) -> None:
        for name, problem in problems.items():
            if self._problems.get(name) != problem:
                log.error("Backup schedule '%s': %s", name, problem)
        self._problems = dict(problems)


def _why(schedule: BackupSchedule, error: CallError) -> str:
    if error.name == BAD_SETTING:
        return f"systemd refuses its calendar '{schedule.calendar}'"
    return f"systemd does not start its timer: {error.message}"


def _write(folder: Path, wanted: Mapping[str, str]) -> set[str]:
    """Those that were not as they should be."""
    written = set()
    for name, text in wanted.items():
        path = folder / name
        with suppress(FileNotFoundError):
            if path.read_text() == text:
                continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        # As systemd's own, for who looks with `systemctl cat`.
        path.parent.chmod(0o755)
        path.chmod(0o644)
        written.add(name)
    return written


def _strangers(folder: Path, wanted: Collection[str]) -> list[str]:
    """The schedules whose files are there and that are not wanted any more."""
    before, _, after = _DROP_IN.partition("{}")
    found = [str(path.relative_to(folder)) for path in folder.glob(f"{before}*{after}")]
    return [name.removeprefix(before).removesuffix(after) for name in sorted(found) if name not in wanted]


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        path = folder / _DROP_IN.format(name)
        path.unlink(missing_ok=True)
        with suppress(OSError):  # somebody else's is there too
            path.parent.rmdir()
