"""Starting one job's process: its directory, its files, its descriptors, and who it is.

The process becomes its user by itself, after the fork: the spawner is root from its beginning to its end, so that no
job can ever send it a signal. And whatever lies in a job's directory is reached by descriptors (`dirfd`): other jobs of
the same user, or a container that has the directory, may exchange it at any moment.
"""

import contextlib
import os
import resource
import select
import signal
from typing import Final, NoReturn

from homed import dirfd
from homed.jobs.spawner.messages import Ids, Start

_OUTPUT = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_INPUT = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
# What Python, or the spawner, ignores.
_BACK: Final = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
_OOM_SCORE: Final = b"300"
# Another job of its user may stop it before it has become its program: it is made to go on, so often.
_MAX_STOPS: Final = 100
_STOP_CHECK: Final = 0.05
_MAX_REPORT: Final = 8192


def spawn(start: Start) -> int:
    """Start the process as a session leader and return its PID. Raises: OSError."""
    descriptors: list[int] = []
    try:
        stdin = prepare(start)
        descriptors.append(os.open(start.stdin or os.devnull, _INPUT) if stdin is None else stdin)
        descriptors += [os.open(f"{start.folder}/{name}", _OUTPUT, 0o600) for name in ("stdout", "stderr")]
        return _fork(start, descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def prepare(start: Start) -> int | None:
    """Make its own directory, which is its user's. If it reads one of its files, that is returned, open."""
    stdin = None
    with dirfd.parent(start.place) as (places, name), dirfd.made(name, places) as place:
        try:
            for file in start.files:
                descriptor = dirfd.write(_inner(file.path, start.place), place, file.content, file.mode)
                _give(descriptor, start.ids)
                if file.path == start.stdin and stdin is None:
                    stdin = descriptor
                else:
                    os.close(descriptor)
            if start.home != start.place:
                with dirfd.made(_inner(start.home, start.place), place) as home:
                    _give(home, start.ids)
            # From here on its user may change what is in it.
            _give(place, start.ids)
        except BaseException:
            if stdin is not None:
                os.close(stdin)
            raise
    return stdin


def clear(start: Start) -> bool:
    """Remove its directory if it has only the files put there; return whether it is gone."""
    try:
        with dirfd.parent(start.place) as (places, name):
            with dirfd.opened(name, places) as place:
                for file in start.files:
                    os.unlink(_inner(file.path, start.place), dir_fd=place)
                if start.home != start.place:
                    os.rmdir(_inner(start.home, start.place), dir_fd=place)
            os.rmdir(name, dir_fd=places)
    except OSError:
        return not os.path.lexists(start.place)
    return True


def _inner(path: str, place: str) -> str:
    above, name = os.path.split(path)
    if above != place or name in ("", ".", ".."):
        raise OSError(22, "is not in the job's directory", path)
    return name


def _give(descriptor: int, ids: Ids | None) -> None:
    if ids is not None:
        os.fchown(descriptor, ids.user, ids.group)


def _fork(start: Start, descriptors: list[int]) -> int:
    reads, writes = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
        if pid == 0:
            _become(start, descriptors, writes)
    except BaseException:
        os.close(reads)
        os.close(writes)
        raise
    os.close(writes)
    try:
        report = _report(reads, pid)
    finally:
        os.close(reads)
    if report:
        os.waitpid(pid, 0)
        number, _, name = report.partition(b" ")
        raise OSError(int(number), os.strerror(int(number)), os.fsdecode(name) or None)
    return pid


def _report(reads: int, pid: int) -> bytes:
    """Return the child's error if it cannot execute its program; empty if it has."""
    report, stops = b"", 0
    while len(report) < _MAX_REPORT and stops < _MAX_STOPS:
        if not select.select([reads], [], [], _STOP_CHECK)[0]:
            stops += 1
            os.kill(pid, signal.SIGCONT)
        elif data := os.read(reads, _MAX_REPORT):
            report += data
        else:
            break
    return report


def _become(start: Start, descriptors: list[int], writes: int) -> NoReturn:
    """In the child process: execute the job, or report the error, without the spawner's cleanup."""
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        for at, descriptor in enumerate(descriptors):
            os.dup2(descriptor, at)
        _limit(start.memory)
        for number in _BACK:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        ids = None if start.becomes else start.ids
        if ids is not None:
            os.setgroups(ids.groups)
            os.setresgid(ids.group, ids.group, ids.group)
            os.setresuid(ids.user, ids.user, ids.user)
        # As its user, who may not go everywhere.
        os.chdir(start.working_directory)
        os.execve(start.argv[0], start.argv, start.environment)  # noqa: S606  the job itself
    except OSError as error:
        name = os.fsencode(error.filename) if isinstance(error.filename, str | bytes) else b""
        _tell(writes, b"%d %s" % (error.errno or 0, name[: _MAX_REPORT // 2]))
    except BaseException:  # noqa: BLE001  it must never go on as a second spawner
        _tell(writes, b"22 ")
    finally:
        os._exit(127)


def _tell(writes: int, report: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(writes, report)


def _limit(memory: int) -> None:
    """Make the kernel's OOM killer prefer the job to homed."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
        if int(file.read()) < int(_OOM_SCORE):
            file.write(_OOM_SCORE)
    if memory:
        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = memory if most < 0 else min(memory, most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
