"""Who knocks at the door: what it leaves in the account of changes, and what it may hold of homed's memory."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from homed.access.scopes import Principal, Scope
from homed.api.access import keys as access_routes
from homed.api.homei.services import _Resource
from homed.api.listeners import Listeners
from homed.api.routes import Call
from homed.clock import now
from homed.containers.keeper import Report
from homed.containers.model import Container, State
from homed.errors import ForbiddenError
from tests.support.front import serve


async def test_who_is_turned_away_at_the_door_leaves_nothing_in_the_audit_log(tmp_path: Path) -> None:
    """It keeps a number of entries: strangers, or a page, could push out the account of what was done."""
    async with serve(tmp_path) as server:
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"X-API-Key": "hk_no_no"}):
            async with server.request("POST", "/things/a/refuse", headers=headers) as answer:
                assert answer.status in (401, 403, 421)
        assert await server.store.entries(10, None) == []
        async with server.request("POST", "/things/a/refuse") as answer:
            assert answer.status == 409
        assert [entry.status for entry in await server.store.entries(10, None)] == [409]


async def test_a_token_makes_no_key() -> None:
    """One that was stolen would be good for ever."""
    routes = access_routes.routes(cast(Any, None), cast(Any, None), cast(Any, None), lambda: 60)
    create = next(route for route in routes if route.change == "key.create")
    thief = Principal("key:admin", Scope.ADMIN, "1", by_token=True)
    with pytest.raises(ForbiddenError):
        await create.handler(Call(cast(Any, None), thief, "r1", {}, body=cast(Any, None)))


@pytest.mark.parametrize(("peer", "trusted"), [("127.0.0.1", True), ("127.9.9.9", True), ("192.0.2.7", False)])
def test_a_neighbour_that_is_routed_to_loopback_is_not_local(peer: str, trusted: bool) -> None:
    listeners = Listeners(8)
    listeners._trusted.add(("127.0.0.1", 8080))
    names = {"sockname": ("127.0.0.1", 8080), "peername": (peer, 4242)}

    class Transport:
        get_extra_info = staticmethod(names.get)

    request = SimpleNamespace(transport=Transport(), protocol=None)
    assert listeners.locate(cast(web.Request, request)).trusted is trusted


async def test_a_restart_that_goes_on_is_not_said_to_be_done() -> None:
    """Its container is up, as it was before: it was not stopped yet."""
    container = Container(id="1", name="web", image="app:1", state=State.RUNNING, created_at=now())
    going_on = Report(status="restarting", step="stop", container=container, busy=True)

    async def change(name: str, change: object) -> Any:
        return SimpleNamespace(revision=1)

    async def settle(name: str, revision: int, timeout: float) -> Report:
        return going_on

    async def check_restart(service: object) -> None:
        pass

    services = SimpleNamespace(change=change, get=lambda name: SimpleNamespace(service=None))
    reconciler = SimpleNamespace(settle=settle, retry=lambda name: None, check_restart=check_restart)
    resource = _Resource(cast(Any, services), cast(Any, reconciler))
    call = Call(cast(Any, None), Principal("local", Scope.ADMIN), "r1", {"service_name": "web"})
    answer = await resource.restart(call)
    assert isinstance(answer, tuple)
    assert answer[0] == 202
