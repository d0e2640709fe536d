"""What a job's unit may do: a pure function of the job, of what is to be run, and of the configuration."""

import errno
from pathlib import Path

from homed.bus.systemd1_jobs import Program, Value
from homed.config.jobs import Jobs as Config
from homed.jobs.launch import Launch, Place
from homed.jobs.output.order import Stream
from homed.jobs.output.output import Output
from homed.jobs.records import Job, Task

SLICE = "homed-jobs.slice"
# TERM, and KILL after this.
_GRACE_US = 1_500_000
_SECOND_US = 1_000_000
# On disk, and with PrivateTmp= a folder that is made for the unit and removed after it; /tmp may be memory.
_HOME = Path("/var/tmp")  # noqa: S108
_FILES = Path("/tmp/homed-job")  # noqa: S108
_EVALUATION_MEMORY = 512 << 20
_EVALUATION_TASKS = 16


def place(uploads: Path) -> Place:
    """Where a job's unit sees what is its own."""
    return Place(home=_HOME, files=_FILES, uploads=uploads)


def real(path: Path, folder: Path) -> Path:
    """Where homed writes what the job sees at `path`."""
    return folder / path.name if path.parent == _FILES else path


def program(job: Job, launch: Launch, output: Output, config: Config) -> Program:
    """The unit's settings, by systemd's names."""
    settings = _running(job, launch, output) | _limits(job, config)
    if _evaluates(job):
        memory = min(config.limits.memory or _EVALUATION_MEMORY, _EVALUATION_MEMORY)
        settings |= _unprivileged("") | _EVALUATION | {"MemoryMax": memory, "MemorySwapMax": 0}
        return Program(launch.argv, settings, hidden=_HIDDEN, denied=_DENIED)
    settings |= _SUPERUSER if launch.user == "root" else _unprivileged(launch.user)
    if config.private_network:
        settings["PrivateNetwork"] = True
    shown = [(str(real(path, output.folder)), str(path)) for path in launch.reads]
    return Program(launch.argv, settings, shown=shown)


def _evaluates(job: Job) -> bool:
    return isinstance(job.work, Task) and job.work.type == "python_eval"


def _running(job: Job, launch: Launch, output: Output) -> dict[str, Value]:
    settings: dict[str, Value] = {
        # Not what it runs: a command may hold what must not be in the journal.
        "Description": f"A job of homed's ({job.kind})",
        "Type": "exec",
        "Slice": SLICE,
        # What has ended well is kept until its result is; what has failed is kept anyway.
        "RemainAfterExit": True,
        # At a shutdown homed is gone before its jobs are ended: it must not take that for their own end.
        "Before": ["homed.service"],
        "StandardInput": "null",
        "StandardOutputFileToAppend": str(output.path(Stream.STDOUT)),
        "StandardErrorFileToAppend": str(output.path(Stream.STDERR)),
        "Environment": [f"{key}={value}" for key, value in launch.environment.items()],
        "UnsetEnvironment": ["SYSTEMD_EXEC_PID", "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE"],
        "WorkingDirectory": str(launch.working_directory),
        "PrivateTmp": True,
        # As in a shell: what writes into a pipe that nobody reads any more ends.
        "IgnoreSIGPIPE": False,
        "KillMode": "control-group",
        "SendSIGKILL": True,
        "TimeoutStopUSec": _GRACE_US,
        "UMask": 0o022,
    }
    if launch.stdin is not None:
        settings["StandardInputFile"] = str(real(launch.stdin, output.folder))
    return settings


def _limits(job: Job, config: Config) -> dict[str, Value]:
    settings: dict[str, Value] = {
        "OOMPolicy": "kill",
        # What the board is there for goes before its jobs.
        "OOMScoreAdjust": 200,
        "Nice": 5,
        "CPUWeight": 50,
        "IOWeight": 50,
        "LimitCORE": 0,
    }
    if job.timeout is not None:
        settings["RuntimeMaxUSec"] = max(1, int(job.timeout * _SECOND_US))
    if config.limits.memory:
        settings |= {"MemoryMax": config.limits.memory, "MemorySwapMax": 0}
    if config.limits.cpu:
        settings["CPUQuotaPerSecUSec"] = config.limits.cpu * _SECOND_US // 100
    if config.limits.tasks:
        settings["TasksMax"] = config.limits.tasks
    return settings


# Root is configured for what only root can do: it is root.
_SUPERUSER: dict[str, Value] = {"User": "root"}

# What takes no mount and no filter of many rules: each of those takes as long as to start the program. What is not
# here (ProtectKernelTunables=, ProtectControlGroups=, …) keeps from root what nobody without its powers can do.
_NO_MORE_POWER: dict[str, Value] = {
    "NoNewPrivileges": True,
    "CapabilityBoundingSet": 0,
    "RestrictSUIDSGID": True,
    "RestrictNamespaces": 0,
    "RestrictRealtime": True,
    "LockPersonality": True,
    "KeyringMode": "private",
}


def _unprivileged(user: str) -> dict[str, Value]:
    """Who is configured gets to its own home and files; else it is nobody's user, and only its own folders are its."""
    if user:
        return {**_NO_MORE_POWER, "User": user}
    # Not ProtectHome=yes: /root and /run/user/* are closed to it as they are.
    return {**_NO_MORE_POWER, "DynamicUser": True, "ProtectSystem": "strict", "InaccessiblePaths": ["-/home"]}


# An expression needs nothing of the board but the interpreter.
_EVALUATION: dict[str, Value] = {
    "PrivateNetwork": True,
    "PrivateDevices": True,
    "PrivateIPC": True,
    "ProtectHome": "yes",
    "ProtectProc": "invisible",
    "ProcSubset": "pid",
    "ProtectKernelTunables": True,
    "ProtectKernelModules": True,
    "ProtectKernelLogs": True,
    "ProtectControlGroups": True,
    "ProtectClock": True,
    "ProtectHostname": True,
    "MemoryDenyWriteExecute": True,
    "RestrictAddressFamilies": (True, []),
    "SystemCallArchitectures": ["native"],
    "SystemCallFilter": (True, ["@system-service"]),
    "SystemCallErrorNumber": errno.EPERM,
    "TasksMax": _EVALUATION_TASKS,
}
_DENIED = ("@privileged", "@network-io", "@keyring", "@setuid", "@chown")
_HIDDEN = ("/srv", "/mnt", "/media", "/var/log", "/var/lib")
