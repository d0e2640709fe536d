"""The nodes that jobs may be placed on: this board, and what others make known."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from homed.config.jobs import Jobs as Config
from homed.jobs.placement import BUILTIN, LOCAL, SSH, Node

_BUILTIN_ROOM = 1000


class Facts(NamedTuple):
    """What this board has; memory and storage in GiB."""

    platform: str
    cpu_cores: int
    memory_gb: float
    storage_gb: float
    gpu: bool


class Nodes:
    """`own` is this board's name; `facts` is asked often, and must be quick."""

    def __init__(self, own: str, facts: Callable[[], Facts], config: Callable[[], Config]):
        self.own = own
        self._facts = facts
        self._config = config
        self._busy: Counter[str] = Counter()
        self._others: dict[str, Node] = {}

    def all(self) -> list[Node]:
        return [self.board(), *self._others.values()]

    def online(self) -> int:
        """Return the number of nodes that accept jobs now."""
        return sum(1 for node in self.all() if node.online)

    def board(self) -> Node:
        facts, config = self._facts(), self._config()
        most = {LOCAL: config.slots, SSH: config.ssh.hosts * config.ssh.per_host, BUILTIN: _BUILTIN_ROOM}
        return Node(
            id=self.own,
            online=config.enabled,
            platform=facts.platform,
            role=config.node.role,
            cpu_cores=facts.cpu_cores,
            memory_gb=facts.memory_gb,
            storage_gb=facts.storage_gb,
            room={what: room - self._busy[what] for what, room in most.items()},
            tags=frozenset(config.node.tags),
            gpu=facts.gpu,
            internet=config.node.internet,
        )

    def take(self, need: str) -> None:
        """One more runs on this board."""
        self._busy[need] += 1

    def give(self, need: str) -> None:
        self._busy[need] -= 1

    def put(self, node: Node) -> None:
        """Another node, or what changed of it."""
        self._others[node.id] = node

    def drop(self, id: str) -> None:
        self._others.pop(id, None)
