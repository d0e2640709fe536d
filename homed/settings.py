"""The configuration in force: changed as a whole or not at all, kept on disk, told to whom it concerns."""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from homed import atomic, config
from homed.config import Config
from homed.errors import ConfigError, FieldError, HomedError, StoreError, ValidationError

log = logging.getLogger(__name__)

Listener = Callable[[Config], None]
Check = Callable[[Config], None]


class Settings:
    """Holds the configuration; `change` and `reload` check it whole before anything is changed.

    `checks` may refuse a configuration that is valid in itself (a listener without a key): they raise.
    """

    def __init__(self, file: Path, overlay_file: Path, *, override: Mapping[str, Any] | None = None):
        self._file = file
        self._overlay_file = overlay_file
        self._override = dict(override or {})
        merged, self._base, self._overlay = config.load(file, overlay_file)
        self.current = self._checked(self._base, self._overlay) if self._override else merged
        self._started = self.current
        self._before: tuple[dict[str, Any], dict[str, Any], Config] | None = None
        self._listeners: list[Listener] = []
        self._checks: list[Check] = []
        # A change and a reload come on threads of their own.
        self._lock = threading.Lock()

    @property
    def file(self) -> Path:
        """The owner's file."""
        return self._file

    def listen(self, listener: Listener) -> None:
        """Have `listener` called with every later configuration."""
        self._listeners.append(listener)

    def guard(self, check: Check) -> None:
        """Have `check` called with every configuration before it is taken."""
        self._checks.append(check)

    def change(self, change: Mapping[str, Any]) -> list[str]:
        """Merge `change` into the overlay and apply it. The answer: which fields need a restart.

        ValidationError names every wrong field; ConfigError says why a valid change is refused; StoreError
        (CONFIG_NOT_SAVED) leaves everything as it was.
        This writes with fsync: call it off the event loop, then `apply` on it.
        """
        with self._lock:
            return self._change(change)

    def _change(self, change: Mapping[str, Any]) -> list[str]:
        over = config.merge(self._overlay, change)
        new = self._checked(self._base, over)
        changed = config.changed_fields(self.current, new)
        refused = [path for path in changed if config.under(path, config.FILE_ONLY)]
        if refused:
            raise ConfigError(
                f"{', '.join(refused)} can be set in {self._file} only",
                details={"errors": [{"field": path, "message": "can be set in the file only"} for path in refused]},
            )
        # Sent back as they were read, they would outlive a later change of the file.
        over = config.without(over, config.FILE_ONLY)
        for check in self._checks:
            check(new)
        self._write_overlay(_shown(over))
        self._overlay = over
        self.current = new
        return self.restart_required()

    def reload(self) -> list[str]:
        """Read both files anew. ConfigError leaves everything as it was."""
        with self._lock:
            return self._reload()

    def _reload(self) -> list[str]:
        _, base, over = config.load(self._file, self._overlay_file)
        new = self._checked(base, over)
        for check in self._checks:
            check(new)
        self._base, self._overlay, self.current = base, over, new
        return self.restart_required()

    def try_out(self, file: Path | None, overlay: Path) -> None:
        """ConfigError where these two files (None: the owner's file as it is) could not be in force here."""
        _, base, over = config.load(file or self._file, overlay)
        new = self._checked(base, over)
        for check in self._checks:
            check(new)

    def restore(self, overlay: bytes | None) -> list[str]:
        """Take another overlay (JSON; None: none) over the file as it is now, as from a backup.

        The answer: which fields need a restart. ConfigError or StoreError leave everything as it was.
        """
        with self._lock:
            before = self._base, self._overlay, self.current
            try:
                self._write_overlay(overlay or b"{}\n")
                restart = self._reload()
            except HomedError:
                self._write_overlay(_shown(before[1]))
                raise
            self._before = before
            return restart

    def take_back(self) -> None:
        """Undo the last `restore`: the file is put back by who has changed it."""
        with self._lock:
            if self._before is not None:
                self._write_overlay(_shown(self._before[1]))
                self._base, self._overlay, self.current = self._before
                self._before = None

    def _write_overlay(self, data: bytes) -> None:
        try:
            self._overlay_file.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(self._overlay_file, data)
        except OSError as error:
            raise StoreError(f"{self._overlay_file}: cannot be written: {error}", code="CONFIG_NOT_SAVED") from error

    def apply(self) -> None:
        """Tell the listeners what is in force now."""
        for listener in self._listeners:
            listener(self.current)

    def restart_required(self) -> list[str]:
        """The fields whose value in force is not yet the one that the daemon started with."""
        fields = config.changed_fields(self._started, self.current)
        return sorted(path for path in fields if config.under(path, config.NEEDS_RESTART))

    def _checked(self, base: Mapping[str, Any], over: Mapping[str, Any]) -> Config:
        return config.check(config.merge(config.merge(base, over), self._override))


def _shown(overlay: Mapping[str, Any]) -> bytes:
    return json.dumps(overlay, indent=2, sort_keys=True).encode() + b"\n"


def parse_change(body: object) -> Mapping[str, Any]:
    """The body of a change: the fields under `orchestrator`, as they are shown. ValidationError where it is not."""
    if not isinstance(body, dict) or set(body) != {"orchestrator"}:
        raise ValidationError([FieldError("orchestrator", "the body must be an object with this one field")])
    change = body["orchestrator"]
    if not isinstance(change, dict):
        raise ValidationError([FieldError("orchestrator", "must be an object")])
    # What was read can be sent back: the version is shown there and is not a setting.
    return {name: value for name, value in change.items() if name != "version"}
