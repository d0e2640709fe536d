from hypothesis import given
from hypothesis import strategies as st

from homed.backups.grouping import group
from homed.backups.ports import Capture, Hook, Mode, Source


def volume(name: str) -> Source:
    return Source("volume", name, f"/var/lib/docker/volumes/{name}/_data")


def path(text: str) -> Source:
    return Source("path", text, text)


def test_each_tree_is_captured_once_and_names_all_its_users() -> None:
    grouped = group([Capture("b", Mode.LIVE, (volume("data"),)), Capture("a", Mode.LIVE, (volume("data"),))])

    assert [[section.name for section in one.sections] for one in grouped.groups] == [["data"]]
    assert grouped.groups[0].sections[0].users == ("a", "b")
    assert not grouped.groups[0].asks


def test_live_services_are_captured_one_by_one_although_they_share_data() -> None:
    grouped = group([Capture("a", Mode.LIVE, (volume("one"), volume("two")))])

    assert len(grouped.groups) == 2


def test_a_paused_service_is_captured_with_all_its_data_at_one_moment() -> None:
    grouped = group([Capture("db", Mode.PAUSED, (volume("one"), path("/data/db")))])

    assert len(grouped.groups) == 1
    assert grouped.groups[0].services == ("db",)
    assert [section.capture for section in grouped.groups[0].sections] == ["paused", "paused"]


def test_paused_services_that_share_data_are_frozen_together_over_several_steps() -> None:
    grouped = group(
        [
            Capture("a", Mode.PAUSED, (volume("one"),)),
            Capture("b", Mode.PAUSED, (volume("one"), volume("two"))),
            Capture("c", Mode.STOPPED, (volume("two"),)),
            Capture("d", Mode.PAUSED, (volume("other"),)),
        ]
    )

    assert sorted(one.services for one in grouped.groups) == [("a", "b", "c"), ("d",)]


def test_a_live_service_is_not_frozen_with_a_paused_one() -> None:
    grouped = group([Capture("a", Mode.PAUSED, (volume("one"),)), Capture("b", Mode.LIVE, (volume("one"),))])

    assert grouped.groups[0].services == ("a",)
    assert grouped.groups[0].sections[0].users == ("a", "b")


def test_a_service_with_a_hook_asks_although_it_is_live() -> None:
    grouped = group([Capture("a", Mode.LIVE, (volume("one"),), before=Hook("dump", 10))])

    assert grouped.groups[0].asks


def test_a_service_that_does_not_run_is_not_asked_for() -> None:
    grouped = group([Capture("a", Mode.PAUSED, (volume("one"),), before=Hook("dump", 10), running=False)])

    assert not grouped.groups[0].asks
    assert grouped.groups[0].sections[0].capture == "live"


def test_a_path_inside_another_one_is_captured_with_that() -> None:
    grouped = group(
        [Capture("a", Mode.LIVE, (path("/data"),)), Capture("b", Mode.PAUSED, (path("/data/b"),))],
    )

    assert [section.name for one in grouped.groups for section in one.sections] == ["/data"]
    assert grouped.groups[0].services == ("b",)


def test_a_path_whose_name_begins_alike_is_another_one() -> None:
    grouped = group([Capture("a", Mode.LIVE, (path("/data"), path("/data2")))])

    assert len(grouped.groups) == 2


def test_what_is_left_out_is_said_with_the_reason() -> None:
    grouped = group([Capture("a", Mode.LIVE, (Source("path", "/run/x", "", "it is a socket"),))])

    assert grouped.groups == ()
    assert grouped.left_out == ("/run/x of a: it is a socket",)


captures = st.lists(
    st.tuples(st.sampled_from(list(Mode)), st.sets(st.sampled_from("abcdef"), max_size=4), st.booleans()), max_size=8
)


@given(captures)
def test_every_tree_is_in_one_group_and_whoever_is_frozen_has_all_its_data_there(
    drawn: list[tuple[Mode, set[str], bool]],
) -> None:
    services = [
        Capture(f"s{i}", mode, tuple(volume(name) for name in sorted(names)), running=running)
        for i, (mode, names, running) in enumerate(drawn)
    ]
    grouped = group(services)

    found = [section.name for one in grouped.groups for section in one.sections]
    assert sorted(found) == sorted({source.name for service in services for source in service.sources})
    prefixes = [section.prefix for one in grouped.groups for section in one.sections]
    assert len(set(prefixes)) == len(prefixes)
    for service in services:
        asks = service.running and service.mode is not Mode.LIVE and service.sources
        within = [one for one in grouped.groups if service.service in one.services]
        assert len(within) == (1 if asks else 0)
        if asks:
            names = {section.name for section in within[0].sections}
            assert {source.name for source in service.sources} <= names
