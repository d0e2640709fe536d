"""One word sums up the parts, and the needed ones decide on readiness."""

from hypothesis import given
from hypothesis import strategies as st

from homed.health import Component, Health, Level, not_ready, overall

_COMPONENTS = st.dictionaries(
    st.sampled_from("abcd"), st.builds(Component, st.sampled_from(Level), st.none() | st.just("why"), st.booleans())
)


def test_nothing_at_all_is_healthy() -> None:
    assert overall({}) is Level.HEALTHY and not_ready({}) == []


@given(_COMPONENTS)
def test_the_worst_part_counts_and_what_is_not_needed_only_degrades(components: dict[str, Component]) -> None:
    found = overall(components)
    needed = [c.status for c in components.values() if c.needed]
    if Level.UNHEALTHY in needed:
        assert found is Level.UNHEALTHY
    elif Level.STARTING in needed:
        assert found is Level.STARTING
    elif any(c.status is not Level.HEALTHY for c in components.values()):
        assert found is Level.DEGRADED
    else:
        assert found is Level.HEALTHY


@given(_COMPONENTS)
def test_it_is_not_ready_where_and_only_where_it_is_unhealthy_or_starting(components: dict[str, Component]) -> None:
    assert bool(not_ready(components)) == (overall(components) in (Level.UNHEALTHY, Level.STARTING))


def test_each_part_is_asked_anew_and_told_with_its_reason() -> None:
    health, level = Health(), Level.HEALTHY
    health.add("store", lambda: Component(level, "the disk is full"))
    assert not_ready(health.components()) == []
    level = Level.UNHEALTHY
    assert not_ready(health.components()) == ["store: the disk is full"]
