"""The memory budget: who gets room, who waits, who is told to come again."""

import asyncio

import pytest

from homed.api.budget import Budget, BudgetError, Lease

_MIB = 1 << 20


def lease(budget: Budget, client: str = "a") -> Lease:
    made = budget.lease()
    made.client = client
    return made


async def test_what_fits_is_held_until_it_is_released() -> None:
    budget = Budget(10 * _MIB)
    with lease(budget) as one:
        await one.reserve(2 * _MIB)
        await one.reserve(_MIB)
        assert (one.size, budget.used) == (3 * _MIB, 3 * _MIB)
    assert (one.size, budget.used) == (0, 0)
    one.release()
    assert budget.used == 0


async def test_one_client_holds_half_and_others_have_the_rest() -> None:
    budget = Budget(10 * _MIB, wait=0.01)
    mine = [lease(budget, "a") for _ in range(6)]
    assert [one.try_reserve(_MIB) for one in mine] == [True] * 5 + [False]
    with pytest.raises(BudgetError) as raised:
        await mine[5].reserve(_MIB)
    assert (raised.value.status, raised.value.code) == (503, "MEMORY_BUDGET")
    others = [lease(budget, "b") for _ in range(6)]
    assert [one.try_reserve(_MIB) for one in others] == [True] * 5 + [False]
    assert budget.used == 10 * _MIB


async def test_what_is_small_finds_room_when_the_rest_is_taken() -> None:
    budget = Budget(8 * _MIB, wait=0.01)
    assert lease(budget, "a").try_reserve(4 * _MIB)
    assert lease(budget, "b").try_reserve(4 * _MIB)
    small = [lease(budget, f"c{i}").try_reserve(64 * 1024) for i in range(20)]
    assert small == [True] * 16 + [False] * 4


async def test_a_request_alone_finds_room_whatever_it_is() -> None:
    budget = Budget(8 * _MIB, wait=0.01)
    big = lease(budget, "a")
    assert big.try_reserve(20 * _MIB)
    assert not lease(budget, "b").try_reserve(_MIB)
    assert big.try_reserve(20 * _MIB)
    big.release()
    assert lease(budget, "b").try_reserve(_MIB)
    assert lease(budget, "a").try_reserve(6 * _MIB)  # more than half, but all that this client holds


async def test_who_waits_gets_what_is_given_back_and_only_once() -> None:
    budget = Budget(8 * _MIB, wait=5)
    holders = [lease(budget, client) for client in "ab"]
    assert all(one.try_reserve(4 * _MIB) for one in holders)
    waiting = [lease(budget, "c") for _ in range(4)]
    tasks = [asyncio.create_task(one.reserve(_MIB)) for one in waiting]
    await asyncio.sleep(0)
    assert [task.done() for task in tasks] == [False] * 4
    holders[0].release()
    await asyncio.gather(*tasks)
    assert budget.used == 8 * _MIB
    for one in [*waiting, holders[1]]:
        one.release()
    assert budget.used == 0


async def test_who_gives_up_waiting_holds_nothing() -> None:
    budget = Budget(8 * _MIB, wait=5)
    holder, gone = lease(budget, "a"), lease(budget, "b")
    assert holder.try_reserve(8 * _MIB)
    task = asyncio.create_task(gone.reserve(_MIB))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    holder.release()
    assert (gone.size, budget.used) == (0, 0)


async def test_what_grows_is_reserved_in_steps() -> None:
    budget = Budget(64 * _MIB)
    one = lease(budget)
    steps = set()
    for held in range(0, 8 * _MIB, 16 * 1024):
        await one.reserve_for(held)
        assert held <= one.size <= held * 2 + 128 * 1024
        steps.add(one.size)
    assert len(steps) < 20
