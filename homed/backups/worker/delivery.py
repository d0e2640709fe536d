"""What is brought to a target is tried again where that fails for a while; what is said of it holds no secrets."""

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from homed.backups.records import Backup
from homed.backups.targets import SECRETS
from homed.backups.worker.context import Watch
from homed.errors import RemoteError

_FIRST_WAIT, _LONGEST_WAIT = 2.0, 120.0
_LONGEST_MESSAGE = 600
_SHORTEST_SECRET = 4


class TryAgainError(Exception):
    """This try failed, another may not."""


class Target(Protocol):
    def put(self, path: Path, record: Backup, watch: Watch) -> None:
        """Bring the archive there, whole and under its name, or find that it is there. It calls `watch.advance`.

        TryAgainError; RemoteError where trying again is of no use; Stopped; OSError of the archive itself.
        """
        ...


def deliver(
    path: Path,
    record: Backup,
    target: Target,
    settings: Mapping[str, str],
    watch: Watch,
    *,
    wait: Callable[[int], float],
) -> None:
    """Put it there, with as many tries as `settings` give; `wait` gives the seconds after the nth. RemoteError with the
    target's own words, secrets taken out; Stopped where it was cancelled.
    """
    size = path.stat().st_size
    tries = int(settings["tries"])
    for attempt in range(1, tries + 1):
        watch.check()
        watch.phase("copying", total=size)
        try:
            target.put(path, record, watch)
        except RemoteError as error:
            raise _refused(settings, str(error)) from error
        except TryAgainError as error:
            watch.check()  # what was ended because of a cancellation has not failed
            if attempt == tries:
                raise _refused(settings, f"{error} (tried {tries} times)" if tries > 1 else str(error)) from error
            watch.warn(f"Copy to '{settings['name']}': try {attempt} of {tries} failed: {shown(str(error), settings)}")
            _sleep(wait(attempt), watch)
        else:
            return


def backoff(attempt: int) -> float:
    """Seconds after the nth try: twice as long each time, at random, so that boards do not come all at once."""
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311


def shown(text: str, settings: Mapping[str, str]) -> str:
    """The target's words on one line, without its secrets, and not too many."""
    secrets = {line for name in SECRETS for line in [settings.get(name, ""), *settings.get(name, "").splitlines()]}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[: _LONGEST_MESSAGE - 1]}…"


def _refused(settings: Mapping[str, str], why: str) -> RemoteError:
    return RemoteError(
        f"The copy to '{settings['name']}' failed: {shown(why, settings)}", details={"target": settings["name"]}
    )


def _sleep(seconds: float, watch: Watch) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        watch.check()
        time.sleep(min(0.2, left))
