"""The command line: `homed serve`, and what a person does by hand."""

import argparse
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from homed import __version__, clock
from homed.errors import ConfigError, HomedError, ValidationError

if TYPE_CHECKING:
    from homed.host.notify import Notifier
    from homed.settings import Settings
    from homed.state import StateDirectory

T = TypeVar("T")
_CONFIG = Path("/etc/homed/homed.toml")
_STATE = Path("/var/lib/homed")
_LAST_THREADS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 where it failed, 2 where the call was wrong, 78 where the configuration is."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["backup-worker"]:
        return _backup_worker(given[1:])
    try:
        options = _parser().parse_args(given)
    except KeyboardInterrupt:  # while the modules of the commands are loaded
        return 130
    code = _run(options)
    if options.run is _serve:
        _leave(code)
    return code


def _run(options: argparse.Namespace) -> int:
    try:
        result: int = options.run(options)
    except HomedError as error:
        print(f"homed: {error.message}", file=sys.stderr)
        return 78 if error.code in ("CONFIG_ERROR", "KEY_REQUIRED", "CANNOT_LISTEN") else 1
    except PermissionError as error:
        # Which file of the state directory was tried first does not matter: all of it is for root.
        inside = not error.filename or Path(str(error.filename)).is_relative_to(options.state)
        what = f"the state in {options.state}" if inside else error.filename
        print(f"homed: cannot open {what}: permission denied: run it as root", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read what it prints has ended. What is left unwritten must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return result


def _leave(code: int) -> None:
    """End the process where a thread still waits for an engine that hangs: the interpreter would join it."""
    end = time.monotonic() + _LAST_THREADS
    for thread in threading.enumerate():
        if thread is threading.current_thread() or thread.daemon:
            continue
        thread.join(max(0.0, end - time.monotonic()))
        if thread.is_alive():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def absolute(text: str) -> Path:
    """A path of the command line, for good: what works with it later may begin elsewhere."""
    return Path(text).absolute()


def _settings(options: argparse.Namespace, *, read_only: bool = False) -> "Settings":
    """The configuration of a command. A file that was named must be there: without it the defaults would count."""
    from homed import config
    from homed.config import overrides
    from homed.settings import Settings

    flags = {name: value for name in ("host", "port") if (value := getattr(options, name, None)) is not None}
    override = config.merge(overrides.from_environment(os.environ), {"api": flags} if flags else {})
    return Settings(
        options.config or _CONFIG, options.state / "config.json",
        override=override, must_exist=options.config is not None, read_only=read_only,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="homed", description="The daemon on each board of an edge appliance.")
    parser.add_argument("--version", action="version", version=f"homed {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    state = Path(os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or _STATE)
    common.add_argument("--config", type=absolute, help=f"the TOML file (default: {_CONFIG}, if it is there)")
    common.add_argument(
        "--state", type=absolute, default=state.absolute(), help=f"the state directory (default: {state})"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", parents=[common], help="run the daemon")
    serve.add_argument("--host", help="listen here instead of api.host")
    serve.add_argument("--port", type=int, help="listen here instead of api.port")
    serve.add_argument("--api-key", metavar="KEY", help="an admin key known in memory only; better as HOMED_API_KEY")
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check-config", parents=[common], help="say whether the configuration is right")
    check.set_defaults(run=_check_config)

    doctor = commands.add_parser(
        "doctor", parents=[common], help="say what is wrong with this board, or soon will be, and what to do about it"
    )
    doctor.set_defaults(run=_doctor)

    _more_commands(commands, common)

    spec = commands.add_parser("spec", help="write openapi.json and asyncapi.json into a folder")
    spec.add_argument("folder", type=Path)
    spec.set_defaults(run=_spec)

    key = commands.add_parser("key", help="make, list and revoke API keys").add_subparsers(required=True, metavar="ACT")
    create = key.add_parser("create", parents=[common], help="make a key and print it, once")
    create.add_argument("name")
    create.add_argument("--scope", choices=["read", "operate", "admin"], required=True)
    create.add_argument("--days", type=float, help="how long it is valid (default: until revoked)")
    create.set_defaults(run=lambda o: _await(_create_key(o)))
    listing = key.add_parser("list", parents=[common], help="list the keys")
    listing.set_defaults(run=lambda o: _await(_list_keys(o)))
    revoke = key.add_parser("revoke", parents=[common], help="revoke a key and its tokens")
    revoke.add_argument("id")
    revoke.set_defaults(run=lambda o: _await(_revoke_key(o)))
    return parser


def _await(work: Coroutine[Any, Any, T]) -> T:
    import asyncio  # as costly as all the rest, and not for everybody

    return asyncio.run(work)


def _more_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    from homed import cli_backup, cli_jobs, cli_state
    from homed.agent import cli as agent

    cli_backup.add(commands, common)
    cli_jobs.add(commands, common)
    cli_state.add(commands, common)
    agent.add(commands)


def _serve(options: argparse.Namespace) -> int:
    from homed.host import notify
    from homed.state import StateDirectory

    notifier = notify.Notifier()
    try:
        # Before the configuration: what was changed over the API is part of the state.
        with StateDirectory(options.state) as state:
            return _run_daemon(_settings(options), state, notifier, options.api_key)
    except HomedError as error:
        notifier.status(f"Cannot start: {error.message}")
        raise


def _run_daemon(settings: "Settings", state: "StateDirectory", notifier: "Notifier", api_key: str | None) -> int:
    from homed.access import given
    from homed.daemon import Daemon
    from homed.host import journal, notify

    sink = journal.configure(settings.current.log.level)
    try:
        passed = [one.socket for one in notify.listen_sockets()]
        key = given.take(api_key, os.environ)

        async def run() -> None:
            await Daemon(settings, state, notifier, sink, passed, key).run()

        _await(run())
    except HomedError:
        raise
    except Exception:
        logging.getLogger(__name__).critical("homed failed", exc_info=True)
        return 1
    finally:
        sink.close()
    return 0


def _backup_worker(arguments: Sequence[str]) -> int:
    """What homed starts for each operation on backups: it is waited for, and so has none of the others' imports."""
    from homed.backups.worker import main

    if len(arguments) != 1:
        print("usage: homed backup-worker FOLDER (homed itself starts it)", file=sys.stderr)
        return 2
    return main.main(Path(arguments[0]))


def _check_config(options: argparse.Namespace) -> int:
    from homed import doctor
    from homed.backups import schedules

    settings = _settings(options, read_only=True)
    try:
        schedules.check(settings.current.backups.schedules)
    except ValidationError as error:
        raise ConfigError(f"{settings.file}: {error.message}") from error
    if settings.trouble:
        raise ConfigError(settings.trouble)
    found = doctor.exposure(settings, options.state)
    for one in found:
        if one.level is doctor.Level.BAD:
            raise ConfigError(f"{settings.file}: {one.about}: {one.text}", code="KEY_REQUIRED")
        if one.level is doctor.Level.WARNING:
            print(f"{settings.file}: {one.about}: {one.text}", file=sys.stderr)
    print(f"{settings.file}: right")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from homed import doctor

    findings = _await(doctor.examine(_settings(options, read_only=True), options.state))
    for level, about, text in findings:
        print(f"{level:8} {about}: {text}")
    return int(any(finding.level is doctor.Level.BAD for finding in findings))


def _spec(options: argparse.Namespace) -> int:
    import tempfile

    from homed.daemon import Daemon
    from homed.host.notify import Notifier
    from homed.settings import Settings
    from homed.state import StateDirectory

    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)

        async def documents() -> None:
            daemon = Daemon(Settings(state / "none.toml", state / "none.json"), StateDirectory(state), Notifier({}))
            options.folder.mkdir(parents=True, exist_ok=True)
            for name, document in zip(("openapi", "asyncapi"), daemon.specifications(), strict=True):
                text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
                (options.folder / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")

        _await(documents())
    return 0


async def _create_key(options: argparse.Namespace) -> int:
    from homed import state
    from homed.access.keys import Keys
    from homed.access.scopes import Scope
    from homed.store.sqlite import SqliteStore

    state.require_whole(options.state)
    store = SqliteStore(options.state / "homed.db")
    await store.open()
    try:
        expires = clock.now() + timedelta(days=options.days) if options.days else None
        made = await Keys(store).create(options.name, Scope(options.scope), expires)
    finally:
        await store.close()
    print(made.text)
    print(f"This is key {made.key.id}; it is shown this once and not kept.", file=sys.stderr)
    return 0


async def _list_keys(options: argparse.Namespace) -> int:
    from homed import state
    from homed.access.keys import Keys
    from homed.store.sqlite import SqliteStore

    state.require_whole(options.state)
    store = SqliteStore(options.state / "homed.db")
    await store.open()
    try:
        keys = Keys(store)
        await keys.load()
    finally:
        await store.close()
    if not keys.all():
        print("There are no keys. Make one: homed key create NAME --scope admin", file=sys.stderr)
    for key in keys.all():
        expires = clock.rfc3339(key.expires_at) if key.expires_at else "never"
        print(f"{key.id}  {key.scope:8} {key.name:24} made {clock.rfc3339(key.created_at)}  expires {expires}")
    return 0


async def _revoke_key(options: argparse.Namespace) -> int:
    from homed import state
    from homed.access.keys import Keys
    from homed.store.sqlite import SqliteStore

    state.require_whole(options.state)
    store = SqliteStore(options.state / "homed.db")
    await store.open()
    try:
        key = await Keys(store).revoke(options.id)
    finally:
        await store.close()
    print(f"Revoked {key.id} ({key.name}) and every token issued for it.")
    return 0
