"""Wire up the containers: the engine, its view, the services, and their controller."""

from collections.abc import Callable
from pathlib import Path

from homed.config import Config
from homed.containers import policy, protected
from homed.containers.capturing import Capturing
from homed.containers.engine import Engine
from homed.containers.executor import Executor
from homed.containers.log_gaps import Range
from homed.containers.logs import FollowerLimit, Logs
from homed.containers.model import Container
from homed.containers.reconciler import Reconciler
from homed.containers.sealing import Sealing
from homed.containers.services import Services
from homed.containers.spec import ServiceSpec
from homed.containers.stats import Stats
from homed.containers.streams import Streams
from homed.containers.view import View
from homed.errors import FieldError
from homed.events import Events
from homed.metrics import Metrics
from homed.store.sqlite import SqliteStore
from homed.vault import Vault


class ContainersComponent:
    """All that concerns containers. `file` is the owner's configuration, which no container may have."""

    def __init__(
        self,
        config: Callable[[], Config],
        file: Path,
        state: Path,
        store: SqliteStore,
        vault: Vault,
        events: Events,
        metrics: Metrics,
    ):
        def own() -> protected.Protected:
            return protected.of_daemon(config(), file, state)

        def refused(spec: ServiceSpec) -> list[FieldError]:
            # Paths are looked at for those alone that mount some: these are asked on a thread.
            return policy.violations(spec, config().containers, own() if spec.volumes else protected.Protected())

        address = config().containers.engine
        self.engine = Engine(address, metrics.docker_call)
        self.streams = Streams(address)
        self.view = View(self.engine, self.streams, events, lambda: config().monitoring.health_check_interval)
        self.services = Services(store, refused, Sealing(vault))
        executor = Executor(
            self.engine, self.view, self.services, events, lambda: config().containers, own,
            lambda step, worked: metrics.steps.labels(step, "ok" if worked else "failed").inc(),
        )  # fmt: skip
        self.reconciler = Reconciler(self.services, self.view, executor, events, lambda: config().containers)
        self.capturing = Capturing(
            self.services, self.reconciler, self.view, self.engine, self.streams, store,
            lambda: config().containers, own,
        )  # fmt: skip
        self.followers = FollowerLimit(config().containers.followers)

        def lost(container: Container, gap: Range) -> None:
            data = {"container_id": container.id, "name": container.name}
            events.publish("container.log_gap", {**data, "after": gap.after.decode(), "before": gap.before.decode()})

        self.logs = Logs(self.streams, self.followers, lost)
        self.stats = Stats(self.engine, self.view, lambda: config().monitoring.stats_interval)
