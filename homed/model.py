"""What several capabilities speak of, and none of them owns: how the data of a service is captured."""

from enum import StrEnum
from typing import NamedTuple


class Mode(StrEnum):
    """How a service's data is captured: while it runs, while its control group is frozen, or while it is stopped."""

    LIVE = "live"
    PAUSED = "paused"
    STOPPED = "stopped"


class Hook(NamedTuple):
    """A command that is run in the container (by its shell where it is a string), and its deadline in seconds."""

    command: str | tuple[str, ...]
    timeout: float


class Source(NamedTuple):
    """Data that a service mounts. `kind` is `volume` or `path`, `name` the volume's name or the path, `path` where it
    lies on the board, where that is known. `left_out` says why it is no part of a backup, where it is none.
    """

    kind: str
    name: str
    path: str
    left_out: str = ""


class Capture(NamedTuple):
    """One service: how it wants to be captured, and what of. `running`: its container is up, and not paused by hand."""

    service: str
    mode: Mode
    sources: tuple[Source, ...]
    before: Hook | None = None
    after: Hook | None = None
    running: bool = True
