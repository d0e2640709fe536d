"""The board's time zone, reloaded whenever it changes."""

import logging
import os
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

log = logging.getLogger(__name__)
_FILE = Path("/etc/localtime")


class LocalZone:
    """`timedatectl set-timezone` replaces a link, and new zone data a file: both are noticed without a restart.

    The variable TZ goes before the file if it names a zone.
    """

    def __init__(self, file: Path = _FILE):
        self._file = file
        self._seen: object = None
        self._zone: tzinfo = UTC

    def __call__(self) -> tzinfo:
        """Return the zone as it is now. A file that cannot be read leaves what was known: UTC at first."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            self._read()
        return self._zone

    def _look(self) -> object:
        try:
            found = os.stat(self._file)
        except OSError:
            return os.environ.get("TZ"), None
        return os.environ.get("TZ"), found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> None:
        name = os.environ.get("TZ", "").removeprefix(":")
        try:
            if name and not name.startswith("/"):
                self._zone = ZoneInfo(name)
                return
            with open(name or self._file, "rb") as file:
                self._zone = ZoneInfo.from_file(file)
        except FileNotFoundError:
            self._zone = UTC  # a board without a zone is in UTC
        except (OSError, ValueError, ZoneInfoNotFoundError) as error:
            log.warning("Cannot read the time zone from %s: %s", name or self._file, error)
