"""The way of every request: host, origin, caller, limit, scope, body, handler, envelope, audit, metrics, log."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from aiohttp import HttpVersion11, web

from homed import clock
from homed.access.scopes import ANONYMOUS, Principal, Scope
from homed.api import auth, decode, guard, paths, protocol, request_log, sending
from homed.api.budget import LEASE, Budget, BudgetError
from homed.api.limits import HOUR, MINUTE, SECOND, Limiter, Rate, Verdict, client_of
from homed.api.origin import Origin, check_connection
from homed.api.routes import HEADERS, STREAMED, Call, Family, Route, family_of
from homed.config import Config, Limits
from homed.errors import (
    ForbiddenError,
    HomedError,
    MethodNotAllowedError,
    MisdirectedError,
    NotFoundError,
    RateLimitError,
    UnauthorizedError,
)
from homed.metrics import Metrics
from homed.store.base import AuditEntry, AuditLog

log = logging.getLogger("api.requests")
audit_log = logging.getLogger("audit")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_EXPOSED = (
    "X-Request-ID, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, X-Job-Id, X-Exec-Id, X-Output-Dropped"
)
_SLOW_REQUEST = 1.0
_CONTROL_BUDGET = 8 << 20
_A_WINDOW = {SECOND: "at once", MINUTE: "a minute", HOUR: "an hour"}
_PRINCIPAL = web.RequestKey("homed.principal", Principal)


class Front:
    """Serves the routes of the families. `locate` returns a request's origin; `check` raises if a method and an action
    (a route's `change`) are not possible now.
    """

    def __init__(
        self,
        families: Sequence[tuple[Family, Sequence[Route]]],
        *,
        config: Callable[[], Config],
        authenticator: auth.Authenticator,
        limiter: Limiter,
        audit: AuditLog,
        metrics: Metrics,
        locate: Callable[[web.Request], Origin],
        hostname: str,
        check: Callable[[str, str | None], None] = lambda method, change: None,
    ):
        self._families = [family for family, _ in families]
        self._routes = [replace(route, family=family) for family, routes in families for route in routes]
        self._config = config
        self._authenticator = authenticator
        self._limiter = limiter
        self._audit = audit
        self._metrics = metrics
        self._locate = locate
        self._hostname = hostname
        self._check_state = check
        self._names: frozenset[str] = frozenset()
        self._changes: set[asyncio.Task[tuple[web.StreamResponse, str]]] = set()
        # The command line has its own budget, so that it works even if network clients have exhausted theirs.
        self._budget, self._control_budget = Budget(config().api.memory_budget), Budget(_CONTROL_BUDGET)
        self.configure(config())

    def configure(self, config: Config) -> None:
        """Take what changed in the configuration."""
        self._names = guard.board_names(self._hostname, config.api.hosts)
        self._limiter.clients = config.api.limits.clients
        self._budget.limit = config.api.memory_budget

    def application(self) -> web.Application:
        app = web.Application()
        app[protocol.REFUSAL] = self.refusal
        for route in self._routes:
            entry = self._entry(route)
            app.router.add_route(route.method, route.path, entry, expect_handler=paths.expect_nothing)
            if route.method == "GET" and not route.acts:
                app.router.add_route("HEAD", route.path, entry, expect_handler=paths.expect_nothing)
        fallback = Route("*", "/{path:.*}", self._not_found, "", "", "system", scope=None, documented=False)
        last = self._entry(replace(fallback, family=self._families[0]))
        app.router.add_route("*", fallback.path, paths.without_slash(app, last), expect_handler=paths.expect_nothing)
        app.on_response_prepare.append(_add_headers)
        app.on_shutdown.append(self._finish_changes)
        return app

    def _entry(self, route: Route) -> paths.Entry:
        assert route.family is not None
        name = (route.family.name, route.method, route.path if route.documented else "other")
        seconds = self._metrics.request_seconds.labels(*name)
        counters = {200: self._metrics.requests.labels(*name, "200")}
        timed = not route.socket

        async def entry(request: web.Request) -> web.StreamResponse:
            started = time.perf_counter()
            status, code = 499, "CLIENT_GONE"
            given = request.headers.get("X-Request-ID", "")
            request_id = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"
            try:
                response, code = await self._serve(route, request, request_id)
                status = response.status
                if (route.uploads or status >= 400) and not request.content.is_eof():
                    response.force_close()  # what is left of the body would be taken for the next request
                if sending.is_long(request, response) and not await sending.send(
                    request, response, request[LEASE], must=route.change is not None
                ):
                    error = BudgetError("no memory is free for this response: try again, with fewer requests at once")
                    response, code = self._render(route, request, error, request_id), error.code
                    status = response.status
            finally:
                duration = time.perf_counter() - started
                counter = counters.get(status)
                if counter is None:
                    counter = counters[status] = self._metrics.requests.labels(*name, str(status))
                counter.inc()
                if timed and not request.get(STREAMED, False):
                    seconds.observe(duration)
                slow = timed and duration >= _SLOW_REQUEST and not request.get(STREAMED, False)
                if request_log.is_logged(self._config().log.requests, route.change is not None, status, slow):
                    request_log.write(request, request_id, status, code, duration)
            return response

        return entry

    async def _serve(self, route: Route, request: web.Request, request_id: str) -> tuple[web.StreamResponse, str]:
        headers = {
            "X-Request-ID": request_id,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        request[HEADERS] = headers
        work = self._handle(route, request, request_id, self._locate(request), headers)
        return await (self._finish(work) if route.change else work)

    async def _handle(
        self, route: Route, request: web.Request, request_id: str, origin: Origin, headers: dict[str, str]
    ) -> tuple[web.StreamResponse, str]:
        code = ""
        lease = request[LEASE] = (self._control_budget if origin.control else self._budget).lease()
        try:
            with lease:
                response = await self._answer(route, request, request_id, origin, headers)
        except HomedError as error:
            response, code = self._render(route, request, error, request_id), error.code
        except web.HTTPException as error:
            response, code = error, error.reason
        except Exception as error:
            if isinstance(error, ConnectionError):
                raise
            log.exception("Request failed", extra={"fields": {"request_id": request_id, "path": request.path}})
            inner = HomedError("an internal error: the log holds it under this request's id")
            response, code = self._render(route, request, inner, request_id), inner.code
        # Who is turned away at the door could fill the account until what counts has fallen out of it.
        if (
            route.change
            and request.method != "HEAD"
            and request.get(_PRINCIPAL, ANONYMOUS).scope is not None
            and response.status != 429
        ):
            await self._record(route, request, origin, response.status, code, request_id)
        return response, code

    async def _answer(
        self, route: Route, request: web.Request, request_id: str, origin: Origin, headers: dict[str, str]
    ) -> web.StreamResponse:
        decode.check_encoding(request)
        config = self._config()
        check_connection(origin, headers, health=route.limit == "health")
        self._check_host(request, origin)
        if origin.only is not None and request.path.removesuffix("/") != origin.only:
            raise NotFoundError(f"only {origin.only} is served here")
        self._check_origin(route, request, config, headers)
        principal = await self._identify(route, request, origin, config)
        request[_PRINCIPAL] = principal
        client = principal.key_id or client_of(origin.address)
        request[LEASE].client = client
        if config.api.limits.enabled and not origin.control:
            verdict = self._limiter.check(client, *_rates(route, config.api.limits))
            _limit_headers(headers, verdict)
            if not verdict.allowed:
                self._refuse(verdict, headers)
        auth.authorize(principal, route.scope)
        self._check_state(route.method, route.change)
        query = None if route.query is None else decode.decode_query(request.query, route.query)
        body = None
        if route.body is not None:
            reading = Call(request, principal, request_id, request.match_info)
            prune = None if route.prune is None else await route.prune(reading)
            limit = config.api.body_limit
            body = await decode.read_json(request, route.body, limit, optional=route.optional, prune=prune)
        return await self._respond(
            route, Call(request, principal, request_id, request.match_info, query, body, origin.control)
        )

    async def _respond(self, route: Route, call: Call) -> web.StreamResponse:
        value = await route.handler(call)
        if isinstance(value, web.StreamResponse):
            return value
        assert route.family is not None
        status = route.status
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], int):
            status, value = value
        body = msgspec.json.encode(route.family.envelope(value, call))
        return web.Response(body=body, status=status, content_type="application/json")

    async def _finish(
        self, work: Coroutine[Any, Any, tuple[web.StreamResponse, str]]
    ) -> tuple[web.StreamResponse, str]:
        """Run a change to its end and into the audit log, also where the client goes away meanwhile."""
        task = asyncio.create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _finish_changes(self, _: web.Application) -> None:
        if self._changes:
            await asyncio.wait(self._changes, timeout=5)

    def _check_host(self, request: web.Request, origin: Origin) -> None:
        host = request.headers.get("Host", "")
        if not host and request.version < HttpVersion11:
            return  # a plain health check, as of a load balancer: every browser names a host
        if origin.address != "unix" and not guard.host_allowed(host, self._names):
            raise MisdirectedError(
                f"'{guard.host_name(host)}' is not a name of this board: use its address, or add the name to api.hosts",
                details={"host": guard.host_name(host)},
            )

    def _check_origin(self, route: Route, request: web.Request, config: Config, headers: dict[str, str]) -> None:
        origin = request.headers.get("Origin")
        guarded = route.changes or route.socket
        if origin is None:
            if guarded and guard.is_of_another_site(request.headers):
                raise ForbiddenError("pages of other sites may not do this", code="ORIGIN_NOT_ALLOWED")
            return
        allowed = config.api.cors_origins
        if origin in allowed:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = _EXPOSED
            headers["Vary"] = "Origin"
        elif guarded and not guard.origin_allowed(origin, request.headers.get("Host", ""), request.scheme, allowed):
            raise ForbiddenError(
                f"pages of '{origin}' may not do this: add it to api.cors_origins", code="ORIGIN_NOT_ALLOWED"
            )

    async def _identify(self, route: Route, request: web.Request, origin: Origin, config: Config) -> Principal:
        client = client_of(origin.address)
        limits = config.api.limits
        failures = Rate("failures", limits.failures)
        trusted = origin.control or (origin.trusted and not config.api.require_key)
        text = auth.credential(request, socket=route.socket)
        if limits.enabled and not trusted and text is not None:
            verdict = self._limiter.exhausted(client, failures)
            if verdict is not None:
                self._refuse(verdict, request[HEADERS])
        try:
            return await self._authenticator.identify(text, trusted=trusted)
        except UnauthorizedError:
            if limits.enabled:
                self._limiter.check(client, failures)
            raise

    def _refuse(self, verdict: Verdict, headers: dict[str, str]) -> None:
        name, limit, window = verdict.rate
        self._metrics.rate_limited.labels(name).inc()
        _limit_headers(headers, verdict)
        seconds = max(1, -int(-verdict.retry_after // 1))
        headers["Retry-After"] = str(seconds)
        raise RateLimitError(
            f"more than {limit} requests {_A_WINDOW[window]} of the class '{name}': try again in {seconds} s",
            details={"class": name, "limit": limit, "retry_after": seconds},
        )

    async def _not_found(self, call: Call) -> object:
        request = call.request
        routes = [route for route in self._routes if paths.matches(route.path, request.path)]
        if request.method != "OPTIONS" and not any(route.scope is None for route in routes):
            auth.authorize(call.principal, Scope.READ)  # not everybody may learn which routes exist
        heads = {"HEAD" for route in routes if route.method == "GET" and not route.acts}
        allowed = sorted({route.method for route in routes} | heads)
        asked = request.headers.get("Access-Control-Request-Method")
        if request.method == "OPTIONS" and allowed:
            return self._preflight(request, allowed, asked)
        if allowed:
            request[HEADERS]["Allow"] = ", ".join([*allowed, "OPTIONS"])
            raise MethodNotAllowedError(f"{request.method} is not for this path; {', '.join(allowed)} is")
        raise NotFoundError(f"there is nothing at {request.path}: /docs lists what there is")

    def _preflight(self, request: web.Request, allowed: Sequence[str], asked: str | None) -> web.Response:
        headers = {"Allow": ", ".join([*allowed, "OPTIONS"])}
        if asked is not None and request.headers.get("Origin") in self._config().api.cors_origins:
            headers["Access-Control-Allow-Methods"] = ", ".join(allowed)
            headers["Access-Control-Allow-Headers"] = (
                "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-API-Key, X-Request-ID"
            )
            headers["Access-Control-Max-Age"] = "600"
        return web.Response(status=204, headers=headers)

    def _render(self, route: Route, request: web.Request, error: HomedError, request_id: str) -> web.Response:
        family = route.family if route.documented else self._family_of(request.path)
        assert family is not None
        if isinstance(error, UnauthorizedError):
            request[HEADERS]["WWW-Authenticate"] = "Bearer"
        if error.retry_after:
            request[HEADERS].setdefault("Retry-After", str(error.retry_after))
        try:
            body = msgspec.json.encode(family.error(error, request_id))
        except UnicodeEncodeError:  # a header or path that is not text was to be quoted
            error.message, error.details = error.message.encode("ascii", "backslashreplace").decode(), {}
            body = msgspec.json.encode(family.error(error, request_id))
        return web.Response(body=body, status=error.status, content_type="application/json")

    def refusal(self, path: str, error: HomedError) -> web.Response:
        """Render the error of a request that reached no route."""
        request_id = f"{random.getrandbits(64):016x}"
        body = msgspec.json.encode(self._family_of(path).error(error, request_id))
        headers = {
            "X-Request-ID": request_id,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            "Server": "homed",
        }
        return web.Response(body=body, status=error.status, content_type="application/json", headers=headers)

    def _family_of(self, path: str) -> Family:
        return family_of(path, self._families)

    async def _record(
        self, route: Route, request: web.Request, origin: Origin, status: int, code: str, request_id: str
    ) -> None:
        principal = request.get(_PRINCIPAL, ANONYMOUS)
        entry = AuditEntry(
            0,
            clock.now(),
            principal.id,
            str(route.change),
            request.path,
            origin.address,
            status,
            code,
            request_id,
        )
        fields = {name: value for name, value in entry._asdict().items() if name not in ("id", "at")}
        audit_log.info("%s %s: %s", route.change, request.path, status, extra={"fields": fields})
        try:
            await self._audit.append(entry)
        except HomedError as error:
            # What was done is done, and stands in the journal by the line above: its answer is still the true one.
            log.error("The audit log could not be written: %s", error.message)  # noqa: TRY400  its message says all


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in request.get(HEADERS, {}).items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "homed"  # aiohttp has set its own by now, with its version and Python's


def _rates(route: Route, limits: Limits) -> list[Rate]:
    """What a route's requests are counted for."""
    named = [(route.limit, MINUTE), (route.hourly, HOUR), (route.burst, SECOND)]
    return [Rate(name, getattr(limits, name), window) for name, window in named if name is not None]


def _limit_headers(headers: dict[str, str], verdict: Verdict) -> None:
    headers["X-RateLimit-Limit"] = str(verdict.rate.limit)
    headers["X-RateLimit-Remaining"] = str(verdict.remaining)
    headers["X-RateLimit-Reset"] = str(int(time.time() + verdict.reset + 0.999))
