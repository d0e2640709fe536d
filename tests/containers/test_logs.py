"""What is asked of a log, and the bounds of reading it."""

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.clock import now
from homed.containers import logs
from homed.containers.log_gaps import GapDetector, Range, Verdict, next_moment
from homed.containers.log_records import MAX_LINE_BYTES, PIECE_BYTES, LogRecords
from homed.containers.logs import FollowerLimit, Logs, Wish, parameters, parse_since
from homed.containers.model import Container, State
from homed.containers.streams import Streams
from homed.errors import BusyError, EngineUnavailableError, ValidationError

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
    """A log of these records, as the engine keeps it; those in `more` come while it is followed."""

    def __init__(self, records: list[bytes], more: list[bytes] | None = None, *, tty: bool = True):
        self.records = [stamped(i, text) for i, text in enumerate(records)]
        self.more = [stamped(len(records) + i, text) for i, text in enumerate(more or [])]
        self.tty = tty
        self.asked: list[Mapping[str, str]] = []

    @asynccontextmanager
    async def logs(self, container: str, asked: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append(asked)
        yield self._all(asked)

    async def _all(self, asked: Mapping[str, str]) -> AsyncIterator[bytes]:
        tail = asked["tail"]
        found = self.records if tail == "all" else self.records[len(self.records) - min(int(tail), len(self.records)) :]
        since, until = asked.get("since", "0.0"), asked.get("until", "9999999999.0")
        for stamp, text in [*found, *(self.more if asked.get("follow") else [])]:
            if next_moment(stamp, 0) < since or next_moment(stamp, 0) > until:
                continue
            payload = stamp + b" " + text
            yield payload if self.tty else struct.pack(">BxxxL", 1, len(payload)) + payload


def stamped(number: int, text: bytes) -> tuple[bytes, bytes]:
    """A record with its time, a millisecond after the one before; pieces of a line have that of the first."""
    return b"2026-01-02T00:%02d:%02d.%03d000000Z" % (number // 60_000, number // 1000 % 60, number % 1000), text


def container(*, tty: bool = True) -> Container:
    return Container(id="c", name="web", image="a", state=State.RUNNING, created_at=now(), tty=tty)


async def test_lines_are_read_and_what_is_no_text_is_shown_as_such() -> None:
    log = [b"one\n", b"two\r\n", b"\xff\n", b"last"]
    reader = Logs(cast(Streams, _Streams(log)), FollowerLimit(1))
    assert await reader.read(container(), Wish()) == ["one", "two", "�", "last"]
    shown = await reader.read(container(), Wish(2, timestamps=True))
    assert shown == ["2026-01-02T00:00:00.002000000Z �", "2026-01-02T00:00:00.003000000Z last"]


async def test_of_a_huge_log_the_newest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_MOST_BYTES", 10_000)
    reader = Logs(cast(Streams, _Streams([b"line %d\n" % i for i in range(5000)])), FollowerLimit(1))
    for wish in (Wish(None), Wish(4000)):
        lines = await reader.read(container(), wish)
        assert lines[-1] == "line 4999" and 0 < len(lines) < 200
        assert lines == [f"line {i}" for i in range(5000 - len(lines), 5000)]


def long_line(number: int, size: int, *, tty: bool) -> _Streams:
    """A log of short lines with a long one before the last, in the engine's pieces."""
    pieces = [b"x" * min(PIECE_BYTES, size - at) for at in range(0, size, PIECE_BYTES)]
    pieces[-1] += b"\n"
    log = _Streams([b"short %d\n" % i for i in range(number)], tty=tty)
    first = stamped(number, b"")[0]
    log.records += [(first, piece) for piece in pieces]
    log.records.append(stamped(number + 1, b"hi\n"))
    return log


@pytest.mark.parametrize("tty", [True, False])
@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 40_000, 2 * PIECE_BYTES, 700_000])
async def test_so_many_lines_are_read_however_long_they_are(size: int, tty: bool) -> None:
    reader = Logs(cast(Streams, long_line(5, size, tty=tty)), FollowerLimit(1))
    for tail, expected in ((1, [2]), (2, [size, 2]), (3, [7, size, 2]), (None, [7] * 5 + [size, 2]), (0, [])):
        assert [len(line) for line in await reader.read(container(tty=tty), Wish(tail))] == expected
    shown = (await reader.read(container(tty=tty), Wish(2, timestamps=True)))[0]
    assert shown.count("2026-") == 1, "the pieces' times are not in the line"


@pytest.mark.parametrize("tty", [True, False])
async def test_a_line_past_the_limit_is_cut_and_says_so(tty: bool) -> None:
    reader = Logs(cast(Streams, long_line(1, MAX_LINE_BYTES + 100_000, tty=tty)), FollowerLimit(1))
    line = (await reader.read(container(tty=tty), Wish(2)))[0]
    assert line.endswith("x [homed: 100000 bytes of this line are left out]")
    assert len(line) < MAX_LINE_BYTES + 100


@pytest.mark.parametrize("tty", [True, False])
async def test_a_follower_gets_so_many_lines_and_then_what_comes(tty: bool) -> None:
    log = long_line(5, 40_000, tty=tty)
    log.more = [stamped(7, b"new\n"), stamped(8, b"newer\n")]
    reader = Logs(cast(Streams, log), FollowerLimit(1))
    lines = [line async for batch in reader.follow(container(tty=tty), Wish(2, follow=True)) for line in batch]
    assert [len(line.text) for line in lines] == [40_000, 2, 3, 5]


async def test_a_line_that_has_only_begun_is_followed_whole() -> None:
    log = _Streams([b"old\n", b"x" * PIECE_BYTES], tty=False)
    log.more = [(log.records[-1][0], b"end\n"), stamped(5, b"next\n")]
    reader = Logs(cast(Streams, log), FollowerLimit(1))
    lines = [line async for batch in reader.follow(container(tty=False), Wish(5, follow=True)) for line in batch]
    assert [len(line.text) for line in lines] == [3, PIECE_BYTES + 3, 4]


async def test_lines_that_were_lost_are_told_of() -> None:
    told: list[Range] = []
    log = _Streams([b"line %d\n" % i for i in range(50)], tty=False)
    log.more = [stamped(i, b"line %d\n" % i) for i in (*range(50, 80), *range(60, 80), *range(80, 90), 4000, 4001)]
    reader = Logs(cast(Streams, log), FollowerLimit(1), lambda container, gap: told.append(gap))
    lines = [line async for batch in reader.follow(container(tty=False), Wish(0, follow=True)) for line in batch]
    texts = [line.text.decode() for line in lines]
    assert [text for text in texts if "homed" not in text] == [f"line {i}" for i in (*range(50, 90), 4000, 4001)]
    assert texts[30].startswith("[homed] lines are missing here, or came late"), "the log was read from too early"
    assert len(told) == 1 and told[0].before == stamped(79, b"")[0]


async def test_a_pause_is_a_gap_only_if_the_log_has_or_had_lines_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    log = _Streams([], tty=False)
    log.more = [stamped(i, b"line %d\n" % i) for i in (*range(10), 5000)]
    for kept, gap in ((log.more, False), ([*log.more, stamped(3000, b"lost\n")], True), (log.more[-1:], True)):
        log.records = sorted(kept)
        reader = Logs(cast(Streams, log), FollowerLimit(1))
        log.records, records = [], log.records
        follower = reader.follow(container(tty=False), Wish(0, follow=True))
        first = await anext(follower)
        log.records = records
        lines = [*first, *[line async for batch in follower for line in batch]]
        assert any(line.stream == logs.MARKER for line in lines) == gap, kept


async def test_only_so_many_follow_and_one_that_ends_makes_room() -> None:
    limit = FollowerLimit(1)
    reader = Logs(cast(Streams, _Streams([], [b"a\n", b"b\n"])), limit)
    first = reader.follow(container(), Wish(follow=True))
    assert [line.text for line in await anext(first)] == [b"a"]
    with pytest.raises(BusyError):
        await anext(reader.follow(container(), Wish(follow=True)))
    await first.aclose()  # type: ignore[attr-defined]
    assert limit.count == 0
    assert [[line.text for line in batch] async for batch in reader.follow(container(), Wish())] == [[b"a"], [b"b"]]


async def test_who_waits_for_a_hung_engine_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "ANSWER_TIMEOUT", 0.05)

    class Hung(_Streams):
        async def _all(self, asked: Mapping[str, str]) -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

    reader = Logs(cast(Streams, Hung([])), FollowerLimit(1))
    reads = [asyncio.create_task(reader.read(container(), Wish())) for _ in range(3)]
    async with asyncio.timeout(5):
        with pytest.raises(EngineUnavailableError):
            await reads[2]
    for read in reads:
        read.cancel()
    await asyncio.gather(*reads, return_exceptions=True)


@given(st.lists(st.binary(max_size=60), max_size=10), st.booleans())
def test_no_bytes_make_the_reading_of_records_fail(chunks: list[bytes], tty: bool) -> None:
    records = LogRecords(tty=tty)
    for chunk in chunks:
        records.feed(chunk)
    list(records.finish())


def test_a_clock_that_was_set_back_is_no_repetition() -> None:
    detector = GapDetector()
    stamps = [stamped(i, b"")[0] for i in (100, 101, 50, 51, 52)]
    verdicts = [detector.look("stdout", stamp, clock_went_back=i == 2) for i, stamp in enumerate(stamps)]
    assert verdicts == [Verdict.FOLLOWS] * 5
    assert detector.look("stdout", stamps[2]) is Verdict.REPEATED
    assert detector.look("stderr", stamps[2]) is Verdict.FOLLOWS, "each stream has an order of its own"
    assert detector.look("stdout", b"") is Verdict.FOLLOWS
