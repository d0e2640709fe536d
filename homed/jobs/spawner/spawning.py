"""Starting one job's process: its folder, its files, its descriptors, and who it is."""

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from typing import Final

from homed.jobs.spawner.messages import Ids, Start

_OUTPUT = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
# What Python, or the spawner, ignores.
_BACK: Final = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_OOM_SCORE: Final = 300


def spawn(start: Start) -> int:
    """The pid of its process, which leads a session of its own. OSError where it cannot be started."""
    prepare(start)
    descriptors: list[int] = []
    try:
        descriptors.append(os.open(start.stdin or os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        descriptors += [os.open(f"{start.folder}/{name}", _OUTPUT, 0o600) for name in ("stdout", "stderr")]
        with _as(None if start.becomes else start.ids):
            with _limited(start.memory):
                pid = _posix_spawn(start, descriptors)
            # Here, since without a capability one may only limit one's own.
            _limit(pid, start.memory)
    finally:
        os.chdir("/")
        for descriptor in descriptors:
            os.close(descriptor)
    return pid


@contextlib.contextmanager
def _as(ids: Ids | None) -> Iterator[None]:
    """The spawner itself is that user for a moment, and root only by its saved id, which no program inherits: so no
    process has to be forked to change it, which takes three times as long.
    """
    if ids is None:
        yield
        return
    groups = os.getgroups()
    try:
        os.setgroups(ids.groups)
        os.setresgid(ids.group, ids.group, 0)
        os.setresuid(ids.user, ids.user, 0)
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


@contextlib.contextmanager
def _limited(memory: int) -> Iterator[None]:
    """From its first moment a job has the limit, though it could lift it until `_limit`; the spawner can, after it."""
    if not memory:
        yield
        return
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory if most < 0 else min(memory, most), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def prepare(start: Start) -> None:
    """Its own folder, which is its user's."""
    made = list(dict.fromkeys((start.place, start.home)))
    for folder in made:
        os.mkdir(folder, 0o700)
    for file in start.files:
        descriptor = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, file.mode)
        with open(descriptor, "wb") as writer:
            writer.write(file.content)
    if start.ids is not None:
        for path in (*(file.path for file in start.files), *reversed(made)):
            os.chown(path, start.ids.user, start.ids.group)


def clear(start: Start) -> bool:
    """Remove its own folder, where nothing is left in it but what was put there; whether it is gone."""
    try:
        for file in start.files:
            os.unlink(file.path)
        for folder in dict.fromkeys((start.home, start.place)):
            os.rmdir(folder)
    except OSError:
        return not os.path.lexists(start.place)
    return True


def _posix_spawn(start: Start, descriptors: list[int]) -> int:
    # There is no other way to say where it begins; nothing here uses a relative path.
    os.chdir(start.working_directory)
    return os.posix_spawn(
        start.argv[0],
        start.argv,
        start.environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, one, at) for at, one in enumerate(descriptors)],
        setsid=True,
        setsigmask=[],
        setsigdef=_BACK,
    )


def _limit(pid: int, memory: int) -> None:
    """Where memory runs short a job goes before homed does. It may have ended by now."""
    with contextlib.suppress(OSError):
        if memory:
            resource.prlimit(pid, resource.RLIMIT_DATA, (memory, memory))
        with open(f"/proc/{pid}/oom_score_adj", "r+b", buffering=0) as file:
            if int(file.read()) < _OOM_SCORE:
                file.write(str(_OOM_SCORE).encode())
