"""The services' records where there is no room for them: all are put back, or none."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec

from homed.containers.engine import Engine
from homed.containers.streams import Streams
from homed.errors import StoreError
from tests.support import held_services
from tests.support.fake_engine import FakeEngine
from tests.support.filesystems import full, in_memory
from tests.support.hostile_board import service


async def test_services_are_put_back_all_or_none_where_the_store_is_full(tmp_path: Path) -> None:
    """What the disk has no room for is not half there, neither now nor at the next start."""
    engine = FakeEngine()
    several = {
        f"s{i}": service(f"s{i}", environment={f"X{n}": "x" * 4000 for n in range(8)}, restart_policy="no")
        for i in range(20)
    }
    outcomes = set()
    for left in (0, 8, 16, 32, 64, 128, 256, 512, 900, 2048):
        with in_memory(tmp_path / "services", 8) as disk:
            async with held_services.board(disk, cast(Engine, engine), cast(Streams, engine)) as one:
                await one.create("s3", restart_policy="no")
                before = one.capturing.records()
                with full(disk, left):
                    try:
                        await one.capturing.put(several)
                        outcomes.add(True)
                        before = one.capturing.records()
                        assert set(before) == set(several)
                    except StoreError:
                        outcomes.add(False)
                    assert specs(one.capturing.records()) == specs(before), left
            async with held_services.board(disk, cast(Engine, engine), cast(Streams, engine)) as one:
                assert specs(one.capturing.records()) == specs(before), left
    assert outcomes == {True, False}


def specs(found: Mapping[str, bytes]) -> dict[str, object]:
    return {name: msgspec.json.decode(record)["spec"] for name, record in found.items()}
