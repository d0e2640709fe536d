"""Starting one job's process: its folder, its files, its descriptors, and who it is."""

import contextlib
import os
import resource
import signal
from pathlib import Path
from typing import Final, NoReturn

from homed.jobs.spawner.messages import Ids, Start

_OUTPUT = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
# What Python, or the spawner, ignores.
_BACK: Final = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_OOM_SCORE: Final = 300


def spawn(start: Start) -> int:
    """The pid of its process, which leads a session of its own. OSError where it cannot be started."""
    prepare(start)
    folder = Path(start.folder)
    descriptors: list[int] = []
    try:
        descriptors.append(os.open(start.stdin or os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        descriptors += [os.open(folder / name, _OUTPUT, 0o600) for name in ("stdout", "stderr")]
        pid = _posix_spawn(start, descriptors) if start.ids is None else _fork(start, start.ids, descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    _limit(pid, start.memory)
    return pid


def prepare(start: Start) -> None:
    """Its own folder, which is its user's."""
    made = [Path(start.place), Path(start.home)]
    for folder in made:
        folder.mkdir(mode=0o700)
    for file in start.files:
        descriptor = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, file.mode)
        with open(descriptor, "wb") as writer:
            writer.write(file.content)
    if start.ids is not None:
        for path in (*(Path(file.path) for file in start.files), *reversed(made)):
            os.chown(path, start.ids.user, start.ids.group)


def clear(start: Start) -> bool:
    """Remove its own folder, where nothing is left in it but what was put there; whether it is gone."""
    try:
        for file in start.files:
            os.unlink(file.path)
        os.rmdir(start.home)
        os.rmdir(start.place)
    except OSError:
        return not os.path.lexists(start.place)
    return True


def _posix_spawn(start: Start, descriptors: list[int]) -> int:
    # There is no other way to say where it begins; nothing here uses a relative path.
    os.chdir(start.working_directory)
    try:
        return os.posix_spawn(
            start.argv[0],
            start.argv,
            start.environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, one, at) for at, one in enumerate(descriptors)],
            setsid=True,
            setsigmask=[],
            setsigdef=_BACK,
        )
    finally:
        os.chdir("/")


def _fork(start: Start, ids: Ids, descriptors: list[int]) -> int:
    """posix_spawn knows no other user. An error of the child comes through a pipe, which closes as it begins."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
        if pid == 0:
            _become(start, ids, descriptors, writer)
    finally:
        os.close(writer)
    with open(reader, "rb") as file:
        said = file.read()
    if said:
        os.waitpid(pid, 0)
        raise OSError(int(said), os.strerror(int(said)), start.argv[0])
    return pid


def _become(start: Start, ids: Ids, descriptors: list[int], writer: int) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        for number in (*_BACK, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        for at, one in enumerate(descriptors):
            os.dup2(one, at)
        os.setgroups(ids.groups)
        os.setgid(ids.group)
        os.setuid(ids.user)
        os.chdir(start.working_directory)
        os.execve(start.argv[0], start.argv, start.environment)  # noqa: S606  to start it is what this is for
    except OSError as error:
        os.write(writer, str(error.errno).encode())
    finally:
        os._exit(127)


def _limit(pid: int, memory: int) -> None:
    """Where memory runs short a job goes before homed does. It may have ended by now."""
    with contextlib.suppress(OSError):
        if memory:
            resource.prlimit(pid, resource.RLIMIT_DATA, (memory, memory))
        with open(f"/proc/{pid}/oom_score_adj", "r+b", buffering=0) as file:
            if int(file.read()) < _OOM_SCORE:
                file.write(str(_OOM_SCORE).encode())
