"""Nobody sleeps on while there is something for one of them."""

import asyncio

import pytest

from homed.jobs.line import Line


async def test_only_the_first_is_told() -> None:
    line = Line()
    with line.join() as first, line.join() as second:
        line.wake_one()
        assert first.done() and not second.done()
        await line.wait(first, 0)


async def test_who_leaves_without_looking_again_tells_the_next() -> None:
    line = Line()
    with line.join() as second_to_be, line.join() as behind:
        line.wake_one()
        await line.wait(second_to_be, 0)
        with line.join() as third:
            line.wake_one()
            assert behind.done() and not third.done()
    assert not line._waiting


async def test_one_that_is_cancelled_in_its_wait_tells_the_next() -> None:
    line = Line()

    async def wait() -> None:
        with line.join() as place:
            await line.wait(place, 60)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    with line.join() as next_one:
        line.wake_one()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert next_one.done()


async def test_a_wait_ends_without_word() -> None:
    line = Line()
    with line.join() as place:
        await line.wait(place, 0.01)
        assert not place.done()
    line.wake_one()
    assert not line._waiting
