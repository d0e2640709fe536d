"""Run homed with each callback of its event loop measured: `python measured.py FILE [CGROUP] -- homed's arguments`.

Into FILE goes a line for each callback that took longer than 10 ms of CPU time: seconds, and what it was.
"""

import asyncio.events
import os
import sys
import time
from pathlib import Path

_WORTH_TELLING = 0.01


def measure(file: str) -> None:
    told = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
    run = asyncio.events.Handle._run

    def measured(self: asyncio.events.Handle) -> None:
        before = time.thread_time()
        run(self)
        spent = time.thread_time() - before
        if spent > _WORTH_TELLING:
            os.write(told, f"{spent:.4f} {self!r}"[:400].replace("\n", " ").encode() + b"\n")

    asyncio.events.Handle._run = measured  # type: ignore[method-assign]


if __name__ == "__main__":
    split = sys.argv.index("--")
    file, *cgroup = sys.argv[1:split]
    if cgroup:
        Path(cgroup[0], "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    measure(file)
    sys.argv = ["homed", *sys.argv[split + 1 :]]
    from homed.cli import main

    sys.exit(main())
