"""What the process takes from itself before it looks at the expression: time, memory, files, processes, privileges."""

import ctypes
import os
import resource
import signal
from types import FrameType

from homed.jobs.tasks.evaluation.bounds import LimitError

_SECONDS = 10
_MEMORY = 256 << 20
# The answer's: it may be a file. There is no other that could be opened.
_FILE = 8 << 20
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38


def confine() -> None:
    """For good. OSError where the system does not let it: then nothing is evaluated."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    signal.signal(signal.SIGXCPU, _out_of_time)
    # The hard limit is what ends one that cannot be told.
    _limit(resource.RLIMIT_CPU, _SECONDS, _SECONDS + 1)
    _limit(resource.RLIMIT_AS, _MEMORY, _MEMORY)
    _limit(resource.RLIMIT_FSIZE, _FILE, _FILE)
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
        _limit(kind, 0, 0)


def _limit(kind: int, soft: int, hard: int) -> None:
    """Lower both, never raise one."""
    most = resource.getrlimit(kind)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))


def _out_of_time(number: int, frame: FrameType | None) -> None:
    raise LimitError(f"it takes more than {_SECONDS} s of processor time")
