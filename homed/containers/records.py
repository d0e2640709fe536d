"""A service as it is stored: what its owner wants, and what homed has to remember about it."""

from datetime import datetime

import msgspec

from homed.containers import creation
from homed.containers.holds import Hold
from homed.containers.plan import Wanted
from homed.containers.spec import ServiceSpec


class Rejected(msgspec.Struct, frozen=True):
    """A configuration that did not become healthy and was taken back."""

    digest: str
    reason: str
    at: datetime


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A stored service. `good` is the last configuration that ran well; `restart` is a requested restart that is
    pending; `again`: homed stopped it temporarily and must start it again; `pull`: its image must be pulled again.
    `build` and `good_build` are the image ids after a pull changed the image of a tag (`creation.digest`).

    `deleting` stays until the containers are gone, so that a deletion survives everything.
    """

    name: str
    spec: ServiceSpec
    enabled: bool = True
    stopped: bool = False
    restart: bool = False
    again: bool = False
    deleting: bool = False
    pull: bool = False
    build: str = ""
    good_build: str = ""
    good: ServiceSpec | None = None
    rejected: Rejected | None = None
    created_at: datetime
    updated_at: datetime

    @property
    def digest(self) -> str:
        return creation.digest(self.name, self.spec, self.build)

    @property
    def fallback(self) -> bool:
        """Whether the wanted configuration was rejected and the last good one takes its place."""
        return self.good is not None and self.rejected is not None and self.rejected.digest == self.digest

    @property
    def effective(self) -> ServiceSpec:
        """The configuration that is to run."""
        return self.good if self.fallback and self.good is not None else self.spec

    @property
    def effective_build(self) -> str:
        return self.good_build if self.fallback else self.build

    @property
    def effective_digest(self) -> str:
        """The digest of the desired container (`creation.digest`)."""
        return creation.digest(self.name, self.effective, self.effective_build)


def wanted(service: Service, hold: Hold | None = None, spared_until: float = 0.0) -> Wanted:
    spec = service.effective
    now = service.effective_digest
    good = None if service.good is None else creation.digest(service.name, service.good, service.good_build)
    return Wanted(
        name=service.name,
        digest=now,
        run=service.enabled and not service.stopped,
        removed=service.deleting,
        restart=service.restart,
        again=service.again,
        pull=service.pull,
        confirmed=good == now,
        can_fall_back=good is not None and good != now,
        good=good or "",
        restart_policy=spec.restart_policy,
        stop_timeout=spec.stop_timeout,
        why_not="disabled" if not service.enabled else "stopped",
        held=hold.why if hold is not None and not hold.frozen else "",
        frozen=hold.why if hold is not None and hold.frozen else "",
        spared_until=spared_until,
    )
