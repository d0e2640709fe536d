"""Which services homed keeps its hands off for a while, or keeps down, whatever their owners want of them meanwhile.

In memory only: a homed that starts anew holds nothing but what it is told to.
"""

import itertools
from typing import NamedTuple


class Hold(NamedTuple):
    """`why` is for people. `frozen`: nothing at all is done to its containers; else they are stopped, and stay so.

    `serial` tells one hold from the next: a keeper says with it which one it has seen.
    """

    why: str
    serial: int
    frozen: bool = False


class Holds:
    """By service; of a service that is not there too, which is then held from its beginning."""

    def __init__(self) -> None:
        self._holds: dict[str, Hold] = {}
        self._spared: dict[str, float] = {}
        self._serials = itertools.count(1)

    def set(self, name: str, why: str, *, frozen: bool = False) -> Hold:
        hold = self._holds[name] = Hold(why, next(self._serials), frozen)
        return hold

    def find(self, name: str) -> Hold | None:
        return self._holds.get(name)

    def drop(self, name: str, *, frozen: bool) -> None:
        """End a hold of this kind."""
        hold = self._holds.get(name)
        if hold is not None and hold.frozen == frozen:
            del self._holds[name]

    def spare(self, name: str, until: float) -> None:
        """Do not judge its health before `until` (monotonic): it could not answer while it was frozen."""
        self._spared[name] = until

    def spared(self, name: str) -> float:
        return self._spared.get(name, 0.0)
