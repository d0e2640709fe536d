"""Which backups are kept: by examples, and whatever the backups, the rules and the time are."""

import random
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from homed.backups import names, retention
from homed.backups.records import Backup, Type
from homed.backups.retention import Retained, retain
from homed.config.backups import BackupSchedule, Retention

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def backup(
    at: datetime, stem: str = "board", kind: Type = Type.FULL, size: int = 1, damage: str | None = None
) -> Backup:
    extension = names.extension(kind, encrypted=False)
    name = str(names.Name(stem, at, extension))
    return Backup(name=name, type=kind, created_at=at, size=size, damage=damage, schedule="nightly")


def days_ago(*days: float) -> list[Backup]:
    return [backup(NOW - timedelta(days=day)) for day in days]


def kept(result: Retained) -> list[float]:
    """How many days old they are."""
    return [(NOW - verdict.backup.created_at) / timedelta(days=1) for verdict in result.kept]


def reasons(result: Retained) -> list[str]:
    return [verdict.reason for verdict in (*result.kept, *result.removed)]


def test_the_last_ones_are_kept() -> None:
    result = retain(days_ago(3, 1, 2, 0), Retention(last=2), NOW)
    assert kept(result) == [0, 1]
    assert reasons(result) == ["last 1", "last 2", "no generation keeps it", "no generation keeps it"]


def test_the_newest_of_each_day_is_kept_and_a_day_without_one_does_not_count() -> None:
    result = retain(days_ago(0, 0.1, 0.2, 5, 5.1, 9, 10), Retention(daily=3), NOW)
    assert kept(result) == [0, 5, 9]
    assert reasons(result)[:3] == ["daily 2026-11-21", "daily 2026-11-16", "daily 2026-11-12"]


def test_weeks_are_those_of_iso_and_end_on_sunday() -> None:
    monday, sunday = datetime(2027, 1, 4, tzinfo=UTC), datetime(2027, 1, 3, 23, tzinfo=UTC)
    made = [backup(monday), backup(sunday), backup(datetime(2026, 12, 28, tzinfo=UTC))]
    result = retain(made, Retention(weekly=5), monday)
    assert [(v.backup.created_at, v.reason) for v in result.kept] == [
        (monday, "weekly 2027-W01"),
        (sunday, "weekly 2026-W53"),
    ]


def test_months_and_days_are_those_of_utc() -> None:
    east = timezone(timedelta(hours=5))
    made = [backup(datetime(2026, 11, 1, 4, 59, tzinfo=east)), backup(datetime(2026, 10, 31, 20, tzinfo=UTC))]
    result = retain(made, Retention(monthly=2, daily=2), NOW)
    assert reasons(result) == ["daily 2026-10-31, monthly 2026-10", "no generation keeps it"]


def test_one_backup_can_be_kept_by_several_rules() -> None:
    result = retain(days_ago(0, 1, 40), Retention(last=1, daily=1, weekly=2, monthly=2), NOW)
    assert reasons(result) == [
        "last 1, daily 2026-11-21, weekly 2026-W47, monthly 2026-11",
        "weekly 2026-W42, monthly 2026-10",
        "no generation keeps it",
    ]


def test_without_rules_every_one_is_kept_also_a_damaged_one() -> None:
    made = [*days_ago(0, 1), backup(NOW - timedelta(days=2), damage="a flipped bit")]
    assert kept(retain(made, Retention(), NOW)) == [0, 1, 2]


def test_names_and_types_are_judged_apart() -> None:
    made = [
        backup(NOW - timedelta(days=day), stem, kind)
        for day in (1, 2)
        for stem in ("board", "board-2")
        for kind in Type
    ]
    assert kept(retain(made, Retention(last=1), NOW)) == [1, 1, 1, 1]


def test_a_damaged_one_takes_no_generations_place() -> None:
    made = [backup(NOW, damage="a flipped bit"), *days_ago(0.1, 1, 2)]
    result = retain(made, Retention(last=2, daily=2), NOW)
    assert kept(result) == [0.1, 1]
    assert result.removed[0] == (made[0], "damaged")


def test_of_damaged_ones_alone_the_generations_are_kept() -> None:
    made = [replace(one, damage="truncated") for one in days_ago(0, 1, 2)]
    assert kept(retain(made, Retention(daily=2), NOW)) == [0, 1]


def test_the_oldest_go_where_all_are_too_large() -> None:
    made = [replace(one, size=size) for one, size in zip(days_ago(0, 1, 2, 3), (4, 3, 1, 2), strict=True)]
    result = retain(made, Retention(max_size=8), NOW)
    assert kept(result) == [0, 1, 2]
    assert [verdict.reason for verdict in result.removed] == ["all together are larger than max_size"]


def test_the_newest_good_one_stays_however_large_it_is() -> None:
    made = [backup(NOW, damage="truncated", size=5), *[replace(one, size=100) for one in days_ago(1, 2)]]
    result = retain(made, Retention(max_size=8), NOW)
    assert kept(result) == [1]


def test_one_from_the_future_takes_no_place_and_is_not_removed() -> None:
    ahead = backup(NOW + timedelta(days=800))
    result = retain([ahead, *days_ago(0, 1)], Retention(last=1), NOW)
    assert result.kept == ((ahead, "from the future: a clock was wrong"), (days_ago(0)[0], "last 1"))


def test_a_clock_that_went_back_removes_nothing_that_was_there() -> None:
    made = days_ago(0, 1, 2)
    assert retain(made, Retention(last=1, max_size=1), datetime(1970, 1, 2, tzinfo=UTC)).removed == ()


def test_only_what_a_schedule_made_here_is_pruned_by_its_rules() -> None:
    old = days_ago(0, 1)
    nightly, hourly = ([replace(one, name=f"{name}-{one.name}", schedule=name) for one in old] for name in ("n", "h"))
    others = [
        replace(old[1], name=f"{i}{old[1].name}", schedule=schedule, uploaded=uploaded)
        for i, (schedule, uploaded) in enumerate([(None, False), ("gone", False), ("verifies", False), ("n", True)])
    ]
    schedules = [
        BackupSchedule(name="n", calendar="daily", retention=Retention(last=1)),
        BackupSchedule(name="h", calendar="hourly"),
        BackupSchedule(name="verifies", calendar="weekly", action="verify", retention=Retention(last=1)),
    ]

    result = retention.prune([*nightly, *hourly, *others], schedules, NOW)

    assert [verdict.backup for verdict in result.removed] == [nightly[1]]
    said = {verdict.backup.name: verdict.reason for verdict in result.kept}
    assert [said[one.name] for one in others] == [
        "made by hand",
        "its schedule 'gone' is not configured",
        "its schedule 'verifies' is not configured",
        "uploaded",
    ]


_moments = st.integers(-3 * 86_400, 500 * 86_400).map(lambda ago: NOW - timedelta(seconds=ago))
_backups = st.lists(
    st.builds(
        backup,
        _moments,
        st.sampled_from(["board", "other"]),
        st.sampled_from(Type),
        st.integers(0, 50),
        st.sampled_from([None, None, None, "damaged"]),
    ),
    max_size=40,
    unique_by=lambda one: one.name,
)
_few = st.integers(0, 6)
_generations = st.builds(Retention, last=_few, daily=_few, weekly=_few, monthly=_few)
_rules = st.builds(replace, _generations, max_size=st.sampled_from([0, 0, 1, 20, 200]))


def groups(backups: list[Backup]) -> list[list[Backup]]:
    """By name and type, the newest first."""
    found: dict[object, list[Backup]] = {}
    for one in sorted(backups, key=lambda one: one.created_at, reverse=True):
        found.setdefault((one.name.rsplit("-", 2)[0], one.type), []).append(one)
    return list(found.values())


def staying(result: Retained) -> set[str]:
    return {verdict.backup.name for verdict in result.kept}


@given(_backups, _rules)
def test_each_gets_one_verdict_and_the_newest_come_first(backups: list[Backup], rules: Retention) -> None:
    result = retain(backups, rules, NOW)
    told = [verdict.backup.name for verdict in (*result.kept, *result.removed)]
    assert sorted(told) == sorted(one.name for one in backups)
    assert all(reasons(result))
    for part in result:
        times = [verdict.backup.created_at for verdict in part]
        assert times == sorted(times, reverse=True)


@given(_backups, _rules)
def test_the_newest_good_one_is_never_removed(backups: list[Backup], rules: Retention) -> None:
    result = retain(backups, rules, NOW)
    for group in groups(backups):
        good = [one for one in group if one.whole]
        assert not good or good[0].name in staying(result)
        if any(one.created_at <= NOW for one in good):
            assert any(one.name in staying(result) for one in good if one.created_at <= NOW)


@given(_backups, _rules)
def test_done_again_nothing_more_goes(backups: list[Backup], rules: Retention) -> None:
    once = retain(backups, rules, NOW)
    assert retain([verdict.backup for verdict in once.kept], rules, NOW).removed == ()


@given(_backups, _rules, st.randoms())
def test_the_order_does_not_matter(backups: list[Backup], rules: Retention, chance: random.Random) -> None:
    shuffled = list(backups)
    chance.shuffle(shuffled)
    assert retain(shuffled, rules, NOW) == retain(backups, rules, NOW)


@given(_backups, _generations.filter(lambda rules: rules != Retention()), st.sampled_from(Retention.__struct_fields__))
def test_a_rule_that_is_raised_removes_nothing_more(backups: list[Backup], rules: Retention, field: str) -> None:
    # The bound on the size is none at 0, and a larger one only where there was one.
    low = replace(rules, max_size=20)
    high = replace(low, **{field: getattr(low, field) + 5})
    if field != "max_size":
        low, high = replace(low, max_size=0), replace(high, max_size=0)
    assert staying(retain(backups, low, NOW)) <= staying(retain(backups, high, NOW))


@given(_backups, _rules)
def test_what_a_bound_on_the_size_leaves_fits_or_is_the_newest_alone(backups: list[Backup], rules: Retention) -> None:
    result = retain(backups, rules, NOW)
    for group in groups([verdict.backup for verdict in result.kept]):
        past = [one for one in group if one.created_at <= NOW]
        if rules.max_size and sum(one.size for one in group) > rules.max_size:
            assert sum(one.size > 0 for one in past) <= 1


@given(_backups, _generations)
def test_no_more_are_kept_than_the_rules_say(backups: list[Backup], rules: Retention) -> None:
    most = rules.last + rules.daily + rules.weekly + rules.monthly
    for group in groups(backups):
        past = [one for one in group if one.created_at <= NOW]
        count = len(retain(past, rules, NOW).kept)
        assert count <= most if most else count == len(past)


@given(_backups, _generations, _moments)
def test_one_name_does_not_touch_another(backups: list[Backup], rules: Retention, at: datetime) -> None:
    more = [*backups, backup(at, stem="third")]
    assert {name for name in staying(retain(more, rules, NOW)) if not name.startswith("third")} == staying(
        retain(backups, rules, NOW)
    )
