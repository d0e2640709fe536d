"""The families whose jobs homed runs, put together from the parts of jobs."""

import asyncio
from collections.abc import Callable, Sequence

from homed.api import executor, newremora, retire
from homed.api.executor import execute, workers
from homed.api.executor import jobs as executor_jobs
from homed.api.homei.board import Extras
from homed.api.newremora import jobs as newremora_jobs
from homed.api.newremora import servers, submissions, system
from homed.api.newremora.stream import JobStream
from homed.api.retire import tasks
from homed.api.routes import Family, Route
from homed.api.sse import EventStreams
from homed.config.jobs import Jobs as Config
from homed.health import Health
from homed.jobs.parts import Parts


def families(
    parts: Parts,
    config: Callable[[], Config],
    streams: EventStreams,
    extras: Extras,
    health: Health,
    stopping: asyncio.Event,
) -> Sequence[tuple[Family, Sequence[Route]]]:
    """Each with its routes; what they add to the answers that families share joins `extras`."""
    jobs, hosts = parts.jobs, parts.hosts
    extras.health = [system.queue(health, lambda: config().enabled)]
    extras.system = [system.totals(jobs, hosts)]
    return [
        (
            newremora.FAMILY,
            [
                *newremora_jobs.routes(jobs, hosts, JobStream(jobs, hosts, streams).follow),
                *submissions.routes(jobs, hosts),
                *servers.routes(hosts, parts.pem_files, parts.checks, jobs),
                *system.routes(jobs, hosts, lambda: config().slots),
            ],
        ),
        (retire.FAMILY, tasks.routes(jobs, config)),
        (
            executor.FAMILY,
            [
                *workers.routes(parts.workers),
                *executor_jobs.routes(
                    jobs, parts.workers, parts.reports, lambda: config().workers.poll_hold, stopping
                ),
                *execute.routes(jobs, parts.uploads, lambda: config().workers.upload_limit, stopping),
            ],
        ),
    ]  # fmt: skip
