"""Cycles are found, and told as the way round."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from homed.containers import dependencies

_GRAPHS = st.dictionaries(st.sampled_from("abcdefg"), st.lists(st.sampled_from("abcdefg"), max_size=4, unique=True))


def reaches(graph: dict[str, list[str]], start: str) -> bool:
    """Whether a way leads from `start` back to it, found the plain way."""
    seen: set[str] = set()
    at = set(graph.get(start, ()))
    while at - seen:
        seen |= at
        at = {below for name in at for below in graph.get(name, ())}
    return start in seen


@given(_GRAPHS)
def test_the_order_holds_each_once_and_what_is_needed_before_it(graph: dict[str, list[str]]) -> None:
    ranks = dependencies.order(graph)
    assert sorted(name for rank in ranks for name in rank) == sorted(graph)
    place = {name: i for i, rank in enumerate(ranks) for name in rank}
    if not any(dependencies.cycle(graph, name) for name in graph):
        assert all(place[need] < place[name] for name in graph for need in graph[name] if need in graph)


@given(_GRAPHS, st.sampled_from("abcdefg"))
def test_a_cycle_is_found_where_there_is_one_and_is_a_way(graph: dict[str, list[str]], start: str) -> None:
    found = dependencies.cycle(graph, start)
    assert bool(found) == reaches(graph, start)
    if found:
        assert found[0] == found[-1] == start
        assert all(after in graph[before] for before, after in itertools.pairwise(found))


def test_a_service_that_names_itself_is_a_cycle() -> None:
    assert dependencies.cycle({"a": ["a"]}, "a") == ["a", "a"]


def test_a_long_chain_is_no_trouble() -> None:
    graph = {str(i): [str(i + 1)] for i in range(5000)}
    assert dependencies.cycle(graph, "0") == []
    assert len(dependencies.cycle({**graph, "5000": ["0"]}, "0")) == 5002


def test_who_depends_is_told_in_order() -> None:
    assert dependencies.dependents({"b": ["x"], "a": ["y", "x"], "c": []}, "x") == ["a", "b"]
