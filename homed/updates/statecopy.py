"""homed's own state: copied before an update, put back where an older homed finds what a newer one has written.

A copy is the folder `updates/<id>/state`, with the files of the state and `copy.json`, which lists them and is written
last. Versions of homed read each other's `stamp.json` and `copy.json`: their shapes may grow, and what is in them keeps
its meaning. Everything here blocks, and has synced what it wrote when it returns.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from homed import atomic
from homed.errors import HomedError
from homed.store import migrations, snapshot
from homed.updates import putback, versions
from homed.updates.statefiles import (
    BESIDE,
    DATABASE,
    OTHERS,
    STAMP,
    adopt,
    check_room,
    copy_file,
    digest,
    explained,
    make_folder,
    read,
    remove,
    size,
)

log = logging.getLogger(__name__)
_MANIFEST: Final = "copy.json"
_ASIDE: Final = "newer-state"
_KEPT_ASIDE: Final = 3
# What homed needs to go on writing once the copy is made.
_RESERVE: Final = 8 * 1024 * 1024


class Stamp(msgspec.Struct, frozen=True):
    """Who wrote a state: the version of homed, and of the database's schema."""

    homed: Annotated[str, Meta(max_length=100)]
    schema: int


class _File(msgspec.Struct, frozen=True):
    name: str
    size: int
    sha256: str


class _Manifest(msgspec.Struct, frozen=True):
    stamp: Stamp
    files: tuple[_File, ...]


class Copy(NamedTuple):
    """`number` is the id of the update that it was made for: of two copies the one with the higher is the newer."""

    folder: Path
    number: int
    stamp: Stamp


class Act(StrEnum):
    KEEP = "keep"
    PUT_BACK = "put_back"
    REFUSE = "refuse"


class Decision(NamedTuple):
    act: Act
    reason: str
    copy: Copy | None = None


class Settled(NamedTuple):
    """What was done at a start. After PUT_BACK `put_back` says which copy it was and where what was there is now."""

    act: Act
    reason: str
    put_back: putback.PutBack | None = None


def settle(state: Path, version: str, known_schema: int, updates: Path) -> Settled:
    """Have the state be one that this homed may read: at its start, with the lock held, before anything is read of it.

    After REFUSE nothing was changed, and the store says why it is not opened. NoSpaceError, StoreError where a copy
    cannot be put back now: homed must not start on what is there.
    """
    finished = putback.finish(state)
    mine, written, copies = Stamp(version, known_schema), written_by(state), _readable_copies(updates)
    decision = decide(written, mine, copies)
    while decision.copy is not None and not is_whole(decision.copy.folder):
        copies.remove(decision.copy)
        decision = decide(written, mine, copies)
    if decision.copy is not None:
        folder = decision.copy.folder
        done = putback.put_back(state, folder, _names(folder), _new_aside(folder.parent))
        _prune(folder.parent)
        return Settled(decision.act, decision.reason, done)
    if finished is not None:
        return Settled(Act.PUT_BACK, "a copy of the state was being put back when homed ended", finished)
    return Settled(decision.act, decision.reason)


def decide(written: Stamp | None, mine: Stamp, copies: Sequence[Copy]) -> Decision:
    """What a homed of `mine` does with a state that a homed of `written` has left."""
    if written is None or not _newer(written, mine):
        return Decision(Act.KEEP, "no newer homed has written the state")
    wrote = f"homed {written.homed or 'of an unknown version'} (schema {written.schema}) has written the state"
    usable = [copy for copy in copies if not _newer(copy.stamp, mine)]
    if usable:
        copy = max(usable, key=lambda copy: copy.number)
        return Decision(Act.PUT_BACK, f"{wrote}: the copy from before update {copy.number} takes its place", copy)
    if written.schema > mine.schema:
        return Decision(Act.REFUSE, f"{wrote}, and there is no copy from before it")
    return Decision(Act.KEEP, f"{wrote}; there is no copy from before it, and its schema is known")


def _newer(a: Stamp, b: Stamp) -> bool:
    return a.schema > b.schema or versions.compare_own(a.homed, b.homed) > 0


def write_stamp(state: Path, version: str, schema: int) -> None:
    """Say who writes this state. NoSpaceError, StoreError where the disk does not take it."""
    try:
        atomic.write(state / STAMP, msgspec.json.encode(Stamp(version, schema)) + b"\n")
    except OSError as error:
        raise explained(f"{state / STAMP} cannot be written", error) from error


def read_stamp(path: Path) -> Stamp | None:
    """None where it is missing or damaged."""
    return read(path, Stamp)


def written_by(state: Path) -> Stamp | None:
    """Who wrote a state that no one has open. Of the schema the database itself knows: the stamp may be an old one."""
    stamp, schema = read_stamp(state / STAMP), snapshot.schema_of(state / DATABASE)
    if schema is None or (stamp is not None and schema > stamp.schema + migrations.MAX_AHEAD):
        return stamp
    return Stamp(stamp.homed if stamp else "", schema)


def copy(state: Path, into: Path, version: str, *, reserve: int = _RESERVE) -> Stamp:
    """Copy the state into the folder `into`, in place of a copy that is there; homed may write to it meanwhile.

    NoSpaceError where fewer than `reserve` bytes would be left; StoreError. What was there before is there then.
    """
    beside, old = _beside(into, "new"), _beside(into, "old")
    try:
        make_folder(into.parent)
        remove(beside)
        check_room(into.parent, sum(size(state / name) for name in (DATABASE, BESIDE[0], *OTHERS)), reserve)
        stamp = _fill(state, beside, version)
        if into.exists():
            # From here to the next rename `find_copies` finds the old one aside.
            remove(old)
            os.rename(into, old)
        os.rename(beside, into)
        atomic.sync_folder(into.parent)
    except (OSError, HomedError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise explained("the state cannot be copied", error) from error
    shutil.rmtree(old, ignore_errors=True)
    return stamp


def _fill(state: Path, folder: Path, version: str) -> Stamp:
    make_folder(folder)
    stamp = Stamp(version, snapshot.copy(state / DATABASE, folder / DATABASE))
    adopt(folder / DATABASE, os.stat(state / DATABASE))
    names = [DATABASE, *(name for name in OTHERS if name != STAMP and (state / name).is_file())]
    for name in names[1:]:
        copy_file(state / name, folder / name)
        atomic.sync_folder((folder / name).parent)
    write_stamp(folder, version, stamp.schema)
    files = tuple(_File(name, size(folder / name), digest(folder / name)) for name in (*names, STAMP))
    atomic.write(folder / _MANIFEST, msgspec.json.encode(_Manifest(stamp, files)) + b"\n")
    return stamp


def find_copies(updates: Path) -> Iterator[Copy]:
    """The copy in the folder of each update that has one; what was broken off is none."""
    for folder in updates.glob("*"):
        if not (folder.name.isascii() and folder.name.isdigit()):
            continue
        for kept in (folder / "state", _beside(folder / "state", "old")):
            manifest = read(kept / _MANIFEST, _Manifest)
            if manifest is not None:
                yield Copy(kept, int(folder.name), manifest.stamp)
                break


def _readable_copies(updates: Path) -> list[Copy]:
    """The same at a start, which a disk that fails must not stop: then there are none."""
    try:
        return list(find_copies(updates))
    except OSError as error:
        log.error("Cannot look for copies of the state in %s: %s", updates, error.strerror)  # noqa: TRY400
        return []


def is_whole(folder: Path) -> bool:
    """Whether every file of a copy is still what was written."""
    manifest = read(folder / _MANIFEST, _Manifest)
    if manifest is None or DATABASE not in _names(folder):
        return False
    try:
        return all(
            size(folder / file.name) == file.size and digest(folder / file.name) == file.sha256
            for file in manifest.files
            if file.name in (DATABASE, *OTHERS)
        )
    except OSError:
        return False


def _names(folder: Path) -> list[str]:
    """The files of a copy that are of homed's state, the database first."""
    manifest = read(folder / _MANIFEST, _Manifest)
    listed = {file.name for file in manifest.files} if manifest else set()
    return [name for name in (DATABASE, *OTHERS) if name in listed]


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


def _asides(folder: Path) -> list[tuple[int, Path]]:
    """What was set aside in the folder of an update, the oldest first."""
    found = []
    for path in folder.glob(f"{_ASIDE}*"):
        number = path.name.removeprefix(_ASIDE).removeprefix("-") or "1"
        if number.isascii() and number.isdigit():
            found.append((int(number), path))
    return sorted(found)


def _new_aside(folder: Path) -> Path:
    taken = _asides(folder)
    return folder / (f"{_ASIDE}-{taken[-1][0] + 1}" if taken else _ASIDE)


def _prune(folder: Path) -> None:
    """A board that goes to and fro between two systems must not fill its disk with what it sets aside."""
    for _, path in _asides(folder)[:-_KEPT_ASIDE]:
        shutil.rmtree(path, ignore_errors=True)
