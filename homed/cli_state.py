"""The command line's `homed state`: start afresh, and look at what was damaged."""

import argparse
import sys
from typing import Any

from homed import state
from homed.store import damage, opening
from homed.store.sqlite import SqliteStore

_DATABASE = "homed.db"


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """The subcommand `state`."""
    acts = commands.add_parser("state", help="start afresh, and see damaged records").add_subparsers(
        required=True, metavar="ACT"
    )
    reset = acts.add_parser(
        "reset",
        parents=[common],
        help="start afresh: without services, keys and jobs",
        description="Set the database aside: homed starts afresh, without services, keys, jobs and hosts. Containers,"
        " their data, backups, the configuration and the certificate stay as they are. homed must not run.",
    )
    reset.add_argument("--yes", action="store_true", help="do not ask")
    reset.set_defaults(run=_reset)
    damaged = acts.add_parser("damaged", parents=[common], help="list the records that were set aside")
    damaged.add_argument("--forget", action="store_true", help="delete them")
    damaged.set_defaults(run=_damaged)


def _reset(options: argparse.Namespace) -> int:
    from homed.errors import StoreError

    try:
        held = state.lock(options.state)
    except StoreError as error:
        if isinstance(error.__cause__, PermissionError):
            raise error.__cause__ from None
        raise StoreError(f"{error.message}: stop homed first (systemctl stop homed)") from error
    try:
        if not options.yes and not _confirmed(options):
            return 2
        aside = opening.set_aside(options.state / _DATABASE, "before-reset")
    except OSError as error:
        raise StoreError(f"the state in {options.state} cannot be reset: {error}") from error
    finally:
        held.close()
    kept = f"; what was there is in {aside}" if aside is not None else ""
    print(f"The state in {options.state} is reset{kept}. Start homed: systemctl start homed")
    return 0


def _confirmed(options: argparse.Namespace) -> bool:
    if not sys.stdin.isatty():
        print("homed: this forgets all services, keys, jobs and hosts: say --yes if it is meant", file=sys.stderr)
        return False
    print(f"This forgets all services, keys, jobs and hosts in {options.state}. Containers are left as they are.")
    return input("Type yes to go on: ").strip() == "yes"


def _damaged(options: argparse.Namespace) -> int:
    import asyncio

    return asyncio.run(_list_damaged(options))


async def _list_damaged(options: argparse.Namespace) -> int:
    state.require_whole(options.state)
    store = SqliteStore(options.state / _DATABASE)
    await store.open()
    try:
        found = await damage.kept(store)
        if options.forget:
            await store.delete_all(damage.BUCKET, [f"{one.bucket}/{one.key}" for one in found])
    finally:
        await store.close()
    if not found and not options.forget:
        print("There are no damaged records.", file=sys.stderr)
    for one in found:
        print(f"{one.bucket}/{one.key}")
    if options.forget:
        print(f"Deleted {len(found)} damaged records.")
    return 0
