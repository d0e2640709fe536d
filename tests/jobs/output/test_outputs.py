"""Outputs of real processes: written, watched, followed, and found again."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from homed.jobs.output.files import Files
from homed.jobs.output.order import Stream
from homed.jobs.output.output import PIECE, Output, Piece
from homed.jobs.output.outputs import Outputs
from tests.support.filesystems import in_memory

LIMIT = 1 << 20
OUT, ERR = Stream.STDOUT, Stream.STDERR


async def run(output: Output, code: str) -> None:
    """A process of its own, as runners start them."""
    with output.path(OUT).open("ab") as stdout, output.path(ERR).open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=stdout, stderr=stderr)
    assert await process.wait() == 0


async def gathered(pieces: AsyncIterator[Piece]) -> list[Piece]:
    return [piece async for piece in pieces]


def text_of(pieces: list[Piece], stream: Stream) -> str:
    return "".join(piece.text for piece in pieces if piece.stream is stream)


async def test_what_a_process_printed_before_it_ended_is_whole(outputs: Outputs) -> None:
    output = outputs.create("job", 1)
    await run(output, "import os; os.write(1, b'one\\n'); os.write(2, b'two\\n'); os.write(1, b'no line break')")
    await output.finish()
    assert output.read(OUT) == b"one\nno line break"
    assert output.read(ERR) == b"two\n"
    assert sorted(output.combined()) == sorted("one\nno line breaktwo\n")
    assert output.size == 21


async def test_what_comes_on_two_streams_is_combined_as_it_came(outputs: Outputs) -> None:
    output = outputs.create("job", 1)
    following = asyncio.create_task(gathered(output.follow()))
    code = "import os, time\nfor n in range(6): os.write(1 + n % 2, b'%d\\n' % n); time.sleep(0.3)"
    await run(output, code)
    await output.finish()
    pieces = await following
    assert "".join(piece.text for piece in pieces) == output.combined() == "0\n1\n2\n3\n4\n5\n"
    assert [piece.stream for piece in pieces] == [OUT, ERR] * 3


async def test_a_character_that_is_split_between_writes_is_whole(outputs: Outputs) -> None:
    output = outputs.create("job", 1)
    following = asyncio.create_task(gathered(output.follow()))
    code = "import os, time\nfor b in '€😀é'.encode(): os.write(1, bytes([b])); time.sleep(0.1)"
    await run(output, code)
    await output.finish()
    pieces = await following
    assert text_of(pieces, OUT) == "€😀é"
    assert all("\ufffd" not in piece.text for piece in pieces)


async def test_a_job_that_prints_a_gigabyte_is_bounded_while_it_runs_and_afterwards(outputs: Outputs) -> None:
    output = outputs.create("job", 1)
    largest = 0

    async def look() -> None:
        nonlocal largest
        while True:
            largest = max(largest, output.path(OUT).stat().st_blocks * 512)
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look())
    # No faster than disks of boards are, for some seconds: what is not cut meanwhile would be all of it.
    code = "import os, time\nfor n in range(1024): os.write(1, b'x' * (1 << 20)); time.sleep(0.002)"
    await run(output, code)
    looking.cancel()
    await output.finish()
    assert largest < 512 << 20
    assert output.path(OUT).stat().st_size == LIMIT
    assert output.read(OUT) == b"x" * LIMIT
    assert 0 < output.dropped(OUT) <= (1 << 30) - LIMIT
    assert output.combined().endswith(f"\n[output cut: {output.dropped(OUT)} bytes of stdout were dropped]\n")


async def test_a_slow_follower_misses_nothing_and_holds_up_nobody(outputs: Outputs) -> None:
    output = outputs.create("job", 1)
    fast = asyncio.create_task(gathered(output.follow()))
    slow: list[Piece] = []
    async with aclosing(output.follow()) as pieces:
        reading = asyncio.ensure_future(anext(pieces))
        await run(output, "for n in range(40000): print(n)")
        await output.finish()
        quick = await fast
        slow.append(await reading)
        async for piece in pieces:
            await asyncio.sleep(0.001)
            slow.append(piece)
    whole = "".join(f"{number}\n" for number in range(40000))
    assert text_of(quick, OUT) == text_of(slow, OUT) == whole
    assert all(len(piece.text.encode()) <= PIECE for piece in slow)


async def test_followers_at_one_position_get_one_piece(outputs: Outputs) -> None:
    output = outputs.create("job", 1)
    followers = [asyncio.create_task(gathered(output.follow())) for _ in range(50)]
    await asyncio.sleep(0)
    await output.write(OUT, b"x" * 50_000)
    await output.finish()
    found = await asyncio.gather(*followers)
    assert all(pieces == found[0] for pieces in found)
    assert all(one is other for pieces in found for one, other in zip(pieces, found[0], strict=True))


async def test_who_follows_from_a_position_gets_exactly_the_rest(outputs: Outputs) -> None:
    output = outputs.create("job", 1)
    for number in range(50):
        await output.write(Stream(number % 3 % 2), f"{number} €\n".encode())
    await output.finish()
    whole = await gathered(output.follow())
    for number, piece in enumerate(whole):
        assert await gathered(output.follow(piece.position_after)) == whole[number + 1 :]


async def test_a_writer_is_bounded_exactly_and_the_cut_is_told_last(outputs: Outputs) -> None:
    output = outputs.create("job", 1)
    following = asyncio.create_task(gathered(output.follow()))
    for _ in range(5):
        await output.write(ERR, b"y" * (LIMIT // 4))
    await output.write(OUT, b"still\n")
    await output.finish()
    pieces = await following
    assert output.dropped(ERR) == LIMIT // 4
    assert pieces[-1].text == f"\n[output cut: {LIMIT // 4} bytes of stderr were dropped]\n"
    assert len(text_of(pieces[:-1], ERR)) == LIMIT
    assert text_of(pieces, OUT) == "still\n"
    assert await gathered(output.follow(pieces[-2].position_after)) == pieces[-1:]
    assert await gathered(output.follow(pieces[-1].position_after)) == []


async def test_a_part_of_the_combined_text_may_be_asked_for(outputs: Outputs) -> None:
    output = outputs.create("job", 1)
    await output.write(OUT, b"one\n")
    await output.write(ERR, b"two\n")
    assert output.combined(2, 4) == "e\ntw"
    assert output.combined() == "one\ntwo\n"


async def test_what_is_too_long_is_shown_by_its_ends(outputs: Outputs) -> None:
    output = outputs.create("job", 1)
    await output.write(OUT, b"a" * 100 + b"b" * 100)
    assert output.excerpt(OUT, 200) == "a" * 100 + "b" * 100
    assert output.excerpt(OUT, 20) == f"{'a' * 10}\n[180 bytes are not shown here]\n{'b' * 10}"
    assert output.excerpt(ERR, 20) == ""


async def test_another_homed_goes_on_where_the_first_was_killed(tmp_path: Path) -> None:
    root = tmp_path / "jobs"
    first = Outputs(root, lambda: LIMIT)
    output = first.create("job", 1)
    await output.write(OUT, b"one\n")
    await output.write(ERR, b"two\n")
    with output.path(OUT).open("ab") as job:
        job.write(b"three\n")
    first.close()

    second = Outputs(root, lambda: LIMIT)
    watch = asyncio.create_task(second.run())
    again = second.create("job", 1)
    following = asyncio.create_task(gathered(again.follow(4)))
    await again.write(ERR, b"four\n")
    await again.finish()
    assert "".join(piece.text for piece in await following) == "two\nthree\nfour\n"
    watch.cancel()
    second.close()


async def test_what_has_ended_is_found_again_with_nothing_lost(tmp_path: Path) -> None:
    first = Outputs(tmp_path, lambda: LIMIT)
    output = first.create("job", 2)
    await output.write(OUT, b"one\n")
    await output.finish()
    first.close()
    second = Outputs(tmp_path, lambda: LIMIT)
    found = second.find("job", 2)
    assert found is not None
    await found.load()
    assert found.finished
    assert [piece.text for piece in await gathered(found.follow())] == ["one\n"]
    assert second.find("job", 1) is None
    assert second.find("other", 1) is None
    second.close()


async def test_one_that_was_ended_too_early_is_taken_up_again(outputs: Outputs) -> None:
    output = outputs.create("job", 1)
    await output.write(OUT, b"one\n")
    await output.finish()
    again = outputs.create("job", 1)
    assert not again.finished
    await again.write(OUT, b"two\n")
    await again.finish()
    assert again.combined() == "one\ntwo\n"


async def test_a_folder_that_is_removed_by_hand_ends_nothing_but_its_output(outputs: Outputs) -> None:
    lost, kept = outputs.create("lost", 1), outputs.create("kept", 1)
    following = asyncio.create_task(gathered(kept.follow()))
    ending = asyncio.create_task(gathered(lost.follow()))
    await lost.write(OUT, b"before\n")
    outputs.remove("lost")
    with kept.path(OUT).open("ab") as job:
        job.write(b"seen by the watch\n")
    async with aclosing(kept.follow()) as pieces:
        assert (await anext(pieces)).text == "seen by the watch\n"
    await lost.write(OUT, b"after\n")
    await lost.finish()
    await kept.finish()
    assert text_of(await following, OUT) == "seen by the watch\n"
    await ending
    assert outputs.find("lost", 1) is None


async def test_a_full_disk_costs_output_and_nothing_else(tmp_path: Path) -> None:
    with in_memory(tmp_path / "small") as small:
        made = Outputs(small, lambda: 1 << 30)
        watch = asyncio.create_task(made.run())
        output = made.create("job", 1)
        await output.write(OUT, b"before\n")
        for _ in range(100):
            await output.write(OUT, b"x" * (1 << 20))
        assert output.dropped(OUT) > 0
        following = asyncio.create_task(gathered(output.follow()))
        await output.finish()
        pieces = await following
        assert pieces[-1].text.startswith("\n[output cut: ")
        kept = len(text_of(pieces[:-1], OUT))
        assert kept + output.dropped(OUT) == 7 + (100 << 20)
        assert not watch.done()
        watch.cancel()
        made.close()


async def test_sizes_are_of_all_attempts_and_what_nobody_knows_is_swept(outputs: Outputs) -> None:
    for attempt in (1, 2):
        output = outputs.create("job", attempt)
        with output.path(OUT).open("ab") as job:
            job.write(b"x" * 1000)
    outputs.create("orphan", 1)
    assert outputs.size("job") == 2000
    assert outputs.size("none") == 0
    assert outputs.sweep(lambda id: id == "job") == ["orphan"]
    assert outputs.size("job") == 2000


async def test_the_watch_rests_where_nothing_is_active(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    output = outputs.create("job", 1)
    await output.write(OUT, b"x")
    await output.finish()
    looks: list[Files] = []
    look = Files.look

    def counted(files: Files) -> bool:
        looks.append(files)
        return look(files)

    monkeypatch.setattr(Files, "look", counted)
    await asyncio.sleep(1.2)
    assert looks == []
    outputs.create("another", 1)
    await asyncio.sleep(1.2)
    assert looks != []


async def test_a_thousand_are_made_with_few_calls(outputs: Outputs) -> None:
    made = await asyncio.to_thread(lambda: [outputs.create(str(number), 1) for number in range(1000)])
    assert len({output.folder for output in made}) == 1000
    assert sorted(os.listdir(made[0].folder)) == ["stderr", "stdout"]
    for output in made:
        await output.finish()
    assert sorted(os.listdir(made[0].folder)) == ["stderr", "stdout"]
