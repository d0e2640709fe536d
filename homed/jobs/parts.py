"""Builds the parts of jobs, of what the daemon gives; what is done at its start, and what it tells of them."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from homed.config.jobs import Jobs as Config
from homed.events import Events
from homed.health import Component, Level
from homed.jobs.claims import Claims
from homed.jobs.hosts import Hosts
from homed.jobs.jobs import Jobs
from homed.jobs.keeping import Keeping
from homed.jobs.ledger import Ledger
from homed.jobs.listing import JobListing
from homed.jobs.nodes import Facts, Nodes
from homed.jobs.output.outputs import Outputs
from homed.jobs.pem import PemFiles
from homed.jobs.placement import BUILTIN, LOCAL, SSH
from homed.jobs.ports import Runner
from homed.jobs.records import Job, State
from homed.jobs.reports import Reports
from homed.jobs.scheduler import Scheduler
from homed.jobs.ssh.check import Checks
from homed.jobs.ssh.connections import Connections
from homed.jobs.ssh.runner import SshRunner
from homed.jobs.tasks.builtin import Builtin
from homed.jobs.uploads import Uploads
from homed.jobs.workers import Workers
from homed.store.base import Store
from homed.vault import Vault

log = logging.getLogger(__name__)
Gauge = tuple[str, str, tuple[str, ...], list[tuple[tuple[str, ...], float]]]
Work = tuple[str, Callable[[], Coroutine[Any, Any, None]]]
FOLDER, UPLOADS = "jobs", "uploads"
_AGAIN = 10.0


class Board(NamedTuple):
    """The board's interface for jobs. `facts` must be quick; `info` is the result of the task system_info; `local` runs
    processes on it; `is_own_listener` tells whether homed itself listens at an address and port.
    """

    state: Path
    name: str
    boot: str
    facts: Callable[[], Facts]
    info: Callable[[], Awaitable[Mapping[str, Any]]]
    local: Runner
    is_own_listener: Callable[[str, int], bool]


class Parts:
    """`load` at the start, what `works` gives while homed runs, `stop` at its end."""

    def __init__(self, board: Board, store: Store, vault: Vault, events: Events, config: Callable[[], Config]):
        self._vault = vault
        self._broken: dict[str, int] = {}
        self._taken_up = False
        self.ended: Counter[tuple[str, str]] = Counter()
        self.listing = JobListing()
        self.outputs = Outputs(board.state / FOLDER, lambda: config().output_limit)
        self.ledger = Ledger(store, events, self.listing)
        self.nodes = Nodes(board.name, board.facts, config)
        self.pem_files = PemFiles(store, vault)
        self.hosts = Hosts(store, vault, self.pem_files)
        self.connections = Connections(self.hosts, lambda: config().ssh)
        self.checks = Checks(self.hosts, self.connections)
        self._runners: dict[str, Runner] = {
            LOCAL: board.local,
            SSH: SshRunner(self.connections),
            BUILTIN: Builtin(board.info, lambda: config().http, board.is_own_listener),
        }
        self.scheduler = Scheduler(self.ledger, self.nodes, self._runners, self.outputs, config, self._note, board.boot)
        self.claims = Claims(self.ledger, self.scheduler, self.outputs, config)
        self.keeping = Keeping(self.ledger, self.listing, self.outputs, config)
        self.jobs = Jobs(
            self.ledger, self.scheduler, self.claims, self.nodes, self.listing, self.outputs, self.hosts, config
        )
        self.uploads = Uploads(board.state / UPLOADS, lambda: config().workers)
        self.workers = Workers(store, self.jobs, events, lambda: config().workers)
        self.reports = Reports(self.jobs, self.workers)

    def _note(self, job: Job) -> None:
        self.ended[job.kind, str(job.state)] += 1
        if sum(self.ended.values()) % 1000 == 0:
            self.keeping.wake()

    async def open(self) -> None:
        """Make ready what answers of jobs are read from, also while there are none."""
        await self.listing.open()

    async def load(self) -> None:
        """Read what there is. What an earlier homed has left running is taken up by `works`."""
        await self.hosts.load()
        known = await self.ledger.load()
        # What a killed homed had forgotten, and not removed yet. Before there are new ones.
        gone = await asyncio.to_thread(self.outputs.sweep, known.__contains__)
        if gone:
            log.info("Removed the output of %d jobs that nothing is known of", len(gone))
        await self.workers.load()

    def works(self) -> Sequence[Work]:
        """What is to run as long as homed does, by name."""
        return (
            self._kept("job outputs", self.outputs.run),
            self._kept("jobs", self._schedule),
            self._kept("job keeping", self.keeping.run),
            self._kept("workers", self.workers.run),
            self._kept("uploads", self._sweep_uploads),
            self._kept("job leftovers", self._sweep),
        )

    def _kept(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> Work:
        """A fault about jobs, which strangers' commands may bring about, must not end who keeps the containers: it is
        begun again, and told of.
        """

        async def keep() -> None:
            while True:
                try:
                    await work()
                except Exception:
                    log.exception("%s failed, and is begun again", name)
                    self._broken[name] = self._broken.get(name, 0) + 1
                    await asyncio.sleep(_AGAIN)
                else:
                    return

        return name, keep

    async def _schedule(self) -> None:
        if not self._taken_up:
            self._taken_up = True
            await self.scheduler.load()
        await self.scheduler.run()

    async def _sweep(self) -> None:
        for runner in self._runners.values():
            await runner.sweep(self.ledger.active)

    async def _sweep_uploads(self) -> None:
        await self.uploads.run(lambda: self._needed(self.jobs.active()))

    def _needed(self, jobs: Iterable[Job]) -> set[str]:
        """The addresses of archives that jobs still need."""
        return {job.work.url for job in jobs if hasattr(job.work, "url")}

    async def stop(self) -> None:
        await self.scheduler.stop()
        await self.checks.close()
        for runner in self._runners.values():
            await runner.close()
        await self.connections.close()
        await self.workers.close()
        self.outputs.close()
        await self.listing.close()

    def tell(self) -> Component:
        """For /health."""
        if self._vault.trouble:
            return Component(Level.DEGRADED, self._vault.trouble, needed=False)
        if self._broken:
            said = ", ".join(f"{name} ({count})" for name, count in self._broken.items())
            return Component(Level.DEGRADED, f"failed since the start, see the journal: {said}", needed=False)
        return Component(Level.HEALTHY, needed=False)

    def gauges(self) -> list[Gauge]:
        states = Counter(str(job.state) for job in self.jobs.active())
        return [
            ("homed_jobs_active", "Jobs that have not ended, by state.", ("state",), [
                ((str(state),), states[str(state)]) for state in State if state not in _OVER
            ]),
            ("homed_jobs_ended", "Jobs that ended since the start, by kind and state.", ("kind", "state"), [
                (key, float(count)) for key, count in sorted(self.ended.items())
            ]),
        ]  # fmt: skip


_OVER = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT})
