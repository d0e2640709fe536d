"""Memory that several share: never more than there is, in their order, and given back whatever happens."""

import asyncio
import random

from homed.jobs.budget import Budget


async def test_never_more_is_held_than_there_is_and_all_have_their_turn() -> None:
    budget, most, done = Budget(10), 0, 0

    async def use(size: int) -> None:
        nonlocal most, done
        async with budget.held(size):
            most = max(most, budget.used)
            await asyncio.sleep(random.random() / 500)
            done += 1

    tasks = [asyncio.create_task(use(random.choice([1, 3, 7, 10, 50]))) for _ in range(200)]
    await asyncio.sleep(0.01)
    gone = [task for task in random.sample(tasks, 50) if task.cancel()]
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (budget.used, most) == (0, 10)
    assert done >= 200 - len(gone)


async def test_a_large_one_is_not_passed_by_small_ones_for_ever() -> None:
    budget, order = Budget(10), []

    async def use(name: str, size: int) -> None:
        async with budget.held(size):
            order.append(name)
            await asyncio.sleep(0.001)

    await asyncio.gather(*(use(name, size) for name, size in (("a", 5), ("large", 10), ("b", 5), ("c", 5))))
    assert order == ["a", "large", "b", "c"]
