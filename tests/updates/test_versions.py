"""The order of versions is the one that systemd, and so the rest of a board, goes by."""

import shutil
import subprocess
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed.updates.versions import compare, compare_own

TEXTS = st.text(alphabet="0019ab.-~^+ v", max_size=9)

# From old to new, as the specification has it.
SPECIFIED = (
    "122.1", "123~rc1-1", "123", "123-a", "123-a.1", "123-1", "123-1.1", "123^post1", "123.a-1", "123.1-1", "123a-1",
    "124-1",
)  # fmt: skip


@pytest.mark.parametrize(("older", "newer"), list(combinations(SPECIFIED, 2)))
def test_the_order_is_the_specifications(older: str, newer: str) -> None:
    assert (compare(older, newer), compare(newer, older)) == (-1, 1)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("v1.2.0", "1.10.0"),
        ("1.2.0", "v1.10.0"),
        ("2024.01-1", "2024.01-2"),
        ("2024.01-1", "2024.02"),
        ("2024.9", "2024.10"),
        ("1.0~rc1", "1.0"),
        ("1.0~rc1", "1.0~rc2"),
        ("1.0", "1.0.1"),
        ("9", "99999999999999999999999999"),
        ("", "0"),
        ("", "a"),
        ("~", ""),
        ("a", "1"),
        ("beta", "v1"),
    ],
)
def test_versions_of_bundles_are_ordered(older: str, newer: str) -> None:
    assert (compare(older, newer), compare(newer, older)) == (-1, 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.0", "1.0"),
        ("v1.0", "1.0"),
        ("V2", "v2"),
        ("1.01", "1.1"),
        ("007", "7"),
        ("1_0", "1 0"),
        ("", "+"),
        ("", "é"),
    ],
)
def test_versions_that_say_the_same_are_equal(one: str, other: str) -> None:
    assert compare(one, other) == compare(other, one) == 0


def test_homeds_own_versions_are_ordered_as_pythons_are() -> None:
    ordered = [
        "", "0.1.0.dev1", "0.1.0.dev12", "0.1.0a1", "0.1.0b1", "0.1.0rc1.dev1", "0.1.0rc1", "0.1.0rc2", "0.1.0",
        "0.1.1.dev0", "0.1.1", "0.2.0.dev3", "0.2.0", "0.10.0", "1.0.0",
    ]  # fmt: skip
    for older, newer in combinations(ordered, 2):
        assert (compare_own(older, newer), compare_own(newer, older)) == (-1, 1), (older, newer)


@settings(deadline=None)
@given(TEXTS, TEXTS, TEXTS)
def test_it_is_an_order(a: str, b: str, c: str) -> None:
    for order in (compare, compare_own):
        assert order(a, a) == 0
        assert order(a, b) == -order(b, a)
        if order(a, b) <= 0 and order(b, c) <= 0:
            assert order(a, c) <= 0


@settings(deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_is_ordered(a: str, b: str) -> None:
    assert compare(a, b) == -compare(b, a)
    assert compare_own(a, b) == -compare_own(b, a)


@settings(deadline=None, max_examples=150)
@given(TEXTS, TEXTS, st.booleans())
def test_systemd_says_the_same(a: str, b: str, longer: bool) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    # Only here has a `v` before a digit no meaning; two that begin alike are what is worth comparing.
    a, b = a.lstrip("v"), (a + b if longer else b).lstrip("v")
    said = subprocess.run(["systemd-analyze", "compare-versions", "--", a, b], timeout=60, check=False).returncode
    assert {0: 0, 11: 1, 12: -1}.get(said) == compare(a, b)
