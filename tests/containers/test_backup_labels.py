"""What labels say of a service's backup, and what is refused of them by its field."""

import pytest

from homed.containers import backup_labels
from homed.containers.backup_labels import Wishes
from homed.containers.spec import ServiceSpec
from homed.errors import ValidationError
from homed.model import Hook, Mode

VOLUMES = ("data:/data", "/srv/app/:/app", "cache:/cache")


def wrong(**labels: str) -> list[str]:
    given = {f"io.homed.backup{'.' * bool(name)}{name}": value for name, value in labels.items()}
    try:
        ServiceSpec(image="app:1", volumes=VOLUMES, labels=given)
    except ValidationError as error:
        return [one.field.removeprefix("labels.io.homed.backup") for one in error.errors]
    return []


def test_without_labels_a_service_is_captured_while_it_runs() -> None:
    assert backup_labels.wishes({"colour": "green"}) == Wishes(Mode.LIVE, None, None, frozenset())


def test_the_labels_say_how_a_service_is_captured() -> None:
    labels = {
        "io.homed.backup": "stopped",
        "io.homed.backup.before": "pg_dump > /data/dump",
        "io.homed.backup.after": "rm /data/dump",
        "io.homed.backup.timeout": "12.5",
        "io.homed.backup.exclude": " cache, /srv/app/ ,",
    }
    ServiceSpec(image="app:1", volumes=VOLUMES, labels=labels)
    assert backup_labels.wishes(labels) == Wishes(
        Mode.STOPPED, Hook("pg_dump > /data/dump", 12.5), Hook("rm /data/dump", 12.5), frozenset({"cache", "/srv/app"})
    )


def test_a_hook_has_five_minutes_where_nothing_else_is_said() -> None:
    assert backup_labels.wishes({"io.homed.backup.before": "sync"}).before == Hook("sync", 300.0)


@pytest.mark.parametrize("mode", ["", "Live", "frozen", "paused "])
def test_an_unknown_mode_is_refused(mode: str) -> None:
    assert wrong(**{"": mode}) == [""]


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "1e3", "86401", "5 s", "٣"])
def test_a_deadline_that_is_no_time_is_refused(text: str) -> None:
    assert wrong(timeout=text) == [".timeout"]


def test_an_empty_hook_is_refused() -> None:
    assert wrong(before=" ", after="") == [".before", ".after"]


@pytest.mark.parametrize("text", ["", " , ", "chace", "data,/srv", "/srv/app/sub"])
def test_what_names_none_of_the_volumes_is_refused(text: str) -> None:
    assert wrong(exclude=text) == [".exclude"]


def test_a_volume_that_is_wrong_itself_hides_no_other_error() -> None:
    with pytest.raises(ValidationError) as refused:
        ServiceSpec(image="app:1", volumes=("nonsense",), labels={"io.homed.backup.exclude": "x"})
    assert [one.field for one in refused.value.errors] == ["volumes[0]"]
