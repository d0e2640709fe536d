"""`homed job` and `homed host`: what a person does with jobs and with the hosts that they run on, over the API."""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from homed.cli_show import ask, moment, print_json, print_table, print_tree, read_text
from homed.control import Control, NotRunningError, RefusedError
from homed.errors import HomedError

Options = argparse.Namespace
_LOST_TRIES = 30
_LOST_PAUSE = 1.0
_CANCELLED = 130
_CANCEL_TIMEOUT = 10.0
_CANCEL_POLL_INTERVAL = 0.2


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """The subcommands of `homed job` and `homed host`; `common` has the options that every command has."""
    shown = argparse.ArgumentParser(add_help=False)
    shown.add_argument("--json", action="store_true", help="print the answer as JSON")
    _add_jobs(commands, common, shown)
    _add_hosts(commands, common, shown)


def _acts(commands: Any, name: str, help: str, common: argparse.ArgumentParser) -> Callable[..., Any]:
    acts = commands.add_parser(name, help=help).add_subparsers(required=True, metavar="ACT")

    def act(name: str, run: Callable[[Options], int], help: str, *more: argparse.ArgumentParser) -> Any:
        made = acts.add_parser(name, parents=[common, *more], help=help)
        made.set_defaults(run=lambda options: _answering(run, options))
        return made

    return act


def _add_jobs(commands: Any, common: argparse.ArgumentParser, shown: argparse.ArgumentParser) -> None:
    act = _acts(commands, "job", "run, list and end jobs", common)
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("id", help="as `homed job list` shows it")
    run = act("run", _run, "run a command or a script as a job, and show what it prints")
    run.add_argument(
        "--host", default="local", metavar="ID", help="a host, or its name, to run it on over SSH (default: this board)"
    )
    run.add_argument("--timeout", type=float, metavar="SECONDS")
    run.add_argument("--priority", type=int, metavar="1..10", help="the higher, the sooner (default: 5)")
    run.add_argument("--script", type=Path, metavar="FILE", help="a script in place of a command; - is standard input")
    run.add_argument("--shell", metavar="PROGRAM", help="what reads the script (default: /bin/bash)")
    run.add_argument("--no-wait", action="store_true", help="print the job's id and do not wait for its end")
    run.add_argument(
        "command",
        nargs="*",
        help="one argument: a line for the shell; several: a program and its arguments, after -- where it has options",
    )
    listing = act("list", _list, "list jobs, the newest first", shown)
    listing.add_argument("--status", choices=["queued", "running", "completed", "failed", "canceled"])
    listing.add_argument("--search", metavar="TEXT", help="those with this in their command")
    listing.add_argument("--limit", type=int, default=20, help="how many (default: 20, at most 100)")
    act("show", _show, "say all that is known of a job", shown, named)
    act("logs", _logs, "show what a job has printed, and go on until it ends", named)
    act("cancel", _cancel, "end a job, with all its processes", named)
    act("again", _again, "submit a copy of a job", named)


def _add_hosts(commands: Any, common: argparse.ArgumentParser, shown: argparse.ArgumentParser) -> None:
    act = _acts(commands, "host", "keep the hosts that jobs reach over SSH", common)
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("id", help="its id or name, as `homed host list` shows them")
    act("list", _hosts, "list the hosts", shown)
    made = act("add", _add_host, "add a host; without --key-file its password is asked for")
    made.add_argument("name")
    made.add_argument("address", metavar="USER@HOSTNAME")
    made.add_argument("--port", type=int, default=22)
    made.add_argument("--key-file", type=Path, help="a private key without a passphrase")
    made.add_argument("--legacy-algorithms", action="store_true", help="an old host: allow it broken algorithms")
    act("test", _test_host, "log in and run a command", shown, named)
    act("forget-key", _forget_key, "trust the host's key anew, after it was changed on purpose", named)
    remove = act("remove", _remove_host, "remove a host", named)
    remove.add_argument("--force", action="store_true", help="although there are jobs of it")


def _answering(run: Callable[[Options], int], options: Options) -> int:
    """The exit code: 1 where it failed, 2 where the call was wrong; of `run` and `logs` the job's own."""
    try:
        return run(options)
    except HomedError as error:
        print(f"homed: {error.message}", file=sys.stderr)
        return 2 if error.code == "VALIDATION_ERROR" else 1


def _run(options: Options) -> int:
    if bool(options.command) == (options.script is not None):
        print("homed: either a command or --script is needed", file=sys.stderr)
        return 2
    body: dict[str, object] = {
        name: given for name in ("timeout", "priority") if (given := getattr(options, name)) is not None
    }
    control = Control(options.state)
    if options.script is not None:
        body["script"] = sys.stdin.read() if str(options.script) == "-" else read_text(options.script)
        body |= {} if options.shell is None else {"shell": options.shell}
        path = ["jobs", "script"]
    else:
        path = ["jobs"]
        body["command"] = _command(options.command)
    job = _of_host(control, options.host, lambda id: control.post(*path, body=body | {"server_id": id}))
    if options.no_wait:
        print(job["id"])
        return 0
    try:
        return _followed(control, job["id"])
    except KeyboardInterrupt:
        return _cancelled(control, job["id"])


def _command(words: Sequence[str]) -> str:
    """One word is a line for the shell; several are a program and what it is given, as they are."""
    return words[0] if len(words) == 1 else shlex.join(words)


def _logs(options: Options) -> int:
    return _followed(Control(options.state), options.id)


def _followed(control: Control, id: str) -> int:
    """Print what it prints, also over a restart of homed. The job's exit code, or 1 where it has none."""
    seen, tries_left = "", _LOST_TRIES
    while True:
        try:
            for event in control.follow("jobs", id, "stream", last_event_id=seen):
                seen, tries_left = event.id or seen, _LOST_TRIES
                if event.kind == "output":
                    out = sys.stderr if event.data["type"] == "stderr" else sys.stdout
                    out.write(event.data["content"])
                    out.flush()
                elif event.kind == "complete":
                    return _ended(event.data)
        except NotRunningError:
            tries_left -= 1
            if not tries_left:
                raise
        time.sleep(_LOST_PAUSE)


def _cancelled(control: Control, id: str) -> int:
    """Cancel the job of an interrupted command and wait until it has ended. A second ^C leaves it to homed."""
    print(f"homed: cancelling job {id}", file=sys.stderr, flush=True)
    try:
        control.post("jobs", id, "cancel")
        end = time.monotonic() + _CANCEL_TIMEOUT
        while time.monotonic() < end:
            job = control.get("jobs", id)
            if job["status"] not in ("queued", "running"):
                print(f"homed: job {id} is {job['status']}", file=sys.stderr)
                return _CANCELLED
            time.sleep(_CANCEL_POLL_INTERVAL)
    except KeyboardInterrupt:
        pass
    except HomedError as error:
        print(f"homed: cannot cancel job {id}: {error.message}; it may still be running", file=sys.stderr)
        return _CANCELLED
    print(f"homed: job {id} has not ended yet: see homed job show {id}", file=sys.stderr)
    return _CANCELLED


def _ended(job: Any) -> int:
    if job["status"] == "completed":
        return 0
    if job.get("error"):
        print(f"homed: {job['error']}", file=sys.stderr)
    return job.get("exit_code") or 1


def _list(options: Options) -> int:
    query = {"limit": options.limit, "status": options.status, "search": options.search}
    given = {name: value for name, value in query.items() if value is not None}
    answer = Control(options.state).get("jobs", query=urlencode(given))
    if options.json:
        return print_json(answer)
    rows = [
        (one["id"], one["status"], moment(one["created_at"]), _text(one.get("exit_code")),
         _host(one), _line(one))
        for one in answer["jobs"]
    ]  # fmt: skip
    return print_table(("ID", "STATUS", "SUBMITTED", "EXIT", "HOST", "COMMAND"), rows)


def _host(job: Any) -> str:
    """Its name, or the id of one that was removed."""
    return str((job.get("server") or {}).get("name") or job["server_id"])


def _line(job: Any) -> str:
    text = " ".join(part for part in (job.get("command"), job.get("args"), job.get("original_script")) if part)
    return " ".join(text.split())[:60]


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _show(options: Options) -> int:
    answer = Control(options.state).get("jobs", options.id)
    return print_json(answer) if options.json else print_tree(answer.get("data", answer))


def _cancel(options: Options) -> int:
    Control(options.state).post("jobs", options.id, "cancel")
    return 0


def _again(options: Options) -> int:
    answer = Control(options.state).post("jobs", options.id, "duplicate")
    print(answer["new_job"]["id"])
    return 0


def _hosts(options: Options) -> int:
    answer = Control(options.state).get("servers")
    if options.json:
        return print_json(answer)
    rows = [
        (one["id"], one["name"], f"{one['user']}@{one['hostname']}:{one['port']}", one["auth_type"],
         _state(one), moment(one["last_checked_at"]))
        for one in answer["servers"]
    ]  # fmt: skip
    return print_table(("ID", "NAME", "ADDRESS", "BY", "STATE", "CHECKED"), rows)


def _state(host: Any) -> str:
    """Return how the last check ended, or that no jobs are sent there."""
    return str(host["status"]) if host["is_active"] else "inactive"


def _add_host(options: Options) -> int:
    user, at, hostname = options.address.rpartition("@")
    if not at or not user or not hostname:
        print("homed: the address must be user@hostname", file=sys.stderr)
        return 2
    body: dict[str, object] = {"name": options.name, "hostname": hostname, "port": options.port, "user": user}
    if options.key_file is not None:
        body |= {"auth_type": "key", "private_key": read_text(options.key_file)}
    else:
        body |= {"auth_type": "password", "password": ask(f"Password of {options.address}: ")}
    body |= {"legacy_algorithms": True} if options.legacy_algorithms else {}
    print(Control(options.state).post("servers", body=body)["id"])
    return 0


def _of_host(control: Control, given: str, call: Callable[[str], Any]) -> Any:
    """A host may be given by its name too, where one has it."""
    try:
        return call(given)
    except RefusedError as error:
        if error.code != "HOST_NOT_FOUND":
            raise
        found = [one["id"] for one in control.get("servers")["servers"] if one["name"] == given]
        if len(found) != 1:
            raise
        return call(found[0])


def _test_host(options: Options) -> int:
    control = Control(options.state)
    try:
        answer = _of_host(control, options.id, lambda id: control.post("servers", id, "test"))
    except RefusedError as error:
        if "test_command" not in error.body:
            raise
        answer = error.body  # the test was made, and failed
    if options.json:
        print_json(answer)
    elif answer["status"] == "connected":
        print(f"connected in {answer['response_time_ms']} ms")
    else:
        print(f"homed: {answer.get('message') or answer['status']}", file=sys.stderr)
    return 0 if answer["status"] == "connected" else 1


def _forget_key(options: Options) -> int:
    control = Control(options.state)
    _of_host(control, options.id, lambda id: control.post("servers", id, "forget-key"))
    return 0


def _remove_host(options: Options) -> int:
    control, query = Control(options.state), "force=true" if options.force else ""
    _of_host(control, options.id, lambda id: control.delete("servers", id, query=query))
    return 0
