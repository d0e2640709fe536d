"""What a restore puts where: a pure decision from the backup, the wish and the board. Why not, where it may not be."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from homed.backups.boardstate import Saved
from homed.backups.ports import Capture
from homed.backups.records import Backup, Section, Type
from homed.backups.wishes import RestoreWish
from homed.errors import ArchiveError, FieldError, ValidationError


class Chosen(NamedTuple):
    """The part of a backup that is wanted: services by name as they were stored, and trees."""

    services: Mapping[str, bytes]
    sections: tuple[Section, ...]


def choose(backup: Backup, saved: Saved, wish: RestoreWish) -> Chosen:
    """ValidationError where something is named that the backup does not hold.

    With services named and volumes not, the volumes are those that these services use.
    """
    errors: list[FieldError] = []
    services = dict(saved.services)
    if isinstance(wish.services, tuple):
        errors += _missing("services", wish.services, services, "service")
        services = {name: services[name] for name in wish.services if name in services}
    elif not wish.services:
        services = {}
    sections = [section for section in backup.sections if section.kind in ("volume", "path")]
    if backup.type is Type.FULL:
        # What was gone when it was to be read is in the list, and empty: nothing is replaced by that.
        sections = [section for section in sections if section.members]
    if isinstance(wish.volumes, tuple):
        errors += _missing("volumes", wish.volumes, {section.name for section in sections}, "volume or path")
        sections = [section for section in sections if section.name in wish.volumes]
    elif not wish.volumes:
        sections = []
    elif isinstance(wish.services, tuple):
        sections = [section for section in sections if set(section.users) & set(services)]
    if errors:
        raise ValidationError(errors)
    return Chosen(services, tuple(sections))


def _missing(field: str, named: Sequence[str], there: object, kind: str) -> list[FieldError]:
    assert isinstance(there, Mapping | set)
    return [
        FieldError(f"{field}[{i}]", f"the backup holds no {kind} '{name}'")
        for i, name in enumerate(named)
        if name not in there
    ]


def check_version(backup: Backup, wish: RestoreWish, schema: int) -> None:
    """ArchiveError (BACKUP_VERSION): what a newer homed has stored cannot be read here; its data can."""
    if backup.schema > schema and (wish.services or wish.config or wish.keys):
        raise ArchiveError(
            f"a newer homed ({backup.homed}) made it: update this board first, or restore the volumes alone",
            code="BACKUP_VERSION",
        )


def check_paths(sections: Sequence[Section], allowed: set[str]) -> None:
    """ArchiveError (BACKUP_UNSAFE) for a tree that no service mounts: an archive must not say where it is written."""
    for section in sections:
        if section.kind == "path" and section.name not in allowed:
            raise ArchiveError(
                f"{section.name} is in the backup, and no service of it or of this board mounts it",
                code="BACKUP_UNSAFE",
            )


def affected(captures: Sequence[Capture], services: Mapping[str, bytes], targets: Sequence[str]) -> list[str]:
    """The services that must not run meanwhile: those that are replaced or made, and those that use a target."""
    users = {
        capture.service
        for capture in captures
        if any(overlap(source.path, target) for source in capture.sources for target in targets)
    }
    return sorted(users | set(services))


def overlap(one: str, other: str) -> bool:
    """Whether one of two paths lies in the other, or is it."""
    if not one or not other:
        return False
    return PurePosixPath(one).is_relative_to(other) or PurePosixPath(other).is_relative_to(one)


def acts(
    records: Mapping[str, bytes], present: Mapping[str, bytes], same: Callable[[bytes, bytes], bool]
) -> list[dict[str, str]]:
    """What happens to each service: created, replaced, or left as it is."""
    found = []
    for name, record in sorted(records.items()):
        act = "create"
        if name in present:
            act = "unchanged" if same(record, present[name]) else "replace"
        found.append({"name": name, "act": act})
    return found
