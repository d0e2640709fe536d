from collections.abc import Sequence
from typing import cast

import pytest

from homed.backups.capturing import Capturing
from homed.backups.ports import Capture, Hook, Mode, Services
from homed.errors import BackupError


class Fake:
    """Notes what it is asked; `fails` names an act that fails."""

    def __init__(self, *, fails: str = "", gone: Sequence[str] = (), overdue: int | None = None):
        self.acts: list[str] = []
        self._fails = fails
        self._gone = gone
        self._overdue = overdue

    def _note(self, act: str) -> None:
        self.acts.append(act)
        if act == self._fails:
            raise BackupError(f"{act} failed")

    async def pause(self, names: Sequence[str]) -> None:
        self._note(f"pause {' '.join(names)}".strip())

    async def resume(self, names: Sequence[str]) -> None:
        self._note(f"resume {' '.join(names)}".strip())

    async def hold(self, names: Sequence[str], why: str) -> None:
        self._note(f"hold {' '.join(names)}".strip())

    async def release(self, names: Sequence[str]) -> None:
        self._note(f"release {' '.join(names)}".strip())

    async def run_hook(self, name: str, hook: Hook) -> int | None:
        self._note(f"hook {name} {hook.command}")
        return self._overdue

    async def settle(self, names: Sequence[str], timeout: float) -> list[str]:
        self._note(f"settle {' '.join(names)}")
        return []

    def container(self, name: str) -> str | None:
        return None if name in self._gone else f"id of {name}"


CAPTURES = (
    Capture("db", Mode.PAUSED, (), before=Hook("dump", 5), after=Hook("clean", 5)),
    Capture("web", Mode.STOPPED, (), after=Hook("warm", 5)),
)


def capturing(services: Fake, warnings: list[str], killed: list[tuple[int, str]] | None = None) -> Capturing:
    async def kill(pid: int, container: str) -> None:
        if killed is not None:
            killed.append((pid, container))

    return Capturing(cast(Services, services), CAPTURES, warnings.append, kill)


async def test_hooks_run_before_anything_stands_still_and_after_all_goes_on() -> None:
    services, warnings = Fake(), list[str]()
    part = capturing(services, warnings)

    await part.begin({"services": ["db", "web"]})
    assert services.acts == ["hook db dump", "hold web", "pause db"]
    services.acts.clear()
    await part.end({"services": ["db", "web"]})

    assert services.acts == ["resume db", "release web", "hook db clean", "settle web", "hook web warm"]
    assert warnings == []


async def test_what_was_begun_is_ended_once_however_the_backup_ends() -> None:
    services = Fake()
    part = capturing(services, [])
    await part.begin({"services": ["db"]})
    await part.end_all()
    services.acts.clear()
    await part.end_all()

    assert services.acts == []


async def test_a_hook_that_fails_fails_the_backup_and_nothing_stays_frozen() -> None:
    services = Fake(fails="pause db")
    part = capturing(services, [])

    with pytest.raises(BackupError):
        await part.begin({"services": ["db", "web"]})

    assert "resume db" in services.acts
    assert "release web" in services.acts


async def test_what_cannot_be_resumed_keeps_no_other_one_stopped() -> None:
    services, warnings = Fake(fails="resume db"), list[str]()
    part = capturing(services, warnings)
    await part.begin({"services": ["db", "web"]})
    await part.end({"services": ["db", "web"]})

    assert "release web" in services.acts
    assert warnings == ["db, after the capture: resume db failed"]


async def test_a_hook_past_its_deadline_is_killed_and_fails_the_backup() -> None:
    services, killed = Fake(overdue=4711), list[tuple[int, str]]()
    part = capturing(services, [], killed)

    with pytest.raises(BackupError) as caught:
        await part.begin({"services": ["db"]})

    assert caught.value.code == "BACKUP_HOOK_FAILED"
    assert (4711, "id of db") in killed


async def test_a_service_that_was_deleted_meanwhile_is_captured_as_it_lies_there() -> None:
    services, warnings = Fake(gone=["db"]), list[str]()
    part = capturing(services, warnings)
    await part.begin({"services": ["db", "web"]})

    assert services.acts == ["hold web", "pause"]
    assert warnings == ["db does not run any more: it is captured as it lies there"]
