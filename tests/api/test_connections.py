"""Which connections are let in, and which one is dropped for whom: decided without sockets."""

import random
from collections import Counter

import pytest

from homed.api.connections import CONTROL_CONNECTIONS, SPARE_CONNECTIONS, Connection, Pool, Source


class World:
    """A pool whose connections note that they were dropped, and end by it as sockets do."""

    def __init__(self, limit: int = 16, per_client: int = 4):
        self.told: list[str] = []
        self.woken: list[float] = []
        self.pool = Pool(limit, per_client, self.told.append, self.woken.append)
        self.dropped: list[Connection] = []

    def come(self, client: str = "a", source: Source = Source.REMOTE, *, works: bool = False) -> Connection | None:
        made = self.pool.admit(source, client)
        if made is not None:
            made.drop = lambda: self.dropped.append(made)
            self.pool.wait(made, 10.0)
            if works:
                self.pool.work(made)
        return made


def test_a_client_with_too_many_loses_its_own_idlest_and_nobody_elses() -> None:
    world = World()
    other = world.come("b")
    own = [world.come("a") for _ in range(4)]
    assert world.come("a") is not None
    assert world.dropped == [own[0]] and own[0] is not None and own[0].ended
    assert world.pool.of_client("a") == 4
    assert other is not None and not other.ended
    assert world.told == ["client"]


def test_a_client_whose_connections_all_work_is_refused() -> None:
    world = World()
    assert all(world.come("a", works=True) for _ in range(4))
    assert world.come("a") is None
    assert world.told == ["client"] and world.come("b") is not None


def test_a_connection_at_work_is_never_dropped() -> None:
    world = World(limit=8, per_client=8)
    working = [world.come("a", works=True) for _ in range(3)]
    idle = world.come("b")
    for number in range(20):
        world.come(f"c{number}")
    assert world.dropped[0] is idle
    assert not any(one in world.dropped for one in working)


def test_those_from_the_network_leave_some_to_the_board_itself() -> None:
    world = World(limit=16, per_client=100)
    remote = [one for one in (world.come("a", works=True) for _ in range(30)) if one is not None and not one.spare]
    assert len(remote) == 12
    local = [world.come("", Source.LOCAL, works=True) for _ in range(4)]
    assert all(one is not None and not one.spare for one in local)


def test_when_all_are_at_work_a_few_more_are_let_in_for_the_health_check() -> None:
    world = World(limit=8, per_client=100)
    while (one := world.come("", Source.LOCAL, works=True)) is not None and not one.spare:
        pass
    assert one is not None, "the one that found it full"
    for source in (Source.LOCAL, Source.REMOTE):
        spare = [world.come("c", source) for _ in range(3 * SPARE_CONNECTIONS)]
        assert all(one is not None and one.spare for one in spare)
    # 8 at work, one that came first, and the newest of those that do nothing.
    assert len(world.pool) <= 8 + 2 * SPARE_CONNECTIONS


def test_nobody_can_use_up_the_command_lines() -> None:
    world = World(limit=8, per_client=100)
    for number in range(200):
        world.come(f"r{number}", works=True)
        world.come("", Source.LOCAL, works=True)
    assert all(world.come("", Source.CONTROL, works=True) for _ in range(CONTROL_CONNECTIONS))
    assert world.come("", Source.CONTROL) is None
    assert world.come("", Source.LOCAL) is None


def test_what_has_passed_its_deadline_is_told_to_end_and_then_ended() -> None:
    world = World()
    slow, busy = world.come("a"), world.come("b", works=True)
    assert slow is not None and busy is not None
    told: list[Connection] = []
    slow.expire = lambda: told.append(slow)
    assert world.woken == [10.0]
    world.pool.sweep(9.0)
    assert told == [] and world.woken[-1] == 10.0
    world.pool.sweep(10.0)
    assert told == [slow] and world.dropped == [] and len(world.pool) == 2
    world.pool.wait(slow, 1000.0)
    world.pool.sweep(world.woken[-1])
    assert world.dropped == [slow] and len(world.pool) == 1
    world.pool.sweep(1e9)
    assert not busy.ended


def test_a_deadline_that_comes_sooner_is_looked_at_sooner() -> None:
    world = World()
    first, second = world.come("a"), world.come("b")
    assert first is not None and second is not None
    world.pool.wait(second, 5.0)
    assert world.woken == [10.0, 5.0]
    world.pool.wait(first, 20.0)
    assert world.woken == [10.0, 5.0]


def test_one_that_has_ended_cannot_come_back() -> None:
    world = World()
    one = world.come("a")
    assert one is not None
    world.pool.release(one)
    world.pool.release(one)
    world.pool.wait(one, 1.0)
    world.pool.sweep(2.0)
    assert len(world.pool) == 0 and world.pool.of_client("a") == 0 and world.dropped == []


def test_at_the_end_only_what_is_not_served_is_dropped() -> None:
    world = World()
    opening, served = world.come("a"), world.come("b")
    assert opening is not None and served is not None
    served.served = True
    world.pool.close()
    assert world.dropped == [opening]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_counts_are_those_of_what_is_open(seed: int) -> None:
    chance = random.Random(seed)
    world = World(limit=chance.randint(8, 20), per_client=chance.randint(1, 6))
    limit, per_client = world.pool._all.limit, world.pool._per_client
    live: list[Connection] = []
    for now in range(400):
        live = [one for one in live if not one.ended or one in world.pool._connections]
        act = chance.random()
        if act < 0.5:
            source = chance.choice(list(Source))
            came = world.come(chance.choice("abcd") if source is Source.REMOTE else "", source)
            live += [came] if came is not None else []
        elif live:
            one = chance.choice(live)
            if act < 0.6:
                world.pool.release(one)
            elif act < 0.75:
                world.pool.work(one)
            elif act < 0.9:
                world.pool.wait(one, now + chance.randint(1, 30))
            else:
                world.pool.sweep(now)
        open_ = world.pool._connections
        counted = [one for one in open_ if world.pool._all in one.groups]
        assert world.pool._all.count == len(counted) <= limit
        clients = Counter(one.client for one in counted if world.pool._remote in one.groups)
        assert all(world.pool.of_client(client) == count <= per_client for client, count in clients.items())
        assert len(world.pool._clients) == len(clients)
        assert set(world.pool._all.waiting) <= set(counted)
        assert len(open_) <= limit + CONTROL_CONNECTIONS + 2 * SPARE_CONNECTIONS
