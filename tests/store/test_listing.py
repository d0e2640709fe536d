"""The index that lists are answered from, against the same done in Python."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed.errors import StoreError
from homed.store import listing
from homed.store.listing import Column, Condition, Contains, Equals, In, Listing, Range, Row

_COLUMNS = (
    Column("id"),
    Column("kind"),
    Column("size", "INTEGER"),
    Column("share", "REAL"),
    Column("text", folded=True),
)
_INDEXES = (("size", "id", "kind"), ("kind", "size"))


@pytest.fixture
async def index() -> AsyncIterator[Listing]:
    made = Listing(_COLUMNS, _INDEXES)
    await made.open()
    yield made
    await made.close()


def _cell(name: str) -> int:
    return [column.name for column in _COLUMNS].index(name)


def fits(row: Row, condition: Condition) -> bool:
    value: Any = row[_cell(condition.column)]
    match condition:
        case Equals(_, wanted):
            return bool(value == wanted)
        case In(_, several):
            return value is not None and value in several
        case Range(_, low, high):
            return value is not None and (low is None or value >= low) and (high is None or value <= high)
        case Contains(_, text):
            return text.casefold() in value.casefold()


def in_order(rows: list[Row], sort: str, *, descending: bool) -> list[Row]:
    def place(row: Row) -> tuple[bool, Any, Any]:
        value = row[_cell(sort)]
        return (value is not None, 0 if value is None else value, row[0])

    return sorted(rows, key=place, reverse=descending)


_ROW = st.tuples(
    st.sampled_from([f"k{i}" for i in range(12)]),
    st.sampled_from(["a", "b", None]),
    st.none() | st.integers(0, 3),
    st.none() | st.floats(0, 1, width=32),
    st.sampled_from(["", "100%", "a_b", "aXb", "STRASSE", "Straße", "o'clock", "x\\y", "İstanbul"]),
)
_CONDITION = st.one_of(
    st.builds(Equals, st.just("kind"), st.sampled_from(["a", "b", "c", None])),
    st.builds(In, st.just("kind"), st.lists(st.sampled_from(["a", "b"]), max_size=2)),
    st.builds(Range, st.just("size"), st.none() | st.integers(0, 3), st.none() | st.integers(0, 3)),
    st.builds(Contains, st.just("text"), st.sampled_from(["", "%", "_", "ss", "ß", "'", "\\", "A"])),
)


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.lists(_ROW, max_size=8) | st.sampled_from([f"k{i}" for i in range(12)]), max_size=6),
    where=st.lists(_CONDITION, max_size=3),
    sort=st.sampled_from(["id", "size", "share", "kind"]),
    descending=st.booleans(),
    offset=st.integers(0, 8),
    limit=st.integers(0, 8),
    few=st.sampled_from([0, 1000]),
)
async def test_it_answers_as_a_list_in_python_would(
    changes: list[list[Row] | str],
    where: list[Condition],
    sort: str,
    descending: bool,
    offset: int,
    limit: int,
    few: int,
) -> None:
    index = Listing(_COLUMNS, _INDEXES)
    await index.open()
    before, listing._FEW = listing._FEW, few
    model: dict[Any, Row] = {}
    try:
        for change in changes:
            if isinstance(change, str):
                await index.drop([change])
                model.pop(change, None)
            else:
                await index.put(change)
                model |= {row[0]: row for row in change}
        found = [row for row in model.values() if all(fits(row, one) for one in where)]
        ordered = in_order(found, sort, descending=descending)
        page = await index.page(where, sort, descending=descending, offset=offset, limit=limit)
        assert page == ([row[0] for row in ordered[offset : offset + limit]], len(found))
        rows = await index.rows(["id", "size"], where, sort, descending=descending, limit=limit)
        assert rows == [(row[0], row[2]) for row in ordered[:limit]]
        counts = await index.count(["kind", "size"], where)
        assert counts == {key: [(r[1], r[2]) for r in found].count(key) for key in {(r[1], r[2]) for r in found}}
        assert await index.sums(["size"], where) == (len(found), sum(int(row[2] or 0) for row in found))
    finally:
        listing._FEW = before
        await index.close()


async def test_pages_of_many_rows_are_one_list(index: Listing) -> None:
    made = [(f"{i:05}", random.choice("ab"), random.randrange(20), 0.5, "x") for i in range(5000)]
    random.shuffle(made)
    await index.put(made)
    expected = [row[0] for row in in_order([r for r in made if r[1] == "a"], "size", descending=True)]
    found: list[str] = []
    total = 1
    while len(found) < total:
        keys, total = await index.page([Equals("kind", "a")], "size", descending=True, offset=len(found), limit=333)
        found += keys
    assert found == expected


async def test_a_read_sees_what_was_put_before_it(index: Listing) -> None:
    async def put_and_look(i: int) -> None:
        await index.put([(f"k{i}", "a", i, None, "")], gone=[f"k{i - 1}"] if i % 2 else [])
        assert (await index.page([Equals("id", f"k{i}")], "id"))[1] == 1

    for i in range(50):
        await put_and_look(i)
    assert (await index.page([], "id"))[1] == 25


async def test_what_is_asked_wrongly_is_an_error_and_changes_nothing(index: Listing) -> None:
    with pytest.raises(ValueError):
        await index.page([], "size; DROP TABLE rows")
    with pytest.raises(StoreError):
        await index.page([Equals("no_such_column", 1)], "size")
    with pytest.raises(ValueError):
        await index.page([In("id", ["x"] * 1000)], "size")
    with pytest.raises(StoreError):
        await index.put([("k", "a", 1, 1.0, "x"), (None, "a", 1, 1.0, "x")])
    assert await index.page([], "size") == ([], 0)


async def test_a_closed_list_says_so() -> None:
    index = Listing(_COLUMNS, _INDEXES)
    await index.open()
    await index.close()
    asked: list[Callable[[], Any]] = [lambda: index.page([], "id"), lambda: index.put([]), index.open]
    for ask in asked:
        with pytest.raises(StoreError, match="closed"):
            await ask()


async def test_more_than_fits_into_its_memory_is_answered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_MEMORY", 64 << 10)
    index = Listing(_COLUMNS, _INDEXES)
    await index.open()
    try:
        await asyncio.gather(
            *(index.put([(f"{i:05}", "a", i, None, "x" * 900) for i in range(n, n + 500)]) for n in range(0, 5000, 500))
        )
        assert await index.page([Contains("text", "XX")], "size", descending=True, limit=2) == (
            ["04999", "04998"],
            5000,
        )
    finally:
        await index.close()
