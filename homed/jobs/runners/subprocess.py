"""Runs jobs as processes in sessions of their own, where there is no systemd: a spawner waits for them."""

import asyncio
import contextlib
import grp
import hashlib
import os
import pwd
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from homed.config.jobs import Jobs as Config
from homed.errors import JobError
from homed.jobs import inside
from homed.jobs.launch import Launch, Place, launch
from homed.jobs.ports import Attempt
from homed.jobs.records import Command, Handle, Job, Result
from homed.jobs.removal import remove
from homed.jobs.runners import waiting
from homed.jobs.runners.connection import Connection, connect
from homed.jobs.spawner import marks, processes
from homed.jobs.spawner.messages import Begun, Ended, File, Ids, Start
from homed.jobs.spawner.processes import Tracked

NAME = "subprocess"
_EVERY: Final = 0.02
_AGAIN: Final = 1.0
_SOON: Final = 1.0
_NOBODY = "nobody"
_ON_DISK = "/var/tmp/homed-jobs"  # noqa: S108  it is looked at before it is used: _make_own
_Key = tuple[str, int]


def places(state: Path) -> Path:
    """Where jobs get their folders. Other users' jobs must be able to reach theirs, and the state is closed to them."""
    if os.geteuid() != 0:
        return state / "places"
    return Path(f"{_ON_DISK}-{hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:12]}")


class _Active:
    """An attempt that is run or followed. `settled` from when it is known whether it has begun."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.settled = asyncio.Event()


class Subprocesses:
    """A Runner. Where it is root that homed runs as, a job for which no user is configured is nobody's: root's own are
    those alone for which it is named. `places` is a folder of its own for the jobs' folders, `boot` names this boot."""

    def __init__(self, places: Path, uploads: Path, config: Callable[[], Config], boot: str):
        self._places = places
        self._uploads = uploads
        self._config = config
        self._boot = boot
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._active: dict[_Key, _Active] = {}
        self._cleared: set[_Key] = set()
        self._users: dict[str, Ids | None] = {}

    async def close(self) -> None:
        """What runs goes on; its spawner waits for it."""
        if self._connection is not None:
            await self._connection.close()
        # Where nothing runs on; the next homed makes it anew.
        with contextlib.suppress(OSError):
            await asyncio.to_thread(os.rmdir, self._places)

    async def run(self, attempt: Attempt) -> Result:
        key = _key(attempt.job)
        active = self._active[key] = _Active(attempt.output.folder)
        try:
            async with attempt.whole() as job:
                call = (await self._connected()).start(await self._request(attempt, job))
                begun = await call.begun
                del job
            active.settled.set()
            if isinstance(begun, Ended):
                self._note(key, begun)
                failed = marks.result(begun.end)
                raise JobError(failed.error, code=failed.code)
            if begun is None:
                return await self._found(attempt)
            await attempt.started(self._handle(begun))
            ended = await call.ended
            if ended is None:
                return await self._follow(attempt)
            self._note(key, ended)
            return marks.result(ended.end)
        finally:
            active.settled.set()
            del self._active[key]

    async def resume(self, attempt: Attempt) -> Result | None:
        key = _key(attempt.job)
        active = self._active[key] = _Active(attempt.output.folder)
        active.settled.set()
        try:
            return await self._taken_up(attempt)
        finally:
            del self._active[key]

    async def kill(self, job: Job) -> None:
        active = self._active.get(_key(job))
        if active is None:
            return
        try:
            async with asyncio.timeout(_SOON):
                await active.settled.wait()
        except TimeoutError:
            return  # it has not begun: it is asked for again
        await waiting.end(self._tracked(job, active.folder))

    async def release(self, job: Job) -> None:
        key = _key(job)
        if key in self._cleared:
            self._cleared.discard(key)
        else:
            await asyncio.to_thread(remove, self._place(job))

    async def sweep(self, active: Callable[[], Sequence[Job]]) -> None:
        """Remove the folders of attempts that have ended."""
        found = await asyncio.to_thread(_names, self._places)
        needed = {self._place(job).name for job in active()}
        for name in found - needed:
            await asyncio.to_thread(remove, self._places / name)

    async def _found(self, attempt: Attempt) -> Result:
        """The spawner was killed before it said anything."""
        result = await self._taken_up(attempt)
        if result is None:
            raise JobError("its spawner was killed before it began", code="JOB_NOT_STARTED")
        return result

    async def _taken_up(self, attempt: Attempt) -> Result | None:
        job, folder = attempt.job, attempt.output.folder
        ours = job.handle is not None and job.handle.runner == NAME and job.handle.pid != 0
        if await self._never(folder):
            if ours:
                return _lost("nothing is left of what was kept of it")
            return None
        process = marks.process(folder)
        if not ours and process is not None:
            handle = Handle(runner=NAME, boot=process.boot, pid=process.pid, started=process.started)
            await attempt.started(handle)
        return await self._follow(attempt)

    async def _never(self, folder: Path) -> bool:
        """Whether no spawner has taken it up, and none will."""
        while True:
            try:
                return marks.never(folder)
            except FileNotFoundError:
                return True
            except OSError:
                await asyncio.sleep(_AGAIN)  # on a full disk nothing can be known

    async def _follow(self, attempt: Attempt) -> Result:
        """What an earlier homed's spawner has started, or one that was killed."""
        job, folder = attempt.job, attempt.output.folder
        spawner = marks.taken_up_by(folder)
        tracked = self._tracked(job, folder)
        if spawner is None or spawner.boot != self._boot:
            end = marks.end(folder)
            return marks.result(end) if end else _lost("the board was started again while it ran")
        if tracked.pid:
            await waiting.gone(tracked.pid, tracked.started)
        while True:
            waits = processes.is_alive(spawner.pid, spawner.started)
            # In this order: a spawner marks the end before it is gone itself.
            if end := marks.end(folder):
                return marks.result(end)
            if not waits and (tracked.pid or not await asyncio.to_thread(_lives, tracked)):
                await waiting.end(tracked)
                return _lost("it has ended, and what waited for it was killed before")
            await asyncio.sleep(_EVERY)

    async def _request(self, attempt: Attempt, job: Job) -> Start:
        """`job` has all of its content."""
        config = self._config()
        base = self._place(job)
        # A folder costs more than most of what is done for a job: without files of its own one is enough.
        place = Place(base if isinstance(job.work, Command) else base / "home", base, self._uploads)
        if isinstance(job.work, Command):
            made = launch(job, place, config)
        else:
            made = await asyncio.to_thread(launch, job, place, config)
        user = made.user or (_NOBODY if os.geteuid() == 0 else "")
        ids = await self._ids(user) if user else None
        return _start(attempt, made, base, ids, config.limits.memory)

    async def _connected(self) -> Connection:
        async with self._connecting:
            if self._connection is None or not self._connection.is_open:
                await asyncio.to_thread(_make_own, self._places)
                self._connection = await connect(self._boot)
            return self._connection

    async def _ids(self, name: str) -> Ids | None:
        """Asked once: it may be a server that knows."""
        if name not in self._users:
            self._users[name] = await asyncio.to_thread(_ids, name)
        return self._users[name]

    def _handle(self, begun: Begun) -> Handle:
        return Handle(runner=NAME, boot=self._boot, pid=begun.pid, started=begun.started)

    def _tracked(self, job: Job, folder: Path) -> Tracked:
        found = marks.process(folder)
        if found is None or found.boot != self._boot:
            return Tracked(job.id, job.attempt, 0, 0)
        return Tracked(job.id, job.attempt, found.pid, found.started)

    def _place(self, job: Job) -> Path:
        return self._places / f"{job.id}-{job.attempt}"

    def _note(self, key: _Key, ended: Ended) -> None:
        if not ended.left:
            self._cleared.add(key)


def _key(job: Job) -> _Key:
    return job.id, job.attempt


def _start(attempt: Attempt, made: Launch, place: Path, ids: Ids | None, memory: int) -> Start:
    return Start(
        key=0,
        id=attempt.job.id,
        attempt=attempt.job.attempt,
        folder=str(attempt.output.folder),
        place=str(place),
        home=made.environment["HOME"],
        files=tuple(File(str(file.path), file.content, file.mode) for file in made.files),
        argv=inside.as_user(made.argv, ids) if made.own and ids else made.argv,
        environment=dict(made.environment),
        working_directory=str(made.working_directory),
        stdin=str(made.stdin or ""),
        ids=ids,
        memory=memory,
        becomes=made.own and ids is not None,
    )


def _ids(name: str) -> Ids | None:
    """None for the user that homed runs as. JobError for one that is not there, or as which nothing can be run."""
    try:
        user = pwd.getpwnam(name)
    except KeyError as error:
        raise JobError(f"there is no user {name!r} here", code="JOB_NOT_STARTED") from error
    if os.geteuid() != 0:
        if user.pw_uid == os.geteuid():
            return None
        raise JobError(f"only root can run jobs as {name!r}", code="JOB_NOT_STARTED")
    groups = [group.gr_gid for group in grp.getgrall() if name in group.gr_mem]
    return Ids(user.pw_uid, user.pw_gid, tuple(sorted({user.pw_gid, *groups})))


def _make_own(folder: Path) -> None:
    """JobError where it cannot be made, or others could change what is in it."""
    try:
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise JobError(f"{folder} cannot be made: {error.strerror}", code="JOB_NOT_STARTED") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise JobError(f"{folder} is not homed's own", code="JOB_NOT_STARTED")


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _lost(why: str) -> Result:
    return Result(code="JOB_LOST", error=f"nobody can say how it ended: {why}")


def _lives(tracked: Tracked) -> bool:
    return bool(processes.members(tracked, processes.all_processes()))
