"""`/metrics`: what Prometheus scrapes."""

from aiohttp import web

from homed.api.routes import Call, Route
from homed.metrics import CONTENT_TYPE, Metrics


def routes(metrics: Metrics) -> list[Route]:
    async def scrape(call: Call) -> web.Response:
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
        )
    ]
