"""Which backups are kept and which go, by generations. Pure: it is told the backups, the rules and the time."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import NamedTuple

from homed.backups import names
from homed.backups.records import Backup, Type
from homed.config.backups import BackupSchedule, Retention

Period = Callable[[datetime], str]


class Verdict(NamedTuple):
    """A backup, and why it is kept or goes."""

    backup: Backup
    reason: str


class Retained(NamedTuple):
    """Both newest first."""

    kept: tuple[Verdict, ...]
    removed: tuple[Verdict, ...]


def prune(backups: Iterable[Backup], schedules: Iterable[BackupSchedule], now: datetime) -> Retained:
    """The verdict on every backup, each by the retention of the schedule that made it; `now` in any time zone."""
    rules = {schedule.name: schedule.retention for schedule in schedules if schedule.action == "create"}
    concerned: dict[str, list[Backup]] = {}
    kept: list[Verdict] = []
    removed: list[Verdict] = []
    for backup in backups:
        if backup.uploaded:
            kept.append(Verdict(backup, "uploaded"))
        elif backup.schedule is None:
            kept.append(Verdict(backup, "made by hand"))
        elif backup.schedule not in rules:
            kept.append(Verdict(backup, f"its schedule '{backup.schedule}' is not configured"))
        else:
            concerned.setdefault(backup.schedule, []).append(backup)
    for schedule, made in concerned.items():
        part = retain(made, rules[schedule], now)
        kept += part.kept
        removed += part.removed
    return _sorted(kept, removed)


def retain(backups: Iterable[Backup], rules: Retention, now: datetime) -> Retained:
    """By these rules, for each name and type apart. The newest that is whole always stays."""
    groups: dict[tuple[str, Type], list[Backup]] = {}
    for backup in backups:
        parsed = names.parse(backup.name)
        groups.setdefault((parsed.stem if parsed else backup.name, backup.type), []).append(backup)
    kept: list[Verdict] = []
    removed: list[Verdict] = []
    for group in groups.values():
        part = _of_one_name(sorted(group, key=_age), rules, now)
        kept += part.kept
        removed += part.removed
    return _sorted(kept, removed)


def _of_one_name(backups: Sequence[Backup], rules: Retention, now: datetime) -> Retained:
    """`backups` newest first."""
    # Either time may be the wrong one: such a backup takes no other's place, and is not removed.
    ahead = [backup for backup in backups if backup.created_at > now]
    past = [backup for backup in backups if backup.created_at <= now]
    # What is damaged keeps no generation, unless there is nothing else.
    candidates = [backup for backup in past if backup.whole] or past
    if rules.last or rules.daily or rules.weekly or rules.monthly:
        reasons = _generations(candidates, rules)
    else:
        reasons = {backup.name: "every one is kept" for backup in past}
    lost = {b.name: "no generation keeps it" if b in candidates else "damaged" for b in past if b.name not in reasons}
    lost |= _too_large(backups, reasons, candidates[:1], rules.max_size, sum(backup.size for backup in ahead))
    reasons |= {backup.name: "from the future: a clock was wrong" for backup in ahead}
    return Retained(
        tuple(Verdict(backup, reasons[backup.name]) for backup in backups if backup.name not in lost),
        tuple(Verdict(backup, lost[backup.name]) for backup in backups if backup.name in lost),
    )


def _generations(backups: Sequence[Backup], rules: Retention) -> dict[str, str]:
    """Why each is kept, by name: the newest of each period, for as many periods as the rule says that have one."""
    numbers = count(1)
    periods: Mapping[str, tuple[int, Period]] = {
        "last": (rules.last, lambda _: str(next(numbers))),
        "daily": (rules.daily, lambda at: f"{at:%Y-%m-%d}"),
        "weekly": (rules.weekly, lambda at: "{}-W{:02}".format(*at.isocalendar())),
        "monthly": (rules.monthly, lambda at: f"{at:%Y-%m}"),
    }
    reasons: dict[str, list[str]] = {}
    for rule, (most, period) in periods.items():
        seen: set[str] = set()
        for backup in backups:
            if len(seen) == most:
                break
            named = period(backup.created_at.astimezone(UTC))
            if named not in seen:
                seen.add(named)
                reasons.setdefault(backup.name, []).append(f"{rule} {named}")
    return {name: ", ".join(why) for name, why in reasons.items()}


def _too_large(
    backups: Sequence[Backup], kept: Mapping[str, str], spared: Sequence[Backup], most: int, besides: int
) -> dict[str, str]:
    """Which go for their size, the oldest first: `besides` is what is there and stays. `most` of 0 is no bound."""
    staying = [backup for backup in backups if backup.name in kept]
    size = besides + sum(backup.size for backup in staying)
    lost = {}
    for backup in reversed(staying):
        if not most or size <= most:
            break
        if backup not in spared:
            size -= backup.size
            lost[backup.name] = "all together are larger than max_size"
    return lost


def _age(backup: Backup) -> tuple[float, str]:
    return -backup.created_at.timestamp(), backup.name


def _sorted(kept: Iterable[Verdict], removed: Iterable[Verdict]) -> Retained:
    def age(verdict: Verdict) -> tuple[float, str]:
        return _age(verdict.backup)

    return Retained(tuple(sorted(kept, key=age)), tuple(sorted(removed, key=age)))
