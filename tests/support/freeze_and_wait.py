"""A process that freezes a service and then only waits: to be killed. `STATE ADDRESS NAME`; says `frozen`."""

import asyncio
import sys
from pathlib import Path

from homed.containers.engine import Engine
from homed.containers.streams import Streams
from tests.support.held_services import board


async def main(state: Path, address: str, name: str) -> None:
    engine = Engine(address, lambda call: lambda seconds, worked: None)
    async with board(state, engine, Streams(address)) as one:
        await one.reaches(name, "running")
        await one.capturing.pause([name])
        print("frozen", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
