"""`homed backup`: what a person, or a timer, does with the board's backups. homed itself does it: this only asks."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from homed.cli_show import (
    Line,
    Lines,
    Operation,
    Show,
    Silent,
    ask,
    follow,
    moment,
    outcome,
    print_json,
    print_lines,
    print_table,
    print_tree,
    read_text,
    size,
)
from homed.control import Control, NotRunningError, RefusedError
from homed.errors import HomedError, ValidationError

BUSY = 75
"""EX_TEMPFAIL of sysexits.h: another operation runs."""

_LATER = "wait=false"
_BUSY_FOR, _BUSY_EVERY = 3600.0, 30.0
_AWAY_FOR, _AWAY_EVERY = 120.0, 2.0
_IDENTITY = "AGE-SECRET-KEY-1"
Options = argparse.Namespace


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """The subcommands of `homed backup`; `common` has the options that every command has."""
    parser = commands.add_parser("backup", help="make, look at and put back backups")
    acts = parser.add_subparsers(required=True, metavar="ACT")

    def act(name: str, run: Callable[[Options], int], help: str, *more: argparse.ArgumentParser) -> Any:
        made = acts.add_parser(name, parents=[common, *more], help=help)
        made.set_defaults(run=lambda options: _answering(run, options))
        return made

    shown, waiting, named, opening = _shown(), _waiting(), _named(), _opening()
    create = act("create", _create, "make a backup", shown, waiting)
    create.add_argument("name", nargs="?", help="the first part of its name (default: backup)")
    create.add_argument("--type", choices=["full", "incremental"], default="full")
    create.add_argument("--no-data", action="store_true", help="homed's own state alone, no volumes and bind mounts")
    act("list", _list, "list the backups", shown)
    act("show", _show, "say what is in a backup", shown, named)
    act("verify", _verify, "read a backup to its end and say whether it is whole", shown, waiting, named, opening)
    _add_restore(act("restore", _restore, "put a backup back, or some of it", shown, waiting, named, opening))
    act("delete", _delete, "delete a backup", named)
    copy = act("copy", _copy, "copy an archive to a target", shown, waiting, named)
    copy.add_argument("target", help="its name in backups.targets")
    prune = act("prune", _prune, "remove what the retention of the schedules does not keep", shown)
    prune.add_argument("--dry-run", action="store_true", help="only say what would go, and why")
    run = act("run", _run, "do what a schedule says, as its timer does", shown)
    run.add_argument("schedule")
    act("schedules", _schedules, "list the schedules, and when each comes next", shown)
    act("operations", _operations, "list what was done with backups", shown)
    unlock = act("unlock", _unlock_repository, "remove locks that others left in the repository", shown, waiting)
    unlock.add_argument("--force", action="store_true", help="also those of a restic that runs on this board")
    cancel = act("cancel", _cancel, "end an operation as soon as nothing is left half done")
    cancel.add_argument("id")
    passphrase = act("passphrase", _passphrase, "set the passphrase that opens the archives made from now on")
    passphrase.add_argument("--stdin", action="store_true", help="read it there instead of asking twice")


def _shown() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    return parser


def _waiting() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--no-wait", action="store_true", help="print the operation's id and do not wait for its end")
    return parser


def _named() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("backup", metavar="NAME", help="as `homed backup list` shows it")
    return parser


def _opening() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--passphrase-file", type=Path, metavar="FILE", help="of a sealed archive; else it is asked for")
    one.add_argument("--passphrase-stdin", action="store_true", help="read the passphrase there")
    one.add_argument("--identity-file", type=Path, metavar="FILE", help=f"with an age identity ({_IDENTITY}…)")
    return parser


def _add_restore(parser: argparse.ArgumentParser) -> None:
    for what in ("services", "volumes"):
        one = parser.add_mutually_exclusive_group()
        more = "; bind mounts by their path" if what == "volumes" else ""
        one.add_argument(f"--{what}", type=_names, metavar="NAMES", help=f"only these, with commas between{more}")
        one.add_argument(f"--no-{what}", action="store_const", const=False, dest=what, help=f"no {what}")
    parser.add_argument("--no-config", action="store_const", const=False, dest="with_config", help="no configuration")
    parser.add_argument("--keys", action="store_true", help="the API keys too")
    parser.add_argument(
        "--file-settings",
        action="store_true",
        help="homed.toml too, and so the settings that can be set there only (which else stay as they are)",
    )
    parser.add_argument("--yes", action="store_true", help="replace volumes without asking")
    parser.add_argument("--dry-run", action="store_true", help="only say what would change")


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if not names:
        raise argparse.ArgumentTypeError("names nothing")
    return names


def _answering(run: Callable[[Options], int], options: Options) -> int:
    """The exit code: 1 where it failed, 2 where the call was wrong, 75 where another operation runs."""
    try:
        return run(options)
    except HomedError as error:
        print(f"homed: {error.message}", file=sys.stderr)
        return {"BACKUP_BUSY": BUSY, "VALIDATION_ERROR": 2}.get(error.code, 1)


def _create(options: Options) -> int:
    body: dict[str, object] = {"type": options.type, "include_data": not options.no_data}
    if options.name is not None:
        body["name"] = options.name
    control = Control(options.state)
    return _waited(options, control, control.post("backups", body=body, query=_LATER))


def _verify(options: Options) -> int:
    return _opened(options, "verify", {})


def _restore(options: Options) -> int:
    wish = {"services": options.services, "volumes": options.volumes, "config": options.with_config}
    body: dict[str, object] = {name: value for name, value in wish.items() if value is not None}
    if options.file_settings:
        body["file_settings"] = True
    if not options.dry_run and not options.yes and not _agreed(options):
        print("homed: nothing was restored", file=sys.stderr)
        return 1
    return _opened(options, "restore", {**body, "keys": options.keys, "dry_run": options.dry_run})


def _agreed(options: Options) -> bool:
    """Ask before data is replaced. ValidationError if there is nobody to ask."""
    if options.volumes is False:
        return True
    backup = Control(options.state).get("backups", options.backup)
    names = _replaced(options, backup["sections"])
    if not names:
        return True
    if not sys.stdin.isatty():
        raise ValidationError([], f"this would replace {', '.join(names)}: confirm it with --yes")
    made = moment(backup["created_at"])
    print(f"This replaces {', '.join(names)} as a whole: what was written since {made} is lost.", file=sys.stderr)
    print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _replaced(options: Options, sections: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the volumes and bind mounts that a restore replaces."""
    if not sections:
        return ["all data that it holds"]  # it is sealed, and was never opened here
    data = [one for one in sections if one["kind"] != "state"]
    if options.volumes:
        data = [one for one in data if one["name"] in options.volumes]
    elif options.services:
        data = [one for one in data if set(options.services) & set(one["users"])]
    return [one["name"] for one in data]


def _copy(options: Options) -> int:
    control = Control(options.state)
    body = {"target": options.target}
    return _waited(options, control, control.post("backups", options.backup, "copy", body=body, query=_LATER))


def _delete(options: Options) -> int:
    Control(options.state).delete("backups", options.backup)
    return 0


def _list(options: Options) -> int:
    answer = Control(options.state).get("backups")
    if options.json:
        return print_json(answer)
    rows = [
        (one["name"], one["type"], size(one["size"]), moment(one["created_at"]), _state_of(one))
        for one in answer["backups"]
    ]
    return print_table(("NAME", "TYPE", "SIZE", "MADE", "STATE"), rows)


def _show(options: Options) -> int:
    answer = Control(options.state).get("backups", options.backup)
    if options.json:
        return print_json(answer)
    return print_tree(answer)


def _prune(options: Options) -> int:
    answer = Control(options.state).post("backups", "prune", body={"dry_run": options.dry_run})
    if options.json:
        return print_json(answer)
    gone = "would go" if options.dry_run else "removed"
    rows = [(one["name"], "kept", one["reason"]) for one in answer["kept"]]
    rows += [(one["name"], gone, one["reason"]) for one in answer["removed"]]
    return print_table(("NAME", "VERDICT", "WHY"), rows)


def _schedules(options: Options) -> int:
    answer = Control(options.state).get("backups", "schedules")
    if options.json:
        return print_json(answer)
    rows = [
        (one["name"], one["action"], one["calendar"], moment(one["next_run"]), moment(one["last_run"]),
         one["problem"] or "")
        for one in answer["schedules"]
    ]  # fmt: skip
    return print_table(("NAME", "ACTION", "CALENDAR", "NEXT", "LAST", "PROBLEM"), rows)


def _operations(options: Options) -> int:
    answer = Control(options.state).get("backups", "operations")
    if options.json:
        return print_json(answer)
    rows = [
        (one["id"], one["kind"], one["state"], moment(one["started_at"]), one["backup"],
         (one.get("failure") or {}).get("message", ""))
        for one in answer["operations"]
    ]  # fmt: skip
    return print_table(("ID", "KIND", "STATE", "STARTED", "BACKUP", "FAILURE"), rows)


def _unlock_repository(options: Options) -> int:
    control = Control(options.state)
    return _waited(options, control, control.post("backups", "unlock", body={"force": options.force}, query=_LATER))


def _cancel(options: Options) -> int:
    Control(options.state).post("backups", "operations", options.id, "cancel")
    return 0


def _run(options: Options) -> int:
    """Where its unit is stopped it cancels what it asked for, and dies of the signal, which systemd takes as such."""
    control = Control(options.state)
    signal.signal(signal.SIGTERM, _terminate)
    begun: Mapping[str, Any] = {}
    try:
        begun = _when_free(control, options.schedule)
        return _waited(options, control, begun)
    except _Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if begun.get("operation_id"):
            control.post("backups", "operations", begun["operation_id"], "cancel")
        os.kill(os.getpid(), signal.SIGTERM)
        return 1


class _Terminated(BaseException):
    """No handler of errors may take it for one."""


def _terminate(number: int, frame: object) -> None:
    raise _Terminated


def _begun(control: Control, schedule: str) -> Mapping[str, Any]:
    answer: Mapping[str, Any] = control.post("backups", "schedules", schedule, "run", query=_LATER)
    return answer


def _when_free(
    control: Control,
    schedule: str,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Mapping[str, Any]:
    """Have the schedule's work begun, as soon as nothing else runs, and homed does."""
    started, told = monotonic(), ""
    while True:
        try:
            return _begun(control, schedule)
        except (NotRunningError, RefusedError) as error:
            away = isinstance(error, NotRunningError)
            if not away and error.code != "BACKUP_BUSY":
                raise
            if monotonic() - started >= (_AWAY_FOR if away else _BUSY_FOR):
                raise
            if error.message != told:
                told = error.message
                print(f"homed: waiting: {told}", file=sys.stderr, flush=True)
        sleep(_AWAY_EVERY if away else _BUSY_EVERY)


def _passphrase(options: Options) -> int:
    """Without homed: the key lies in the state directory, and is looked for when a backup is made."""
    from homed.backups import keyring

    if options.stdin:
        text = sys.stdin.readline()
    else:
        text = ask("Passphrase of the backups: ")
        if text != ask("The same again: "):
            raise ValidationError([], "the two are not the same")
    keyring.make(options.state / "backup-key", text)
    print("Archives made from now on open with it. Those made before keep to theirs.", file=sys.stderr)
    return 0


def _opened(options: Options, act: str, body: Mapping[str, object]) -> int:
    """Done with what opens a sealed archive: as the options say it, or, where it turns out to be needed, asked for."""
    control = Control(options.state)
    unlock = _unlock(options)
    begun = control.post("backups", options.backup, act, body={**body, **unlock}, query=_LATER)
    if unlock or options.no_wait or not sys.stdin.isatty():
        return _waited(options, control, begun)
    operation = _followed(options, control, begun["operation_id"])
    if (operation.get("failure") or {}).get("code") == "BACKUP_KEY_MISSING":
        unlock = {"passphrase": ask("Passphrase of this backup: ")}
        begun = control.post("backups", options.backup, act, body={**body, **unlock}, query=_LATER)
        operation = _followed(options, control, begun["operation_id"])
    return _ended(options, operation)


def _unlock(options: Options) -> dict[str, str]:
    if options.passphrase_stdin:
        return {"passphrase": sys.stdin.readline().rstrip("\r\n")}
    if options.passphrase_file is not None:
        return {"passphrase": read_text(options.passphrase_file).partition("\n")[0].rstrip("\r")}
    if options.identity_file is not None:
        lines = read_text(options.identity_file).split()
        found = next((line for line in lines if line.startswith(_IDENTITY)), None)
        if found is None:
            raise HomedError(f"{options.identity_file}: there is no {_IDENTITY}… in it")
        return {"identity": found}
    return {}


def _waited(options: Options, control: Control, begun: Mapping[str, Any]) -> int:
    id = begun.get("operation_id")
    if id is None:
        print(begun["message"], file=sys.stderr)
        return 0
    if getattr(options, "no_wait", False):
        return print_json(begun) if options.json else print_lines([id])
    return _ended(options, _followed(options, control, id))


def _followed(options: Options, control: Control, id: str) -> Operation:
    show: Show = Lines()
    if options.json:
        show = Silent()
    elif sys.stderr.isatty():
        show = Line()
    try:
        return follow(control, id, show)
    except KeyboardInterrupt:
        print(f"homed: it goes on; `homed backup cancel {id}` ends it", file=sys.stderr)
        raise


def _ended(options: Options, operation: Operation) -> int:
    """Print what came of it. RefusedError where it failed."""
    if options.json:
        print_json(operation)
    for warning in operation.get("warnings", ()):
        print(f"homed: {warning}", file=sys.stderr)
    outcome(operation)
    return 0 if options.json else print_tree(operation.get("result") or {"backup": operation["backup"]})


def _state_of(backup: Mapping[str, Any]) -> str:
    words = [f"damaged: {backup['damage']}"] if backup["damage"] else []
    words += ["verified"] if backup["verified_at"] and not backup["damage"] else []
    words += ["sealed"] if backup["encrypted"] else []
    words += [f"copied to {', '.join(backup['copies'])}"] if backup["copies"] else []
    return ", ".join(words)
