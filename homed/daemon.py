"""The composition root: builds every part from the configuration, starts and stops them in order, tells systemd."""

import asyncio
import gc
import logging
import platform
import signal
import socket
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from homed import __version__, vault
from homed.access.keys import Keys
from homed.access.tokens import Tokens
from homed.api import access, docs, homei, jobs, listeners, openapi
from homed.api.access import keys as access_routes
from homed.api.access import metrics as metrics_routes
from homed.api.auth import Authenticator
from homed.api.availability import guarded
from homed.api.front import Front
from homed.api.homei import backups as backup_routes
from homed.api.homei import board, containers, services, sockets
from homed.api.homei import updates as update_routes
from homed.api.limits import Limiter
from homed.api.routes import Family, Route
from homed.api.sse import EventStreams
from homed.api.streaming import Streaming
from homed.backups import launcher, schedules
from homed.backups import parts as backup_parts
from homed.backups.creating import Board
from homed.bus import connection
from homed.bus.systemd1 import Units
from homed.config import Config
from homed.config.jobs import Jobs as JobsConfig
from homed.containers.component import ContainersComponent
from homed.containers.logs import FollowerLimit
from homed.errors import HomedError
from homed.events import Events
from homed.health import Health
from homed.host import boot, capacity
from homed.host.journal import LogSink
from homed.host.neighbours import Neighbours
from homed.host.notify import Notifier
from homed.host.own_sockets import is_own_listener
from homed.host.system import System
from homed.jobs import parts as job_parts
from homed.jobs.nodes import Facts
from homed.jobs.runners import local as local_runner
from homed.metrics import Metrics
from homed.observation import Gauge, Observation, own_gauges
from homed.probes import Probes
from homed.serving import Serving
from homed.settings import Settings
from homed.standby import Standby
from homed.state import StateDirectory
from homed.store import migrations
from homed.store.sqlite import SqliteStore
from homed.supervised import supervise
from homed.updates import parts

log = logging.getLogger(__name__)
_LONGEST_BEAT = 5.0
Families = Sequence[tuple[Family, Sequence[Route]]]


class Daemon:
    """One homed. `state` is held by the caller; `passed` are the sockets that systemd listens on for it."""

    def __init__(
        self,
        settings: Settings,
        state: StateDirectory,
        notifier: Notifier,
        sink: LogSink | None = None,
        passed: Sequence[socket.socket] = (),
        api_key: str = "",
    ):
        self._settings = settings
        self._directory = state
        self._state = state.path
        self._notifier = notifier
        self._sink = sink
        self._passed = passed
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._build(api_key)

    def _build(self, api_key: str) -> None:
        config = self._settings.current
        self.events, self.metrics, self.health = Events(), Metrics(__version__), Health()
        self.store = SqliteStore(self._state / "homed.db")
        self.standby = Standby(self.store, self._load_core)
        self.health.add("store", self.standby.health)
        self.health.add("records", self.standby.damage)
        self.keys = Keys(self.store, api_key)
        self.tokens = Tokens(self.store, self.keys)
        self.vault = vault.open_or_closed(self._state)
        self.containers = ContainersComponent(
            lambda: self._config, self._settings.file, self._state, self.store, self.vault, self.events, self.metrics
        )
        self.engine, self.streams, self.view = self.containers.engine, self.containers.streams, self.containers.view
        self.services, self.reconciler = self.containers.services, self.containers.reconciler
        self.capturing, self.followers = self.containers.capturing, self.containers.followers
        self.logs, self.stats = self.containers.logs, self.containers.stats
        self.socket_limit = FollowerLimit(config.api.sockets)
        self.streaming = Streaming(self.events, self.socket_limit, self.metrics.slow_clients.inc, self.keys.holds)
        self._host_threads = ThreadPoolExecutor(2, thread_name_prefix="host")
        self.system = System(self._state, self._host_threads, homed_version=__version__)
        self.observation = Observation(self.view, self.services, self.reconciler, self.health)
        probes = Probes(
            self.services, self.reconciler, self.health, lambda: self._config.updates.checks, self._host_threads
        )
        self.bus = connection.Bus(connection.address())
        self.updates = parts.build(
            self._directory.updates,
            self.bus,
            self.events,
            lambda: self._config.updates,
            probes.observe,
            self._directory.copy,
            boot.boot_id(),
            boot.boot_clock,
        )
        self.health.add("configuration", self._settings.component)
        self.backups = self._backups(config)
        self.jobs = self._jobs()
        self.supervisor = supervise(
            self.health, self.bus, self.stats, self.updates, lambda: self._directory.restored_for,
            self.backups, self.jobs, self.standby.missing,
        )  # fmt: skip
        self.event_streams = EventStreams(self.socket_limit, self.metrics.slow_clients.inc, self.keys.holds)
        self.listeners = listeners.Listeners(
            config.api.connections,
            Neighbours(lambda: self._config.jobs.users).is_a_job,
            per_client=config.api.connections_per_client,
            dropped=lambda reason: self.metrics.connections_dropped.labels(reason).inc(),
        )
        self.serving = Serving(
            self._settings, self.keys, self.listeners, self._state, self._passed, self.standby.has_lost_keys
        )
        self.health.add("api", self.serving.health)
        self.limiter = Limiter(config.api.limits.clients, time.monotonic)
        self.extras = board.Extras()
        self.front = self._front()

    def _backups(self, config: Config) -> backup_parts.Parts:
        units = Units(self.bus)
        timers = schedules.Timers(units, lambda: self._config.backups.schedules)
        self.bus.listen(timers.wake)
        return backup_parts.build(
            Board(
                state=self._state,
                work=self._state / backup_parts.WORK,
                name=socket.gethostname(),
                architecture=platform.machine(),
                homed=__version__,
                schema=max(migrations.steps()),
            ),
            Path(config.backups.directory or self._state / backup_parts.FOLDER),
            self._settings,
            self.store,
            self.capturing,
            self.events,
            launcher.by_systemd(units) if self._notifier.under_systemd() else launcher.AsProcess.start,
            timers,
            lambda: self._config.backups,
        )

    def _jobs(self) -> job_parts.Parts:
        async def info() -> Mapping[str, Any]:
            facts: dict[str, Any] = msgspec.to_builtins(await self.system.info())
            return facts

        def config() -> JobsConfig:
            return self._config.jobs

        units = self.bus if self._notifier.under_systemd() else None
        local = local_runner.choose(units, self._state, self._state / job_parts.UPLOADS, boot.boot_id(), config)
        facts = Facts(*capacity.read(self._state))
        board = job_parts.Board(
            self._state, socket.gethostname(), boot.boot_id(), lambda: facts, info, local, is_own_listener
        )
        return job_parts.Parts(board, self.store, self.vault, self.events, config)

    @property
    def _config(self) -> Config:
        return self._settings.current

    def _front(self) -> Front:
        return Front(
            self._families(),
            config=lambda: self._settings.current,
            authenticator=Authenticator(self.keys, self.tokens),
            limiter=self.limiter,
            audit=self.store,
            metrics=self.metrics,
            locate=self.listeners.locate,
            hostname=socket.gethostname(),
            check=self.standby.check,
        )

    def _families(self) -> Families:
        families: list[tuple[Family, Sequence[Route]]] = []
        # First: they add to answers that the others make.
        with_jobs = jobs.families(
            self.jobs, lambda: self._config.jobs, self.event_streams, self.extras, self.health, self._stop
        )
        families += [
            (
                homei.FAMILY,
                [
                    *services.routes(self.services, self.reconciler),
                    *containers.routes(
                        self.view, self.engine, self.logs, self.stats, self.streaming, self.services
                    ),
                    *board.routes(
                        self.health, self.system, self._settings, self.events, self.extras,
                        version=__version__, uptime=lambda: time.monotonic() - self._started,
                    ),
                    *guarded(self.supervisor["updates"].require, update_routes.routes(self.updates.updater)),
                    *guarded(self.supervisor["backups"].require, backup_routes.routes(
                        self.backups.backups, lambda: self._config.backups.max_upload, self._stop
                    )),
                    *sockets.routes(self.streaming),
                ],
            ),
            (
                access.FAMILY,
                [
                    *access_routes.routes(
                        self.keys, self.tokens, self.store, lambda: self._config.api.token_lifetime
                    ),
                    *metrics_routes.routes(self.metrics, lambda: self._config.monitoring.enabled),
                    *docs.routes(
                        lambda: openapi.document(families, __version__), lambda: openapi.sockets(families, __version__)
                    ),
                ],
            ),
            *((family, guarded(self.supervisor["jobs"].require, routes)) for family, routes in with_jobs),
        ]  # fmt: skip
        return families

    def specifications(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The OpenAPI and the AsyncAPI document."""
        families = self._families()
        return openapi.document(families, __version__), openapi.sockets(families, __version__)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. HomedError where it cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn("reload", self._reload(), essential=False))
        # Before anything is written: an older homed must not read on.
        await asyncio.to_thread(self._directory.sign)
        await self.store.open_somehow()
        if self.store.message:
            log.error("%s", self.standby.health().message)
        runner = listeners.runner_for(self.front.application())
        try:
            await self._start(runner)
            await self._stop.wait()
        finally:
            self._notifier.stopping()
            log.info("Stopping; containers are left as they are")
            self.listeners.close()
            await self.streaming.close()
            await self.event_streams.close()
            await runner.cleanup()
            await self._end()
        if self._failure is not None:
            raise self._failure

    async def _start(self, runner: Any) -> None:
        await self._load_core()
        await self.jobs.open()
        await self.supervisor.load()
        self._settings.guard(self.serving.check_exposure, of_keys=True)
        self._settings.guard(lambda config: schedules.check(config.backups.schedules, self._config.backups.schedules))
        self._settings.listen(self._apply)
        self.events.listen(lambda event: self.metrics.events.labels(event.type).inc())
        self.metrics.scraped(self.observation.gauges)
        self.metrics.scraped(self._own_gauges)
        self.metrics.scraped(lambda: parts.gauges(self.updates))
        self.metrics.scraped(self.backups.gauges)
        self.metrics.scraped(self.jobs.gauges)
        self.metrics.scraped(self.supervisor.gauges)
        self.metrics.scraped(self.standby.gauges)
        self.reconciler.start()
        self._spawn("view", self.view.run())
        self._spawn("state", self.standby.run())
        await runner.setup()
        await self.serving.start(runner)
        self._spawn("certificate", self.serving.renew())
        self.listeners.report(self.health, configured=self._settings.is_set("monitoring.metrics_port"))
        # Only what serves may call the booted slot good, or judge it.
        self.supervisor.start()
        # What lives as long as the daemon need not be looked at by each collection.
        gc.collect()
        gc.freeze()
        self._spawn("beat", self._beat())

    async def _load_core(self) -> None:
        """Read what the containers are kept by, and who may ask for what: at the start, and when the state is back."""
        await self.keys.load()
        await self.tokens.load()
        await self.services.load()
        await self.capturing.recover()
        await self.standby.look_for_damage()
        self.supervisor.wake()

    async def _end(self) -> None:
        # Before the services are let go: what stands still for a backup is to go on.
        await self.backups.stop()
        await self.jobs.stop()
        await self.supervisor.stop()
        await self.reconciler.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.capturing.close()
        await self.updates.stop()
        await self.streams.close()
        await self.engine.close()
        self._host_threads.shutdown(wait=False, cancel_futures=True)
        await self.store.close()

    def _spawn(self, name: str, work: Coroutine[Any, Any, None], *, essential: bool = True) -> None:
        """Run a part; where an essential one ends by an error of ours, the daemon ends and systemd starts it anew."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                log.critical("%s failed", name, exc_info=error)
                if essential:
                    self._failure = error
                    self._stop.set()

        task.add_done_callback(ended)

    async def _beat(self) -> None:
        """Feed the watchdog from the event loop, measure how late the loop is, keep the status line true."""
        await self.view.first_look()  # ready, once it is known what there is: systemd's watchdog begins with that
        watchdog = self._notifier.watchdog_interval()
        interval = min(watchdog or _LONGEST_BEAT, _LONGEST_BEAT)
        said, told = "", False
        while True:
            line = self.observation.status_line()
            if not told:
                told = self._notifier.ready(line)
            elif line != said:
                self._notifier.status(line)
            said = line
            if watchdog is not None:
                self._notifier.watchdog()
            due = time.monotonic() + interval
            await asyncio.sleep(interval)
            self.metrics.loop_lag.observe(max(0.0, time.monotonic() - due))

    async def _reload(self) -> None:
        """SIGHUP: read the configuration and the certificate anew; a broken file changes nothing."""
        self._notifier.reloading()
        try:
            restart = await asyncio.get_running_loop().run_in_executor(self._host_threads, self._settings.reload)
            self.serving.reload()
            self._settings.apply()
            await self.keys.load()
            log.info("Configuration reloaded; needs a restart: %s", ", ".join(restart) or "nothing")
            self.events.publish("config.reloaded", {"restart_required": restart})
        except HomedError as error:
            log.error("The configuration was not reloaded: %s", error.message)  # noqa: TRY400  its message says all
            self.events.publish("config.refused", {"message": error.message})
        finally:
            self._notifier.ready(self.observation.status_line())

    def _apply(self, config: Config) -> None:
        if self._sink is not None:
            self._sink.set_level(config.log.level)
        self.front.configure(config)
        self.followers.most = config.containers.followers
        self.socket_limit.most = config.api.sockets
        self.reconciler.wake_all()
        self.backups.timers.wake()

    def _own_gauges(self) -> list[Gauge]:
        sink = self._sink
        lost = float(sink.dropped + sink.failed) if sink is not None else 0.0
        streams = {"log": self.followers.count, "socket": self.socket_limit.count}
        return own_gauges(streams, len(self.limiter), lost, time.monotonic() - self._started)
