"""What homed tells Prometheus: one registry, made by the daemon and passed to those who count.

The names that begin with `homei_` are the Homei API's own, kept as documented; homed's begin with `homed_`.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class Gauges(Protocol):
    """Gauges that are read when somebody scrapes: (name, help, label names, [(label values, value)])."""

    def __call__(self) -> Iterable[tuple[str, str, tuple[str, ...], list[tuple[tuple[str, ...], float]]]]: ...


class _Scraped(Collector):
    def __init__(self, read: Gauges):
        self._read = read

    def collect(self) -> Iterable[Metric]:
        for name, text, labels, samples in self._read():
            family = GaugeMetricFamily(name, text, labels=labels)
            for values, value in samples:
                family.add_metric(values, value)
            yield family

    def describe(self) -> Iterable[Metric]:
        return []


class Metrics:
    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        info = Gauge("homed_build_info", "The version that runs.", ["version"], registry=self.registry)
        info.labels(version).set(1)
        self.requests = Counter(
            "homed_http_requests",
            "Requests answered, by route and status.",
            ["family", "method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "homed_http_request_duration_seconds",
            "Time from a request's head to the end of its answer, by route; streams are left out.",
            ["family", "method", "route"],
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.rate_limited = Counter(
            "homed_http_rate_limited", "Requests refused by a rate limit.", ["limit"], registry=self.registry
        )
        self.connections_dropped = Counter(
            "homed_http_connections_dropped",
            "Connections refused or ended, as all are taken, one client has too many, or a deadline passed.",
            ["reason"],
            registry=self.registry,
        )
        self.steps = Counter(
            "homed_reconcile_steps",
            "Steps taken to bring services to what is wanted.",
            ["step", "outcome"],
            registry=self.registry,
        )
        self.docker_seconds = Histogram(
            "homed_docker_request_duration_seconds",
            "Time of calls to Docker Engine.",
            ["call"],
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.docker_errors = Counter(
            "homed_docker_errors", "Calls to Docker Engine that failed.", ["call"], registry=self.registry
        )
        self.loop_lag = Histogram(
            "homed_event_loop_lag_seconds",
            "How late the event loop runs what is due.",
            buckets=_LAG_BUCKETS,
            registry=self.registry,
        )
        self.events = Counter("homed_events", "Events published, by type.", ["type"], registry=self.registry)
        self.slow_clients = Counter(
            "homed_slow_clients",
            "Stream readers dropped because they did not keep up.",
            registry=self.registry,
        )

    def scraped(self, read: Gauges) -> None:
        """Have `read` called at each scrape."""
        self.registry.register(_Scraped(read))

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def docker_call(self, call: str) -> Callable[[float, bool], None]:
        """What the engine tells after each call: how long it took (seconds) and whether it worked."""
        seconds, errors = self.docker_seconds.labels(call), self.docker_errors.labels(call)

        def observe(duration: float, worked: bool) -> None:
            seconds.observe(duration)
            if not worked:
                errors.inc()

        return observe
