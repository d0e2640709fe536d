"""Beside the event loop: waiting for a process that is not asyncio's, and ending a job's whole tree."""

import asyncio
import os
import time
from typing import Final

from homed.jobs.spawner.processes import Ending, Tracked, is_alive

_EVERY: Final = 0.02
_MOST: Final = 2.0


async def gone(pid: int, started: int) -> None:
    """Until this very process has ended; at once where there is none."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    try:
        # Its number may have been given to another before it was opened.
        if is_alive(pid, started):
            loop.add_reader(descriptor, ended.set)
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def end(job: Tracked) -> bool:
    """The whole tree, by TERM, then KILL. Whether none is left: what cannot be killed (it waits for a device) is."""
    ending, until = Ending(job, time.monotonic()), time.monotonic() + _MOST
    while not await asyncio.to_thread(ending.step, time.monotonic()):
        if time.monotonic() >= until:
            return False
        await asyncio.sleep(_EVERY)
    return True
