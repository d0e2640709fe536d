"""systemd's timers are as the configuration says: which files they have, and which of them run."""

import asyncio
import configparser
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed import cli
from homed.backups import schedules
from homed.backups.schedules import Scheduled, Timers, drop_ins
from homed.bus.connection import CallError
from homed.bus.systemd1 import BAD_SETTING, Timer, Unit
from homed.config.backups import BackupSchedule
from homed.errors import BusUnavailableError, ValidationError
from homed.health import Level

NIGHTLY = BackupSchedule(name="nightly", calendar="*-*-* 02:00")
WEEKLY = BackupSchedule(name="weekly", calendar="Sun *-*-* 04:00")
MOMENT = datetime(2026, 11, 22, 2, tzinfo=UTC)
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def timer(name: str) -> str:
    return f"homed-backup@{name}.timer"


class Systemd:
    """Reads its units' files only when it is told to, as systemd does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[str] = []
        self.active: set[str] = set()
        self.errors: dict[str, CallError] = {}
        self.away = False
        self._read = self._files()

    async def reload(self) -> None:
        self._act("reload")
        self._read = self._files()

    async def start(self, name: str) -> None:
        self._begin("start", name)

    async def restart(self, name: str) -> None:
        self._begin("restart", name)

    async def stop(self, name: str) -> None:
        self._act(f"stop {name}")
        self.active.discard(name)

    async def unit(self, name: str) -> Unit:
        self._check()
        return Unit("loaded", "active" if name in self.active else "inactive", self._read != self._files())

    async def timer(self, name: str) -> Timer:
        self._check()
        return Timer(MOMENT if name in self.active else None, None)

    @property
    def calendars(self) -> dict[str, str]:
        """Of the timers that run, as systemd read them."""
        texts = {str(path): text for path, text in self._read.items()}
        return {name: texts[f"{name}.d/schedule.conf"].splitlines()[-1] for name in self.active}

    def take(self) -> list[str]:
        """What was done since it was asked last."""
        done, self.done = self.done, []
        return done

    def _begin(self, act: str, name: str) -> None:
        self._act(f"{act} {name}")
        if name in self.errors:
            raise self.errors[name]
        self.active.add(name)

    def _act(self, what: str) -> None:
        self._check()
        self.done.append(what)

    def _check(self) -> None:
        if self.away:
            raise BusUnavailableError("the system bus is away")

    def _files(self) -> dict[Path, str]:
        return {path.relative_to(self.folder): path.read_text() for path in self.folder.rglob("*.conf")}


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "system"
        self.folder.mkdir()
        self.systemd = Systemd(self.folder)
        self.schedules: list[BackupSchedule] = []
        self.timers = self.new()

    def new(self) -> Timers:
        """As after a start of homed."""
        return Timers(self.systemd, lambda: self.schedules, self.folder)

    async def apply(self, *wanted: BackupSchedule) -> list[str]:
        """What systemd was asked for."""
        self.schedules = list(wanted)
        await self.timers.apply()
        return self.systemd.take()

    @property
    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_schedule_is_a_drop_in_that_sets_the_calendar_anew() -> None:
    (path, text), = drop_ins([NIGHTLY]).items()  # fmt: skip
    assert path == "homed-backup@nightly.timer.d/schedule.conf"
    assert text.splitlines()[1:] == ["[Timer]", "OnCalendar=", "OnCalendar=*-*-* 02:00"]


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=40))
def test_no_calendar_says_anything_else_to_systemd(calendar: str) -> None:
    (text,) = drop_ins([BackupSchedule(name="a", calendar=calendar)]).values()
    lines = text.splitlines()
    assert len(lines) == 4 and lines[3].startswith("OnCalendar=")
    assert lines[3].removeprefix("OnCalendar=").replace("%%", "").count("%") == 0
    parsed = configparser.RawConfigParser(strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(text)
    assert dict(parsed["Timer"]) == {"OnCalendar": calendar.replace("%", "%%").strip()}


async def test_timers_are_written_read_and_started(world: World) -> None:
    done = await world.apply(NIGHTLY, WEEKLY)
    assert done[0] == "reload" and sorted(done[1:]) == [f"restart {timer('nightly')}", f"restart {timer('weekly')}"]
    assert world.systemd.calendars[timer("weekly")] == "OnCalendar=Sun *-*-* 04:00"
    assert (world.folder / world.files[0]).stat().st_mode & 0o777 == 0o644


async def test_what_is_so_already_is_left_and_only_seen_to_run(world: World) -> None:
    await world.apply(NIGHTLY)
    world.timers = world.new()
    assert await world.apply(NIGHTLY) == [f"start {timer('nightly')}"]


async def test_only_what_changed_is_started_anew(world: World) -> None:
    await world.apply(NIGHTLY, WEEKLY)
    later = BackupSchedule(name="nightly", calendar="*-*-* 03:00")
    assert await world.apply(later, WEEKLY) == [
        "reload",
        f"restart {timer('nightly')}",
        f"start {timer('weekly')}",
    ]
    assert world.systemd.calendars[timer("nightly")] == "OnCalendar=*-*-* 03:00"


async def test_what_is_gone_is_stopped_and_its_files_too(world: World) -> None:
    await world.apply(NIGHTLY, WEEKLY)
    world.timers = world.new()
    assert await world.apply(WEEKLY) == [f"stop {timer('nightly')}", "reload", f"start {timer('weekly')}"]
    assert world.files == [f"{timer('weekly')}.d/schedule.conf"]
    assert await world.apply() == [f"stop {timer('weekly')}", "reload"]
    assert list(world.folder.iterdir()) == []
    assert await world.apply() == []


async def test_other_files_are_left_alone(world: World) -> None:
    names = [
        "homed-backup@nightly.timer.d/mine.conf",
        "homed-backup@x.service.d/schedule.conf",
        "a@b.timer.d/schedule.conf",
    ]
    for name in names:
        (world.folder / name).parent.mkdir()
        (world.folder / name).write_text("[Timer]\n")
    await world.apply(NIGHTLY)
    await world.apply()
    assert world.files == sorted(names)


async def test_a_kill_between_writing_and_telling_systemd_is_made_good(world: World) -> None:
    await world.apply(NIGHTLY)
    world.systemd.away = True
    later = BackupSchedule(name="nightly", calendar="*-*-* 03:00")
    with pytest.raises(BusUnavailableError):
        await world.apply(later)
    world.systemd.away, world.timers = False, world.new()
    await world.apply(later)
    assert world.systemd.calendars == {timer("nightly"): "OnCalendar=*-*-* 03:00"}


async def test_a_calendar_that_systemd_refuses_is_told_and_the_others_run(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.apply(NIGHTLY, WEEKLY)
    world.systemd.errors[timer("nightly")] = CallError(BAD_SETTING, "it has a bad unit file setting")
    done = await world.apply(BackupSchedule(name="nightly", calendar="at night"), WEEKLY)
    # What it was before would go on otherwise.
    assert f"stop {timer('nightly')}" in done
    assert world.systemd.active == {timer("weekly")}
    component = world.timers.component()
    assert (component.status, component.needed) == (Level.DEGRADED, False)
    assert component.message == "schedule 'nightly': systemd refuses its calendar 'at night'"
    assert "systemd refuses its calendar" in caplog.text
    nightly, weekly = await world.timers.states()
    assert nightly.problem is not None and nightly.next is None
    assert weekly == Scheduled(WEEKLY, MOMENT, None, None)


async def test_a_timer_that_is_not_installed_is_told(world: World) -> None:
    error = CallError("org.freedesktop.systemd1.NoSuchUnit", "Unit homed-backup@nightly.timer not found.")
    world.systemd.errors[timer("nightly")] = error
    await world.apply(NIGHTLY)
    assert "Unit homed-backup@nightly.timer not found." in str(world.timers.component().message)


async def test_without_systemd_it_is_told_where_there_are_schedules(tmp_path: Path) -> None:
    systemd, wanted = Systemd(tmp_path), [NIGHTLY]
    timers = Timers(systemd, lambda: wanted, tmp_path / "none")
    await timers.apply()
    assert systemd.done == []
    assert timers.component().message == "schedule 'nightly': there is no systemd to run it"
    assert (await timers.states())[0].problem == "there is no systemd to run it"
    wanted.clear()
    assert timers.component().status is Level.HEALTHY


async def _eventually(look: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not look():
            await asyncio.sleep(0.01)


class Running:
    def __init__(self, timers: Timers):
        self._timers = timers

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._timers.run())

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


async def test_it_follows_each_change_it_is_woken_for(world: World) -> None:
    async with Running(world.timers):
        world.schedules = [NIGHTLY]
        world.timers.wake()
        await _eventually(lambda: world.systemd.active == {timer("nightly")})
        world.schedules = [WEEKLY]
        world.timers.wake()
        await _eventually(lambda: world.systemd.active == {timer("weekly")})


async def test_it_tries_again_by_itself_where_systemd_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "_AGAIN", 0.02)
    monkeypatch.setattr(schedules, "_FIRST", 0.02)
    world.schedules, world.systemd.away = [NIGHTLY], True
    async with Running(world.timers):
        await _eventually(lambda: world.timers.component().status is Level.DEGRADED)
        assert "the system bus is away" in str(world.timers.component().message)
        assert (await world.timers.states())[0].problem == "the system bus is away"
        world.systemd.away = False
        await _eventually(lambda: world.systemd.active)
        await _eventually(lambda: world.timers.component().status is Level.HEALTHY)


async def test_a_folder_that_cannot_be_written_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "_FIRST", 0.0)
    world.schedules = [NIGHTLY]
    (world.folder / f"{timer('nightly')}.d").write_text("a file in the place of the folder")
    async with Running(world.timers):
        await _eventually(lambda: world.timers.component().status is Level.DEGRADED)
    assert str(world.folder) in str(world.timers.component().message)


@needs_systemd
def test_what_systemd_would_refuse_is_refused_before_and_named() -> None:
    wanted = [NIGHTLY, BackupSchedule(name="a", calendar="at night"), BackupSchedule(name="b", calendar="-1")]
    with pytest.raises(ValidationError) as raised:
        schedules.check(wanted)
    assert [error.field for error in raised.value.errors] == [f"backups.schedules[{i}].calendar" for i in (1, 2)]
    assert "at night" in raised.value.errors[0].message
    # What was taken already does not keep anything else from being changed.
    schedules.check(wanted, known=wanted)


@needs_systemd
def test_the_check_of_a_configuration_sees_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "homed.toml"
    for calendar, code in (("at night", 78), ("daily", 0)):
        file.write_text(f'[[backups.schedules]]\nname = "a"\ncalendar = "{calendar}"\n')
        assert cli.main(["check-config", "--config", str(file), "--state", str(tmp_path)]) == code
    assert "backups.schedules[0].calendar" in capsys.readouterr().err


@needs_systemd
@pytest.mark.parametrize("calendar", ["daily", "Mon..Fri *-*-* 02:30:00 UTC", "*:0/15", "Sat *-*-1..7 18:00"])
def test_what_systemd_takes_is_taken(calendar: str) -> None:
    schedules.check([BackupSchedule(name="a", calendar=calendar)])


def test_where_nobody_can_tell_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> Sequence[str]:
        raise FileNotFoundError("systemd-analyze")

    monkeypatch.setattr(subprocess, "run", missing)
    schedules.check([BackupSchedule(name="a", calendar="at night")])
