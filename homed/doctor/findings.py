"""A finding of the doctor."""

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    BAD = "bad"


class Finding(NamedTuple):
    level: Level
    about: str
    text: str
