"""Figures of a run: rounds in turn, medians, what they should be, and the table at the end."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_AT_LEAST: Final = "at least"
_AT_MOST: Final = "at most"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure beside its target. `rounds` are its single values; `note` says what they were made of."""

    name: str
    bound: str
    target: float
    rounds: Sequence[float]
    unit: str = "×"
    note: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.rounds)

    @property
    def met(self) -> bool:
        return self.value >= self.target if self.bound == _AT_LEAST else self.value <= self.target

    @property
    def cells(self) -> tuple[str, ...]:
        spread = f"{_short(min(self.rounds))} to {_short(max(self.rounds))}" if len(self.rounds) > 1 else ""
        wanted = f"{self.bound} {_short(self.target)} {self.unit}"
        return (self.name, wanted, f"{_short(self.value)} {self.unit}", spread, "met" if self.met else "NOT MET")


def at_least(name: str, target: float, rounds: Sequence[float], unit: str = "×", note: str = "") -> Figure:
    return Figure(name, _AT_LEAST, target, rounds, unit, note)


def at_most(name: str, target: float, rounds: Sequence[float], unit: str = "×", note: str = "") -> Figure:
    return Figure(name, _AT_MOST, target, rounds, unit, note)


def in_turn(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> list[tuple[float, float]]:
    """Measure one after the other, round by round: what disturbs the machine meets both. (ours, theirs) each."""
    pairs = []
    for number in range(rounds):
        # Who is first takes turns too.
        if number % 2:
            their = theirs()
            pairs.append((ours(), their))
        else:
            our = ours()
            pairs.append((our, theirs()))
    return pairs


def by_turns(rounds: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """As `in_turn`, of any number: each is the first in its turn."""
    names = list(measures)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(measures[name]())
    return found


def ratios(pairs: Sequence[tuple[float, float]]) -> list[float]:
    return [ours / theirs for ours, theirs in pairs]


def medians(pairs: Sequence[tuple[float, float]], unit: str) -> str:
    """The absolute values, for who wants to know what the ratio is of."""
    ours, theirs = (statistics.median(values) for values in zip(*pairs, strict=True))
    return f"homed {_short(ours)}, beside it {_short(theirs)} {unit}"


def table(figures: Sequence[Figure]) -> str:
    rows = [("figure", "target", "measured", "spread", ""), *(figure.cells for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths[:-1]), *lines[1:]])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
