"""Taking services down for a while, those that depend on others first, and letting them come back."""

import asyncio
from collections.abc import Sequence

from homed.containers import dependencies, plan
from homed.containers.holds import Hold
from homed.containers.keeper import Report
from homed.containers.reconciler import Reconciler
from homed.containers.services import Services
from homed.containers.view import View
from homed.errors import BackupError

# Beyond the time that a service takes to stop: for what its keeper is doing just now, and for a busy engine.
MARGIN = 60.0


class Holding:
    """`margin` in seconds."""

    def __init__(self, services: Services, reconciler: Reconciler, view: View, margin: float):
        self._services = services
        self._reconciler = reconciler
        self._view = view
        self._margin = margin

    async def hold(self, names: Sequence[str], why: str) -> None:
        """Returns when all are down, and stay so until `release`. BackupError where one does not stop: none is held
        then. A service that is not there yet is held from its beginning.
        """
        graph = self._services.graph()
        ranks = dependencies.order({name: graph.get(name, ()) for name in names})
        try:
            for rank in reversed(ranks):
                stuck = await self._take_down(rank, why)
                if stuck:
                    raise BackupError(
                        "; ".join(stuck), details={"services": [line.partition(" ")[0] for line in stuck]}
                    )
        except BaseException:
            self.release(names)
            raise

    def keep_held(self, names: Sequence[str], why: str) -> None:
        for name in names:
            self._reconciler.holds.set(name, why)
            self._reconciler.wake(name)

    def release(self, names: Sequence[str]) -> None:
        for name in names:
            self._reconciler.holds.drop(name, frozen=False)
            self._reconciler.wake(name)

    async def freeze(self, names: Sequence[str], why: str) -> None:
        """Have nothing done to their containers until `thaw`. BackupError where something goes on for too long."""
        holds = {name: self._set(name, why, frozen=True) for name in names}
        try:
            stuck = await asyncio.gather(*(self._heeded(name, hold) for name, hold in holds.items()))
            if any(stuck):
                raise BackupError("; ".join(line for line in stuck if line))
        except BaseException:
            self.thaw(names)
            raise

    def thaw(self, names: Sequence[str]) -> None:
        for name in names:
            self._reconciler.holds.drop(name, frozen=True)
            self._reconciler.wake(name)

    def leave(self, name: str, why: str) -> None:
        """As `freeze`, without waiting: where homed has not begun yet."""
        self._set(name, why, frozen=True)

    def spare(self, name: str, until: float) -> None:
        """Do not judge its health before `until` (monotonic)."""
        self._reconciler.holds.spare(name, until)

    async def _take_down(self, names: Sequence[str], why: str) -> list[str]:
        holds = {name: self._set(name, why) for name in names}
        stuck = await asyncio.gather(*(self._heeded(name, hold) for name, hold in holds.items()))
        return [line for line in stuck if line]

    def _set(self, name: str, why: str, *, frozen: bool = False) -> Hold:
        hold = self._reconciler.holds.set(name, why, frozen=frozen)
        self._reconciler.wake(name)
        return hold

    async def _heeded(self, name: str, hold: Hold) -> str:
        """Wait for its keeper to have done as it is told; what keeps it, where it has not."""
        reason = plan.FROZEN if hold.frozen else plan.HELD

        def heeded(report: Report) -> bool:
            return report.hold == hold.serial and report.reason == reason and not report.busy

        report = await self._reconciler.until(name, heeded, self._patience(name))
        if report is None or heeded(report):
            return ""
        act = "was not let go" if hold.frozen else "did not stop"
        return f"{name} {act}: {report.message or f'it is {report.status}'}"

    def _patience(self, name: str) -> float:
        entry = self._services.find(name)
        up = sum(container.is_up for container in self._view.of_service(name))
        return self._margin + (entry.service.effective.stop_timeout * max(1, up) if entry is not None else 0)
