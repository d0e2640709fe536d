"""The order that `depends_on` gives: cycles are refused, and who waits for whom is known."""

from collections.abc import Collection, Iterable, Mapping


def cycle(graph: Mapping[str, Iterable[str]], start: str) -> list[str]:
    """A cycle through `start` as the names along it (`a, b, a`); empty where there is none."""
    trail: list[tuple[str, list[str]]] = [(start, list(graph.get(start, ())))]
    seen: set[str] = set()
    while trail:
        left = trail[-1][1]
        if not left:
            trail.pop()
            continue
        following = left.pop()
        if following == start:
            return [name for name, _ in trail] + [start]
        if following not in seen:
            seen.add(following)
            trail.append((following, list(graph.get(following, ()))))
    return []


def field(depends_on: Collection[str], number: int) -> str:
    """Return the field name of a dependency for an error: dependencies are a list, or an object with conditions."""
    if isinstance(depends_on, Mapping):
        return f"depends_on.{list(depends_on)[number]}"
    return f"depends_on[{number}]"


def order(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The names in ranks: each needs only what ranks before it hold. What goes in circles is one last rank."""
    left = {name: {other for other in names if other in graph} for name, names in graph.items()}
    ranks = []
    while left:
        rank = sorted(name for name, names in left.items() if not names & left.keys()) or sorted(left)
        ranks.append(rank)
        for name in rank:
            del left[name]
    return ranks


def dependents(graph: Mapping[str, Iterable[str]], name: str) -> list[str]:
    """Who names `name` directly."""
    return sorted(other for other, names in graph.items() if name in names)
