"""`homed worker`: what it is called with, and how it ends."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

_WORK = Path("/var/lib/homed-worker")
_KEY_REFUSED, _ENDED = 77, 143
# A poll names each job that it has, in its address.
_MOST_SLOTS = 100


def add(commands: Any) -> None:
    """The subcommand `worker`."""
    work = Path(os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or _WORK)
    worker = commands.add_parser(
        "worker",
        help="take archives from a homed elsewhere, and run their commands here",
        description="Ends with 0 when it was told to (SIGTERM: it finishes what it has), with 143 when it was told"
        " twice (at once), with 77 where the server does not take its key, with 78 where it was not called rightly.",
    )
    worker.add_argument("--server", required=True, help="where that homed listens, like http://board:8080")
    worker.add_argument("--id", help="the worker's id (default: a new one, which it keeps)")
    worker.add_argument("--key-file", type=_path, help="a file that holds an API key of the scope operate")
    worker.add_argument("--slots", type=_slots, default=1, help="how many jobs to run at once (default: 1)")
    worker.add_argument("--work", type=_path, default=work.absolute(), help=f"the folder to work in (default: {work})")
    worker.add_argument("--ca", type=_path, help="a file with the certificates that the server's must be signed by")
    worker.set_defaults(run=_run)


def _path(text: str) -> Path:
    """Return the path as an absolute one, because jobs run in their own directories."""
    return Path(text).absolute()


def _slots(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= _MOST_SLOTS:
        raise argparse.ArgumentTypeError(f"must be 1 to {_MOST_SLOTS}")
    return number


def _run(options: argparse.Namespace) -> int:
    import asyncio
    import logging

    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    return asyncio.run(_work(options))


async def _work(options: argparse.Namespace) -> int:
    import asyncio
    import signal

    from homed.agent.agent import Agent
    from homed.agent.home import Home
    from homed.agent.server import KeyRefusedError, Server

    home = Home(options.work)
    try:
        server = Server(options.server, _key(options.key_file), options.ca)
        async with server:
            agent = Agent(server, home, home.id(options.id), options.slots)
            task = asyncio.create_task(agent.run())
            told = False

            def stop() -> None:
                nonlocal told
                if told:
                    task.cancel()
                else:
                    told = True
                    agent.drain()

            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
            try:
                await task
            except asyncio.CancelledError:
                return _ENDED
            except KeyRefusedError as error:
                print(f"homed: the server does not take this worker: {error.message}", file=sys.stderr)
                return _KEY_REFUSED
            return 0
    finally:
        home.close()


def _key(path: Path | None) -> str | None:
    from homed.errors import ConfigError

    if path is None:
        return None
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the key cannot be read: {error}") from error
    if not key or not key.isprintable():
        raise ConfigError(f"{path}: it holds no key")
    return key
