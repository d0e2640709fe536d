"""The configuration in force: changed as a whole or not at all, kept on disk, told to whom it concerns."""

import contextlib
import errno
import json
import logging
import os
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from homed import atomic, config
from homed.config import Config
from homed.errors import ConfigError, FieldError, HomedError, StateUnavailableError, StoreError, ValidationError
from homed.health import Component, Level

log = logging.getLogger(__name__)

Listener = Callable[[Config], None]
Check = Callable[[Config], None]


class Settings:
    """Holds the configuration; `change` and `reload` check it whole before anything is changed.

    `override` comes over the file and what the API stored, and is kept nowhere: the environment, and over it the
    command line's flags. With `read_only` nothing is put right on the disk, and PermissionError is raised if this user
    may not read what the API stored. `trouble` says if, and why, something that the API stored is not in force.
    `checks` may refuse a configuration that is valid in itself (a listener without a key): they raise.
    """

    def __init__(
        self,
        file: Path,
        overlay_file: Path,
        *,
        override: Mapping[str, Any] | None = None,
        must_exist: bool = False,
        read_only: bool = False,
    ):
        self._file = file.absolute()
        self._overlay_file = overlay_file.absolute()
        self._read_only = read_only
        self._override = dict(override or {})
        self._base = config.read_file(file, must_exist=must_exist)
        self.trouble = ""
        self._overlay = self._stored()
        self.current = self._effective(self._checked(self._base, self._overlay), self._base, self._overlay)
        self._started = self.current
        self._before: tuple[dict[str, Any], dict[str, Any], Config] | None = None
        self._listeners: list[Listener] = []
        self._checks: list[Check] = []
        self._key_checks: list[Check] = []
        # A change and a reload come on threads of their own.
        self._lock = threading.Lock()

    @property
    def file(self) -> Path:
        """The owner's file."""
        return self._file

    @property
    def set_aside(self) -> Path:
        """The overlay that was found broken at a start."""
        return self._overlay_file.with_name(f"{self._overlay_file.name}.bad")

    def component(self) -> Component:
        """Return the report for /health on stored settings that are not in effect."""
        if self.trouble:
            return Component(Level.DEGRADED, self.trouble, needed=False)
        return Component(Level.HEALTHY, needed=False)

    def is_set(self, path: str) -> bool:
        """Return whether the field at this dotted path is set, rather than a default."""
        for layer in (self._base, self._overlay, self._override):
            value: object = layer
            for name in path.split("."):
                value = value.get(name) if isinstance(value, Mapping) else None
            if value is not None:
                return True
        return False

    def listen(self, listener: Listener) -> None:
        """Have `listener` called with every later configuration."""
        self._listeners.append(listener)

    def guard(self, check: Check, *, of_keys: bool = False) -> None:
        """Call `check` with every configuration before it is accepted. `of_keys`: it checks for a key."""
        self._checks.append(check)
        if of_keys:
            self._key_checks.append(check)

    def change(self, change: Mapping[str, Any]) -> list[str]:
        """Merge `change` into the overlay and apply it. The answer: which fields need a restart.

        ValidationError names every wrong field; ConfigError says why a valid change is refused; StoreError
        (CONFIG_NOT_SAVED) leaves everything as it was.
        This writes with fsync: call it off the event loop, then `apply` on it.
        """
        with self._lock:
            return self._change(change)

    def overridden(self, change: Mapping[str, Any]) -> list[str]:
        """List the fields of a change that are hidden by the command line or the environment."""
        above = tuple(config.paths_of(self._override))
        return sorted(path for path in config.paths_of(change) if config.under(path, above))

    def _change(self, change: Mapping[str, Any]) -> list[str]:
        over = config.merge(self._overlay, change)
        # Validated without the flags, because a start without them must find it valid.
        stored = self._checked(self._base, over)
        changed = config.changed_fields(self._checked(self._base, self._overlay), stored)
        refused = [path for path in changed if config.under(path, config.FILE_ONLY)]
        # What is shown may be sent back, also what the environment or a flag says.
        refused = [path for path in refused if not self._shows(path, stored)]
        if refused:
            raise ConfigError(
                f"{', '.join(refused)} can be set in {self._file} only",
                details={"errors": [{"field": path, "message": "can be set in the file only"} for path in refused]},
            )
        # Sent back as they were read, they would outlive a later change of the file.
        over = config.without(over, config.FILE_ONLY)
        stored = self._checked(self._base, over)
        new = self._effective(stored, self._base, over)
        self._ask_checks(stored, new)
        self._write_overlay(_shown(over))
        self._overlay = over
        self.current = new
        return self.restart_required()

    def _shows(self, path: str, stored: Config) -> bool:
        return config.value_at(stored, path) == config.value_at(self.current, path)

    def reload(self) -> list[str]:
        """Read both files anew. ConfigError leaves everything as it was."""
        with self._lock:
            return self._reload()

    def _reload(self) -> list[str]:
        stored, base, over = config.load(self._file, self._overlay_file)
        new = self._effective(stored, base, over)
        self._ask_checks(stored, new)
        self._base, self._overlay, self.current = base, over, new
        return self.restart_required()

    def try_out(self, file: Path | None, overlay: Path, *, with_keys: bool = False) -> None:
        """ConfigError if these two files (None: the owner's file as it is) could not be in force here. `with_keys`:
        keys are restored before them.
        """
        stored, base, over = config.load(file or self._file, overlay)
        self._ask_checks(stored, self._effective(stored, base, over), with_keys=with_keys)

    def plan_restore(self, file: Path, overlay: Path, *, with_keys: bool = False) -> list[str]:
        """Check that `restore` can take a backup's file and overlay, and list the settings it would leave as they are
        here, although that file says otherwise: those that the owner's file alone may set. ConfigError.
        """
        _, restored, given = config.load(file, overlay)
        base = config.read_file(self._file)
        over = config.carried_over(base, restored, given)
        stored = self._try(base, over, file)
        self._ask_checks(stored, self._effective(stored, base, over), with_keys=with_keys)
        return config.file_only_changes(base, restored)

    def _try(self, base: Mapping[str, Any], over: Mapping[str, Any], file: Path) -> Config:
        try:
            return self._checked(base, over)
        except ValidationError as error:
            raise ConfigError(f"{file} over {self._file}: {error.message}") from error

    def restore(self, overlay: bytes | None, file: bytes | None = None) -> list[str]:
        """Take another overlay (JSON; None: none), as from a backup, over the owner's file, which stays as it is.

        With `file`, what that owner's file (TOML) says is taken into the overlay too, but for what the file alone may
        set. The answer: which fields need a restart. ConfigError or StoreError leave everything as it was.
        """
        with self._lock:
            before = self._base, self._overlay, self.current
            data = overlay or b"{}\n"
            if file is not None:
                data = self._carried_over(file, data)
            try:
                self._write_overlay(data)
                restart = self._reload()
            except HomedError:
                self._write_overlay(_shown(before[1]))
                raise
            self._before = before
            return restart

    def _carried_over(self, file: bytes, overlay: bytes) -> bytes:
        try:
            over = json.loads(overlay)
            if not isinstance(over, dict):
                raise ConfigError("the overlay in the backup is not a JSON object")
            return _shown(config.carried_over(config.read_file(self._file), tomllib.loads(file.decode()), over))
        except ValidationError as error:
            raise ConfigError(f"the configuration in the backup cannot be in force here: {error.message}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the configuration in the backup cannot be read: {error}") from error

    def take_back(self) -> None:
        """Undo the last `restore`: the file is put back by who has changed it."""
        with self._lock:
            if self._before is not None:
                self._write_overlay(_shown(self._before[1]))
                self._base, self._overlay, self.current = self._before
                self._before = None

    def _stored(self) -> dict[str, Any]:
        """Read the overlay at the start. What is wrong in it must not keep homed from its containers: the file is set
        aside, and what is right in it stays in force.
        """
        try:
            _, _, over = config.load(self._file, self._overlay_file)
        except ConfigError as error:
            if self._read_only and isinstance(error.__cause__, PermissionError):
                raise error.__cause__ from None  # it may be right: who asks may not read it
            return self._salvage(error)
        if os.path.lexists(self.set_aside):
            self.trouble = f"settings that the API had stored were broken: look at {self.set_aside}, and remove it"
        return over

    def _salvage(self, error: ConfigError) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        dropped: list[str] = []
        with contextlib.suppress(ConfigError):
            over = config.without(config.read_overlay(self._overlay_file), config.FILE_ONLY)
            kept, dropped = config.usable(self._base, over)
        lost = f"not in force: {', '.join(dropped)}" if dropped else "none of them is in force"
        self.trouble = f"settings that were stored over the API are broken ({error.message}); {lost}"
        log.error("%s", self.trouble[:1].upper() + self.trouble[1:])
        if self._read_only:
            return kept
        try:
            if self.set_aside.is_dir():  # nothing else could take its place
                os.rename(self.set_aside, self.set_aside.with_name(f"{self.set_aside.name}-{int(time.time())}"))
            os.replace(self._overlay_file, self.set_aside)
            self.trouble += f"; the file is kept as {self.set_aside}: remove it when it is dealt with"
            if kept:
                atomic.write(self._overlay_file, _shown(kept))
        except OSError as failure:
            log.warning("%s cannot be set aside: %s", self._overlay_file, failure)
        return kept

    def drop(self, prefixes: tuple[str, ...], why: str) -> bool:
        """Disable stored values of these settings, at a start that would fail with them.

        Return whether there was anything.
        """
        with self._lock:
            over = config.without(self._overlay, prefixes)
            if over == self._overlay:
                return False
            stored = self._checked(self._base, over)
            self.current = self._started = self._effective(stored, self._base, over)
            self._overlay = over
            self.trouble = "; ".join(part for part in (self.trouble, why) if part)
            return True

    def _write_overlay(self, data: bytes) -> None:
        try:
            self._overlay_file.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(self._overlay_file, data)
        except OSError as error:
            said = f"{self._overlay_file}: cannot be written: {error}"
            if error.errno == errno.EROFS:
                raise StateUnavailableError(said, code="STATE_READ_ONLY") from error
            raise StoreError(said, code="CONFIG_NOT_SAVED") from error

    def apply(self) -> None:
        """Tell the listeners what is in force now."""
        for listener in self._listeners:
            listener(self.current)

    def restart_required(self) -> list[str]:
        """The fields whose value in force is not yet the one that the daemon started with."""
        fields = config.changed_fields(self._started, self.current)
        return sorted(path for path in fields if config.under(path, config.NEEDS_RESTART))

    def _checked(self, base: Mapping[str, Any], over: Mapping[str, Any]) -> Config:
        """Return the stored configuration, without the flags. Raises: ValidationError."""
        return config.check(config.merge(base, over))

    def _effective(self, stored: Config, base: Mapping[str, Any], over: Mapping[str, Any]) -> Config:
        """Return the effective configuration with the environment and the flags. Raises: ValidationError."""
        if not self._override:
            return stored
        return config.check(config.merge(config.merge(base, over), self._override))

    def _ask_checks(self, stored: Config, new: Config, *, with_keys: bool = False) -> None:
        for check in self._checks:
            if with_keys and check in self._key_checks:
                continue
            check(stored)
            if new is not stored:
                check(new)


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
