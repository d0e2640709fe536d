"""Who may take a job, and who has taken one: decisions about pull workers, apart from what is done with them.

A worker that polls without its name takes a job of which nobody knows the owner until somebody reports on it. Until
then a claim has candidates: the workers that may have been the one that asked.
"""

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    IDLE = "idle"
    BUSY = "busy"
    OFFLINE = "offline"


class Refusal(StrEnum):
    """Why a poll gets no job."""

    NO_WORKER = "No idle workers available"
    NO_JOB = "No pending jobs"


class Poller(NamedTuple):
    """A worker as a claim sees it. `named`: it is known to give its name when it polls."""

    id: str
    online: bool
    address: str
    named: bool
    jobs: int = 0


class Claim(NamedTuple):
    """A job that a worker has: `worker` None while nobody knows whose it is of the `candidates`."""

    job: str
    token: int
    worker: str | None
    candidates: frozenset[str] = frozenset()


def refusal(worker: Poller | None, pollers: Iterable[Poller], unowned: int, slots: int = 1) -> Refusal | None:
    """Whether this poll may take a job, when one waits. With no `worker` nobody is named: then one of the workers
    must have nothing to do, once each of the `unowned` claims is counted for one. `slots` are how many jobs the
    named worker takes at once.
    """
    if worker is not None:
        return None if worker.jobs < slots else Refusal.NO_WORKER
    free = sum(1 for one in pollers if one.online and not one.jobs)
    return None if free > unowned else Refusal.NO_WORKER


def candidates(address: str, pollers: Iterable[Poller]) -> frozenset[str]:
    """Who may have sent a poll without a name: of those with nothing to do, rather one that never gave its name, and
    rather one at its address (there may be a proxy between).
    """
    free = [one for one in pollers if one.online and not one.jobs]
    tiers = (
        [one for one in free if not one.named and one.address == address],
        [one for one in free if not one.named],
        [one for one in free if one.address == address],
        free,
    )
    return frozenset(one.id for one in next((tier for tier in tiers if tier), []))


def presumed(claims: Iterable[Claim], pollers: Sequence[Poller]) -> dict[str, str]:
    """Whose each claim without an owner is taken to be, by job, where that is shown: the first that it may be."""
    free = dict.fromkeys(one.id for one in pollers if one.online and not one.jobs)
    found: dict[str, str] = {}
    for claim in claims:
        if claim.worker is None:
            first = next((id for id in free if id in claim.candidates), None)
            if first is not None:
                found[claim.job] = first
                del free[first]
    return found


def lost(claims: Iterable[Claim], online: Collection[str]) -> list[Claim]:
    """The claims whose worker is gone, or none is left that it could be."""
    return [
        claim
        for claim in claims
        if (claim.worker not in online if claim.worker is not None else claim.candidates.isdisjoint(online))
    ]


def without(claim: Claim, worker: str) -> Claim:
    """The claim when it is known that it is not this worker's."""
    return claim._replace(candidates=claim.candidates - {worker}) if claim.worker is None else claim


def only(claim: Claim) -> str | None:
    """Return the owner of the claim if it is known, or if only one candidate is left."""
    return claim.worker or (next(iter(claim.candidates)) if len(claim.candidates) == 1 else None)
