"""What a service's labels say of its backup: how it is captured, its hooks, and what is left out."""

import re
from collections.abc import Iterable, Mapping
from posixpath import normpath
from typing import NamedTuple

from homed.errors import FieldError
from homed.model import Hook, Mode

MODE = "io.homed.backup"
BEFORE, AFTER = f"{MODE}.before", f"{MODE}.after"
TIMEOUT, EXCLUDE = f"{MODE}.timeout", f"{MODE}.exclude"
LABELS = frozenset({MODE, BEFORE, AFTER, TIMEOUT, EXCLUDE})
_DEFAULT_TIMEOUT, _LONGEST_TIMEOUT = 300.0, 86_400.0


class Wishes(NamedTuple):
    """`exclude` holds names of volumes and paths, as the service's `volumes` name them."""

    mode: Mode = Mode.LIVE
    before: Hook | None = None
    after: Hook | None = None
    exclude: frozenset[str] = frozenset()


def wishes(labels: Mapping[str, str]) -> Wishes:
    """From labels that were checked."""
    timeout = _timeout(labels.get(TIMEOUT, str(_DEFAULT_TIMEOUT)))
    return Wishes(
        mode=Mode(labels.get(MODE, Mode.LIVE)),
        before=Hook(labels[BEFORE], timeout) if BEFORE in labels else None,
        after=Hook(labels[AFTER], timeout) if AFTER in labels else None,
        exclude=frozenset(_excluded(labels.get(EXCLUDE, ""))),
    )


def errors(labels: Mapping[str, str], mounted: Iterable[str] | None) -> list[FieldError]:
    """What is wrong with them. `mounted` are the volumes and paths that there are to be left out; None: not known."""
    found = []
    if labels.get(MODE, Mode.LIVE) not in list(Mode):
        found.append(FieldError(f"labels.{MODE}", f"must be {', '.join(Mode)}"))
    found += [
        FieldError(f"labels.{name}", "must be a command: it is empty")
        for name in (BEFORE, AFTER)
        if name in labels and not labels[name].strip()
    ]
    if TIMEOUT in labels:
        try:
            _timeout(labels[TIMEOUT])
        except ValueError as error:
            found.append(FieldError(f"labels.{TIMEOUT}", str(error)))
    known = None if mounted is None else set(mounted)
    excluded = _excluded(labels.get(EXCLUDE, ""))
    if EXCLUDE in labels and not excluded:
        found.append(FieldError(f"labels.{EXCLUDE}", "must name volumes or paths, with commas between"))
    # A name that is wrong would put into each backup what was to stay out of it.
    found += [
        FieldError(f"labels.{EXCLUDE}", f"'{name}' is none of the service's volumes")
        for name in excluded
        if known is not None and name not in known
    ]
    return found


def _excluded(text: str) -> list[str]:
    names = (name.strip() for name in text.split(","))
    return [normpath(f"/{name.lstrip('/')}") if name.startswith("/") else name for name in names if name]


def _timeout(text: str) -> float:
    if not re.fullmatch(r"\d{1,5}(\.\d{1,3})?", text, re.ASCII) or not 0 < float(text) <= _LONGEST_TIMEOUT:
        raise ValueError("must be seconds, more than 0 and at most 86400")
    return float(text)
