"""Whether the new system is as well as the old one was: pure, from what was healthy before and what is now."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from homed.updates.records import Complaint


class Finding(NamedTuple):
    """What a probe found: `reason` is None where it is healthy. `token` changes when it was away in between."""

    reason: str | None = None
    token: str = ""


Findings = Mapping[str, Finding]


class Verdict(StrEnum):
    WAIT = "wait"
    GOOD = "good"
    BAD = "bad"


class Trial(NamedTuple):
    """The judgement so far; times are seconds of the boot clock. `tokens` are those of the last look."""

    healthy_since: float | None = None
    tokens: Mapping[str, str] = {}
    complaints: tuple[Complaint, ...] = ()


class Terms(NamedTuple):
    """`until` on the boot clock: all must be healthy by then; `soak` seconds it must stay so."""

    until: float
    soak: float


def healthy(findings: Findings) -> tuple[str, ...]:
    """The probes that are to be healthy again after the update."""
    return tuple(sorted(name for name, finding in findings.items() if finding.reason is None))


def judge(required: Iterable[str], findings: Findings, trial: Trial, terms: Terms, now: float) -> tuple[Verdict, Trial]:
    """One look. A probe that is not there any more was taken away by its owner, and is not asked for.

    All healthy once within the deadline, the soak may end after it; a complaint after the deadline is the end.
    """
    asked = {name: findings[name] for name in required if name in findings}
    complaints = tuple(
        Complaint(name, found.reason) for name, found in sorted(asked.items()) if found.reason is not None
    )
    tokens = {name: found.token for name, found in asked.items()}
    if complaints:
        return (Verdict.BAD if now >= terms.until else Verdict.WAIT), Trial(None, tokens, complaints)
    away = [name for name, token in tokens.items() if trial.tokens.get(name, token) != token]
    since = now if trial.healthy_since is None or away else trial.healthy_since
    restless = tuple(Complaint(name, "was restarted meanwhile") for name in away)
    if now - since >= terms.soak:
        return Verdict.GOOD, Trial(since, tokens)
    if away and now >= terms.until:
        return Verdict.BAD, Trial(since, tokens, restless)
    return Verdict.WAIT, Trial(since, tokens, restless)


def reason(complaints: Iterable[Complaint]) -> str:
    """For people."""
    return "; ".join(f"{complaint.probe}: {complaint.reason}" for complaint in complaints)
