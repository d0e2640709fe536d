"""Where a job may run: a pure decision from what it needs and what the nodes have, with every node's reason."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from homed.jobs.records import Archive, Job, Requirements, Task

# What a node can do: run processes itself, reach hosts over SSH, do typed tasks within homed, poll for archives.
LOCAL, SSH, BUILTIN, WORKER = "local", "ssh", "builtin", "worker"
_BUILTIN = frozenset({"echo", "sleep", "system_info", "http_request"})
_PLATFORMS = {"win32": "windows"}


class Node(NamedTuple):
    """A machine that takes jobs. `room` is, for each thing that it can do, how many more it takes now; memory and
    storage in GiB.
    """

    id: str
    online: bool
    platform: str
    role: str
    cpu_cores: int
    memory_gb: float
    storage_gb: float
    room: Mapping[str, int]
    tags: frozenset[str] = frozenset()
    gpu: bool = False
    internet: bool = True


class Placement(NamedTuple):
    """A node, or why each one refuses."""

    node: str | None
    refusals: Mapping[str, str]


def need(job: Job) -> str:
    """What a node must be able to do for it."""
    match job.work:
        case _ if job.host is not None:
            return SSH
        case Archive() if job.metadata.get("mode") == "distributed":
            return WORKER
        case Task(type=kind) if kind in _BUILTIN:
            return BUILTIN
        case _:
            return LOCAL


def place(job: Job, nodes: Iterable[Node]) -> Placement:
    """The node with most room of those that can take it; ties go by name."""
    refusals: dict[str, str] = {}
    willing: list[tuple[int, str]] = []
    wanted = need(job)
    for node in nodes:
        reason = refusal(node, wanted, job.requirements)
        if reason:
            refusals[node.id] = reason
        else:
            willing.append((-node.room[wanted], node.id))
    if willing:
        return Placement(min(willing)[1], {})
    return Placement(None, refusals)


def refusal(node: Node, wanted: str, requirements: Requirements) -> str:
    """Why this node does not take it; empty where it does."""
    if not node.online:
        return "it is offline"
    if wanted not in node.room:
        return f"it does not run {_WORDS[wanted]}"
    lacking = _lacking(node, requirements)
    if lacking:
        return lacking
    return "" if node.room[wanted] > 0 else "it is busy"


_WORDS = {
    LOCAL: "commands itself",
    SSH: "commands over SSH",
    BUILTIN: "tasks of this type",
    WORKER: "archives for workers",
}


def _lacking(node: Node, wanted: Requirements) -> str:
    least = (
        ("cores", node.cpu_cores, wanted.min_cpu_cores),
        ("GiB of memory", node.memory_gb, wanted.min_memory_gb),
        ("GiB of storage", node.storage_gb, wanted.min_storage_gb),
    )
    for what, has, needed in least:
        if has < needed:
            return f"it has {has:g} {what}, and {needed:g} are required"
    if wanted.required_platform and _platform(wanted.required_platform) != _platform(node.platform):
        return f"its platform is {node.platform}, and {wanted.required_platform} is required"
    if wanted.required_role and wanted.required_role != node.role:
        return f"its role is {node.role}, and {wanted.required_role} is required"
    missing = sorted(set(wanted.required_tags) - node.tags)
    if missing:
        return f"it lacks the tags {', '.join(missing)}"
    if wanted.gpu_required and not node.gpu:
        return "it has no GPU"
    if wanted.internet_required and not node.internet:
        return "it has no way to the internet"
    return ""


def _platform(name: str) -> str:
    return _PLATFORMS.get(name.lower(), name.lower())
