"""What a job is to the machine: a program with its arguments, its whole environment, and what it reads."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, assert_never

from homed.config.jobs import Jobs as Config
from homed.errors import JobError
from homed.jobs.records import Archive, Command, Job, Script, Task
from homed.jobs.scripts import normal_lines, normal_script

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHELL = "/bin/sh"
_INSIDE = "homed.jobs.inside"


class Place(NamedTuple):
    """Paths as the job sees them: `home` is the fresh folder that it begins in, `files` is where its own files lie
    (script, expression), `uploads` holds the archives of the executor.
    """

    home: Path
    files: Path
    uploads: Path


class File(NamedTuple):
    """To be written before the job begins; its user must be able to read it."""

    path: Path
    content: bytes
    mode: int = 0o644


class Launch(NamedTuple):
    """`environment` is all of it. `stdin` None is /dev/null. `reads` are files that the job opens by itself: its user
    must reach them. `user` is empty where none is configured. `own`: it is homed's own interpreter, which becomes that
    user by itself where it is told (`inside.become`): its files may lie where the user cannot read.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    working_directory: Path
    stdin: Path | None = None
    files: tuple[File, ...] = ()
    reads: tuple[Path, ...] = ()
    user: str = ""
    own: bool = False


def launch(job: Job, place: Place, config: Config) -> Launch:
    """JobError SHELL_NOT_FOUND where a script's interpreter is not there, JOB_NOT_STARTED for what cannot be run."""
    if job.beside.work:
        raise JobError(f"the content of job '{job.id}' was not read", code="JOB_NOT_STARTED")
    environment = {
        "HOMED_JOB_ID": job.id,
        "HOMED_JOB_ATTEMPT": str(job.attempt),
        "PATH": PATH,
        "HOME": str(place.home),
        "LANG": "C.UTF-8",
    }
    bare = Launch((), environment, place.home, user=job.user or config.user)
    match job.work:
        case Command():
            made = bare._replace(argv=(SHELL, "-c", normal_lines(job.work.line)))
        case Script():
            script = File(place.files / "script", normal_script(job.work.script, job.work.shell).encode())
            argv = (_interpreter(job.work.shell), str(script.path))
            made = bare._replace(argv=argv, files=(script,), reads=(script.path,))
        case Archive():
            # The name alone: what an address leads to lies among the uploads, or nowhere.
            name = Path(job.work.url).name
            archive = place.uploads / (name if name not in ("", "..") else "none")
            limits = (str(config.workers.unpacked_limit), str(config.workers.members))
            # A page's form ends lines as the network does.
            lines = normal_lines(job.work.command)
            made = bare._replace(argv=_inside("archive", *limits, lines), stdin=archive, own=True)
        case Task():
            made = _task(job.work, bare, place)
        case _:
            assert_never(job.work)
    if any("\0" in text for text in (*made.argv, *made.environment, *made.environment.values())):
        raise JobError("it holds a zero byte, which no program can be given", code="JOB_NOT_STARTED")
    return made


def _interpreter(shell: str) -> str:
    """Its path; a name is looked for in the job's PATH, and nothing is split into arguments."""
    found = shutil.which(shell, path=PATH) if shell.startswith("/") or "/" not in shell else None
    if found is None:
        raise JobError(f"there is no interpreter {shell!r} here", code="SHELL_NOT_FOUND", details={"shell": shell})
    return found


def _inside(what: str, *arguments: str) -> tuple[str, ...]:
    # -P: what lies in the folder in which a job begins is not to be imported.
    return (sys.executable, "-P", "-m", _INSIDE, what, *arguments)


def _task(task: Task, bare: Launch, place: Place) -> Launch:
    payload = task.payload
    match task.type:
        case "command":
            # By its id a job's processes are found: that is not for the payload to change.
            fixed = {name: value for name, value in bare.environment.items() if name.startswith("HOMED_")}
            environment = {**bare.environment, **payload.get("env", {}), **fixed}
            folder = Path(payload["cwd"]) if payload.get("cwd") else bare.working_directory
            argv = _command(payload, environment.get("PATH", PATH))
            return bare._replace(argv=argv, environment=environment, working_directory=folder)
        case "python_eval":
            expression = File(place.files / "expression", payload["expression"].encode(), 0o600)
            return bare._replace(argv=_inside("evaluate"), stdin=expression.path, files=(expression,), own=True)
        case _:
            raise JobError(f"a task {task.type!r} is not run as a process", code="JOB_NOT_STARTED")


def _command(payload: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """A line for the shell; with arguments in a list, a program that gets them as they are."""
    command, arguments = payload["command"], payload.get("args")
    if not isinstance(arguments, list | tuple):
        return (SHELL, "-c", normal_lines(f"{command} {arguments}" if arguments else command))
    program = shutil.which(command, path=path)
    if program is None:
        raise JobError(f"there is no program {command!r} here", code="JOB_NOT_STARTED")
    return (program, *arguments)
