"""What is asked of a log, and the bounds of reading it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.clock import now
from homed.containers import logs
from homed.containers.logs import FollowerLimit, Logs, Wish, parameters, parse_since
from homed.containers.model import Container, State
from homed.containers.streams import Streams
from homed.errors import BusyError, ValidationError

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", datetime(1970, 1, 1, tzinfo=UTC)),
        ("1767225600.5", datetime(2026, 1, 1, 0, 0, 0, 500000, tzinfo=UTC)),
        ("90s", datetime(2026, 1, 1, 23, 58, 30, tzinfo=UTC)),
        ("10m", datetime(2026, 1, 1, 23, 50, tzinfo=UTC)),
        ("2h", datetime(2026, 1, 1, 22, tzinfo=UTC)),
        ("1.5d", datetime(2025, 12, 31, 12, tzinfo=UTC)),
        ("2026-01-01T10:00:00Z", datetime(2026, 1, 1, 10, tzinfo=UTC)),
        ("2026-01-01T10:00:00+02:00", datetime(2026, 1, 1, 8, tzinfo=UTC)),
        ("2026-01-01T10:00:00.123456789Z", datetime(2026, 1, 1, 10, 0, 0, 123456, tzinfo=UTC)),
        ("2026-01-01", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_moment_is_read(text: str, expected: datetime) -> None:
    assert parse_since(text, NOW) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "-5m", "10", "10x", "yesterday", "9" * 30, "9" * 15 + "d", "2026-13-01", "m"]
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    if text == "10":
        assert parse_since(text, NOW).year == 1970
        return
    with pytest.raises(ValidationError) as raised:
        parse_since(text, NOW)
    assert [error.field for error in raised.value.errors] == ["since"]


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{1,20}[smhd]?", fullmatch=True))
def test_every_text_is_a_moment_that_can_be_asked_for_or_refused(text: str) -> None:
    try:
        moment = parse_since(text, NOW)
    except ValidationError:
        return
    assert parameters(Wish(since=moment))["since"]


def test_the_engine_is_asked_for_what_is_wanted() -> None:
    assert parameters(Wish()) == {"stdout": "1", "stderr": "1", "tail": "100"}
    assert parameters(Wish(None, NOW, timestamps=True, follow=True)) == {
        "stdout": "1", "stderr": "1", "tail": "all", "timestamps": "1", "follow": "1", "since": "1767312000.000000",
    }  # fmt: skip
    assert parameters(Wish(0))["tail"] == "0"


class _Streams:
    """A log of these chunks."""

    def __init__(self, chunks: list[bytes]):
        self.chunks = chunks

    @asynccontextmanager
    async def logs(self, container: str, asked: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        yield self._all()

    async def _all(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk


def container() -> Container:
    return Container(id="c", name="web", image="a", state=State.RUNNING, created_at=now(), tty=True)


async def test_lines_are_read_and_what_is_no_text_is_shown_as_such() -> None:
    reader = Logs(cast(Streams, _Streams([b"one\ntw", b"o\r\n\xff\nlast"])), FollowerLimit(1))
    assert await reader.read(container(), Wish()) == ["one", "two", "�", "last"]


async def test_of_a_huge_log_the_newest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_MOST_BYTES", 10_000)
    reader = Logs(cast(Streams, _Streams([b"line %d\n" % i for i in range(5000)])), FollowerLimit(1))
    lines = await reader.read(container(), Wish(None))
    assert lines[-1] == "line 4999" and 0 < len(lines) < 200
    assert lines == [f"line {i}" for i in range(5000 - len(lines), 5000)]


async def test_only_so_many_follow_and_one_that_ends_makes_room() -> None:
    limit = FollowerLimit(1)
    reader = Logs(cast(Streams, _Streams([b"a\n", b"b\n"])), limit)
    first = reader.follow(container(), Wish(follow=True))
    assert [line.text for line in await anext(first)] == [b"a"]
    with pytest.raises(BusyError):
        await anext(reader.follow(container(), Wish(follow=True)))
    await first.aclose()  # type: ignore[attr-defined]
    assert limit.count == 0
    assert [[line.text for line in batch] async for batch in reader.follow(container(), Wish())] == [[b"a"], [b"b"]]
