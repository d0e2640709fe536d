"""A copy of the state in the place of the state: whole or not at all, wherever the power goes.

All that needs room is done beside first. Then one rename, of `.put-back.new` to `put-back`, decides: from there on
`finish` leads to the end, at this start or at the next, of this version of homed or another. So the shape of
`put-back/put-back.json` may grow, and what is in it keeps its meaning.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from homed import atomic
from homed.errors import StoreError
from homed.updates.statefiles import (
    BESIDE,
    DATABASE,
    OTHERS,
    check_room,
    copy_file,
    explained,
    make_folder,
    read,
    remove,
    size,
)

_STAGED: Final = "put-back"
_BEGUN: Final = ".put-back.new"
_ENDED: Final = ".put-back.done"
_NOTE: Final = "put-back.json"
_RESERVE: Final = 64 * 1024


class PutBack(NamedTuple):
    """`copy` is in the state's place now; what was there is in `aside`."""

    copy: Path
    aside: Path


class _Note(msgspec.Struct, frozen=True):
    """The folders are under the state, or absolute; `files` are all that were staged."""

    copy: str
    aside: str
    files: tuple[str, ...]


def put_back(state: Path, copy: Path, files: Sequence[str], aside: Path) -> PutBack:
    """Put these files of the copy, which stays as it is, in the state's place; `aside` is a folder to be made.

    NoSpaceError and StoreError: nothing has been changed, or `finish` has yet to end it.
    """
    finish(state)
    begun = state / _BEGUN
    try:
        check_room(state, sum(size(copy / name) for name in files), _RESERVE)
        _stage(begun, copy, files, _Note(_under(state, copy), _under(state, aside), tuple(files)))
        os.rename(begun, state / _STAGED)
        atomic.sync_folder(state)
    except OSError as error:
        shutil.rmtree(begun, ignore_errors=True)
        raise explained(f"{copy} cannot be put back", error) from error
    finish(state)
    return PutBack(copy, aside)


def is_under_way(state: Path) -> bool:
    """Whether a put-back was begun and not ended."""
    return (state / _STAGED).exists()


def finish(state: Path) -> PutBack | None:
    """End what `put_back` has begun; None where there is nothing to be ended. Until then the state must not be opened.

    NoSpaceError, StoreError where it cannot be ended now.
    """
    staged = state / _STAGED
    try:
        remove(state / _BEGUN)
        remove(state / _ENDED)
        if not staged.exists():
            return None
        note = read(staged / _NOTE, _Note)
        if note is None:
            raise StoreError(f"{staged / _NOTE} is damaged: the state cannot be told from its copy")
        done = PutBack(state / note.copy, state / note.aside)
        _exchange(state, staged, done.aside, note.files)
        os.rename(staged, state / _ENDED)
        atomic.sync_folder(state)
        remove(state / _ENDED)
    except OSError as error:
        raise explained("the state's copy cannot be put back", error) from error
    return done


def _stage(folder: Path, copy: Path, files: Iterable[str], note: _Note) -> None:
    make_folder(folder)
    for name in files:
        copy_file(copy / name, folder / name)
        atomic.sync_folder((folder / name).parent)
    atomic.write(folder / _NOTE, msgspec.json.encode(note))


def _exchange(state: Path, staged: Path, aside: Path, files: Sequence[str]) -> None:
    """Move the state aside, then what is staged into its place. A staged file that is gone is in its place already."""
    waiting = [name for name in files if (staged / name).exists()]
    leaving = [name for name in OTHERS if name in waiting or name not in files]
    if DATABASE in waiting:
        # Once the database is in its place, what is beside it is its own.
        leaving += [DATABASE, *BESIDE]
    make_folder(aside)
    for name in leaving:
        if os.path.lexists(state / name):
            make_folder((aside / name).parent)
            _set_aside(state / name, _free(aside / name))
    _sync(leaving, aside, state)
    # Only now: a log that still lay there would be taken for one of the database that is put back.
    for name in waiting:
        make_folder((state / name).parent)
        os.rename(staged / name, state / name)
    _sync(waiting, state, staged)


def _sync(names: Iterable[str], target: Path, source: Path) -> None:
    """The folders of what was moved: where it came to first, so that a power cut leaves it in one of them, or both."""
    inside = {Path(name).parent for name in names} | {Path()}
    for folder in (target, source):
        for path in sorted(folder / part for part in inside):
            if path.is_dir():
                atomic.sync_folder(path)


def _set_aside(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # The updates are on a disk of their own.
        beside = target.with_name(f".{target.name}.new")
        beside.unlink(missing_ok=True)
        copy_file(source, beside)
        os.rename(beside, target)
        atomic.sync_folder(target.parent)
        source.unlink()


def _free(path: Path) -> Path:
    """This name, or one beside it: `homed key` may have made a database where the state had just been moved away."""
    free, number = path, 1
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


def _under(state: Path, path: Path) -> str:
    """The path as it is from the state: another system may have the disk mounted elsewhere."""
    state, path = state.absolute(), path.absolute()
    return str(path.relative_to(state) if path.is_relative_to(state) else path)
