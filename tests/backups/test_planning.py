from datetime import UTC, datetime

import msgspec
import pytest

from homed.backups import planning
from homed.backups.boardstate import Saved
from homed.backups.ports import Capture, Mode, Source
from homed.backups.records import Backup, Section, Type
from homed.backups.wishes import RestoreWish
from homed.errors import ArchiveError, ValidationError

DATA = Section(kind="volume", name="data", prefix="volumes/data", users=("web",), members=1)
LOGS = Section(kind="path", name="/data/logs", prefix="paths/0", users=("web", "log"), members=1)
OTHER = Section(kind="volume", name="other", prefix="volumes/other", users=("db",), members=1)
BACKUP = Backup(
    name="b-20240101-000000.tar.gz",
    type=Type.FULL,
    created_at=datetime(2024, 1, 1, tzinfo=UTC),
    size=1,
    homed="9.9",
    schema=1,
    sections=(Section(kind="state", name="state", prefix="state"), DATA, LOGS, OTHER),
)
SAVED = Saved({"web": b"{}", "db": b"{}", "log": b"{}"}, {}, None, has_config=False)


def test_all_of_it_is_chosen_unless_something_else_is_said() -> None:
    chosen = planning.choose(BACKUP, SAVED, RestoreWish())

    assert set(chosen.services) == {"web", "db", "log"}
    assert chosen.sections == (DATA, LOGS, OTHER)


def test_homeds_own_state_is_no_tree_that_is_put_anywhere() -> None:
    assert all(section.kind != "state" for section in planning.choose(BACKUP, SAVED, RestoreWish()).sections)


def test_what_was_gone_when_it_was_to_be_read_replaces_nothing() -> None:
    empty = msgspec.structs.replace(DATA, members=0)
    backup = msgspec.structs.replace(BACKUP, sections=(empty, OTHER))

    assert planning.choose(backup, SAVED, RestoreWish()).sections == (OTHER,)


def test_with_services_named_the_volumes_are_theirs() -> None:
    chosen = planning.choose(BACKUP, SAVED, RestoreWish(services=("db",)))

    assert (set(chosen.services), chosen.sections) == ({"db"}, (OTHER,))


def test_volumes_and_paths_are_chosen_by_name() -> None:
    chosen = planning.choose(BACKUP, SAVED, RestoreWish(services=False, volumes=("data", "/data/logs")))

    assert (chosen.services, chosen.sections) == ({}, (DATA, LOGS))


def test_what_the_backup_does_not_hold_is_named_field_by_field() -> None:
    with pytest.raises(ValidationError) as caught:
        planning.choose(BACKUP, SAVED, RestoreWish(services=("web", "nope"), volumes=("no",)))

    assert [error.field for error in caught.value.errors] == ["services[1]", "volumes[0]"]


def test_records_of_a_newer_homed_are_refused_and_its_data_is_not() -> None:
    newer = RestoreWish()
    with pytest.raises(ArchiveError) as caught:
        planning.check_version(BACKUP, newer, schema=0)
    assert caught.value.code == "BACKUP_VERSION"

    planning.check_version(BACKUP, RestoreWish(services=False, config=False), schema=0)
    planning.check_version(BACKUP, newer, schema=1)


def test_a_path_that_no_service_mounts_is_not_written_to() -> None:
    with pytest.raises(ArchiveError) as caught:
        planning.check_paths((LOGS,), {"/data"})
    assert caught.value.code == "BACKUP_UNSAFE"

    planning.check_paths((LOGS, DATA), {"/data/logs"})


@pytest.mark.parametrize(
    ("target", "found"),
    [("/data/logs", ["log", "web"]), ("/data", ["log", "web"]), ("/data/logs/old", ["log", "web"]), ("/data2", [])],
)
def test_whoever_uses_a_target_or_something_in_or_above_it_is_stopped(target: str, found: list[str]) -> None:
    source = Source("path", "/data/logs", "/data/logs")
    captures = [Capture("web", Mode.LIVE, (source,)), Capture("log", Mode.LIVE, (source,)), Capture("x", Mode.LIVE, ())]

    assert planning.affected(captures, {}, [target]) == found


def test_a_service_that_is_replaced_or_made_does_not_run_meanwhile_although_its_data_stays() -> None:
    captures = [Capture("web", Mode.LIVE, ()), Capture("other", Mode.LIVE, ())]

    assert planning.affected(captures, {"web": b"", "new": b""}, []) == ["new", "web"]


def test_it_is_said_what_happens_to_each_service() -> None:
    acts = planning.acts({"a": b"1", "b": b"1", "c": b"1"}, {"a": b"1", "b": b"2"}, lambda one, other: one == other)

    assert [act["act"] for act in acts] == ["unchanged", "replace", "create"]
