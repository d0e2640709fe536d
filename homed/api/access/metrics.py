"""`/metrics`: what Prometheus scrapes."""

from collections.abc import Callable

from aiohttp import web

from homed.api.routes import Call, Route
from homed.errors import NotFoundError
from homed.metrics import CONTENT_TYPE, Metrics


def routes(metrics: Metrics, enabled: Callable[[], bool]) -> list[Route]:
    async def scrape(call: Call) -> web.Response:
        if not enabled():
            raise NotFoundError("monitoring.enabled is off")
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    return [
        Route(
            "GET",
            "/metrics",
            scrape,
            "Metrics for Prometheus",
            "Monitoring",
            "metrics",
            streams=("text/plain",),
            errors=(404,),
        )
    ]
