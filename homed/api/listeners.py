"""The sockets that the API is served on: which they are, whether they are loopback only, TLS, bounded connections."""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import stat
import time
import weakref
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from homed.api import protocol
from homed.api.acceptor import BACKLOG, Acceptor, HttpProtocol, is_loopback_peer
from homed.api.connections import Connection, Pool
from homed.api.origin import Origin
from homed.config import Config, parse_address
from homed.errors import BusyError, ConfigError
from homed.health import Component, Health, Level

log = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def addresses(config: Config) -> list[tuple[str, int | None]]:
    """Every address that the configuration names, the metrics port's too; a port of None is a Unix socket."""
    found: list[tuple[str, int | None]] = [(config.api.host, config.api.port)]
    found += [parse_address(text) for text in config.api.listen]
    if config.monitoring.enabled and config.monitoring.metrics_port:
        found.append((config.monitoring.metrics_host, config.monitoring.metrics_port))
    return list(dict.fromkeys(found))


def metrics_port(config: Config) -> int | None:
    """The port on which `/metrics` stands alone; None where there is none, or it is one of the API's."""
    port = config.monitoring.metrics_port if config.monitoring.enabled else None
    own = {config.api.port, *(parse_address(text)[1] for text in config.api.listen)}
    return None if not port or port in own else port


def check_exposure(config: Config, *, have_key: bool, sockets: Sequence[socket.socket] = ()) -> None:
    """Refuse to listen where others can reach it while there is no key. ConfigError says how to make one."""
    exposed = [f"{host}:{port}" for host, port in addresses(config) if port is not None and not is_loopback(host)]
    exposed += [f"{host}:{port}" for host, port in map(_name_of, sockets) if port is not None and not is_loopback(host)]
    if exposed and not have_key:
        raise ConfigError(
            f"listening on {', '.join(exposed)} would let anybody there command this board: "
            "make a key first (homed key create NAME --scope admin), or listen on 127.0.0.1",
            code="KEY_REQUIRED",
        )


Ends = Callable[[Any, Any], bool]


class Listeners:
    """Serves an application's runner on sockets, and records by which socket each request arrived.

    `connections` is the limit counted from accept, `per_client` the limit of one network client; `dropped` is called
    with the reason for each refused or dropped connection. `is_stranger` returns for each loopback connection (its
    client's and server's address) whether it is trusted no more than a remote one.
    """

    def __init__(
        self,
        connections: int,
        is_stranger: Ends = lambda client, server: False,
        *,
        per_client: int = 64,
        dropped: Callable[[str], object] = lambda reason: None,
    ):
        self.pool = Pool(connections, per_client, dropped, self._wake)
        self._timer: asyncio.TimerHandle | None = None
        self._is_stranger = is_stranger
        # By the transport: asked once, since the other end may be closed before the next request is looked at.
        self._strangers: weakref.WeakKeyDictionary[asyncio.Transport, bool] = weakref.WeakKeyDictionary()
        self._trusted: set[tuple[str, int]] = set()
        self._metrics_port: int | None = None
        self._metrics_trouble = ""
        self._acceptors: list[Acceptor] = []
        self._unix: list[Path] = []
        self._control: str | None = None
        self.open: list[str] = []

    def locate(self, request: web.Request) -> Origin:
        transport = request.transport
        if transport is None:
            return Origin("gone", trusted=False)
        name = transport.get_extra_info("sockname")
        connection = request.protocol.connection if isinstance(request.protocol, HttpProtocol) else None
        spare = connection is not None and connection.spare
        if not isinstance(name, tuple):
            return Origin("unix", trusted=True, control=name == self._control, spare=spare)
        peer = transport.get_extra_info("peername")
        only = "/metrics" if name[1] == self._metrics_port else None
        address = peer[0] if peer else "gone"
        # The peer too: a kernel that routes 127.0.0.0/8 (route_localnet, as some container networks set it) lets
        # neighbours in by a loopback listener.
        trusted = (name[0], name[1]) in self._trusted and is_loopback_peer(address)
        if trusted:
            known = self._strangers.get(transport)
            if known is None:
                known = self._strangers[transport] = self._is_stranger(peer, name)
            trusted = not known
        return Origin(address, trusted, only, spare=spare, plain=connection is not None and connection.plain)

    def report(self, health: Health, *, configured: bool) -> None:
        """Note in /health that the metrics port could not be opened: degraded if the owner asked for it."""
        if self._metrics_trouble:
            level = Level.DEGRADED if configured else Level.HEALTHY
            component = Component(level, self._metrics_trouble, needed=False)
            health.add("metrics", lambda: component)

    async def start(
        self,
        runner: web.BaseRunner,
        config: Config,
        passed: Sequence[socket.socket],
        tls: ssl.SSLContext | None,
        control: Path | None = None,
    ) -> None:
        """Bind and listen. What systemd passed takes the place of `api.host` and `api.port`.

        `control` is a path in a folder that is closed to others, for the command line: a full disk may keep homed from
        making it, but must not keep it from anything else.
        """
        self._metrics_port, self._metrics_trouble = metrics_port(config), ""
        metrics = (config.monitoring.metrics_host, self._metrics_port)
        wanted = addresses(config)[1:] if passed else addresses(config)
        sockets, given = list(passed), {_name_of(one) for one in passed}
        try:
            for name, port in wanted:
                host = name.removeprefix("unix:")
                if (host, port) in given:
                    continue
                if port is None:
                    sockets.append(_unix(Path(host)))
                    # Only what was made here is taken away at the end: on what was passed, systemd goes on listening.
                    self._unix.append(Path(host))
                elif (host, port) == metrics:
                    sockets += self._bind_metrics(host, port)
                else:
                    sockets += _bind(host, port)
        except ConfigError:
            for one in sockets[len(passed) :]:
                one.close()
            raise
        server = runner.server
        assert isinstance(server, protocol.Server)
        _tell_beginnings(server)
        for one in sockets:
            self._serve(server, one, tls)
        if control is not None:
            self._serve_control(server, control)

    def _bind_metrics(self, host: str, port: int) -> list[socket.socket]:
        """Bind the metrics port. A failure does not prevent the start: Prometheus or another homed may use the port."""
        try:
            return _bind(host, port)
        except ConfigError as error:
            self._metrics_trouble = f"{error.message}: /metrics is served on the API's own addresses only"
            log.warning("Cannot serve metrics alone: %s", self._metrics_trouble)
            self._metrics_port = None
            return []

    def _serve_control(self, server: protocol.Server, path: Path) -> None:
        try:
            one = _beside(path)
        except OSError as error:
            log.error("The command line cannot reach this homed: %s: %s", path, error.strerror)  # noqa: TRY400
            return
        self._control = one.getsockname()
        self._unix.append(path)
        self._accept(server, one, None, control=True)

    def _serve(self, server: protocol.Server, one: socket.socket, tls: ssl.SSLContext | None) -> None:
        host, port = _name_of(one)
        if port is not None and is_loopback(host):
            self._trusted.add((host, port))
        self._accept(server, one, tls if port is not None else None)
        shown = f"unix:{host}" if port is None else f"{'https' if tls else 'http'}://{_bracket(host)}:{port}"
        self.open.append(shown)
        what = "" if port is None else " (metrics only)" if port == self._metrics_port else " (see /docs)"
        log.info("Listening on %s%s", shown, what)

    def _accept(
        self, server: protocol.Server, one: socket.socket, tls: ssl.SSLContext | None, *, control: bool = False
    ) -> None:
        def handler(connection: Connection) -> HttpProtocol:
            return server.make(HttpProtocol, pool=self.pool, connection=connection)

        acceptor = Acceptor(one, self.pool, handler, tls, full=lambda: server.rendered(_full()), control=control)
        acceptor.start()
        self._acceptors.append(acceptor)

    def _wake(self, deadline: float) -> None:
        """Schedule the next check of the deadlines at this time (monotonic seconds)."""
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, deadline - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        self.pool.sweep(time.monotonic())

    def close(self) -> None:
        """Stop accepting connections; the runner closes those being served."""
        for acceptor in self._acceptors:
            acceptor.close()
        self.pool.close()
        for path in self._unix:
            with contextlib.suppress(OSError):
                path.unlink()


def _full() -> BusyError:
    return BusyError(
        "too many connections, of this client or in total, are busy (api.connections_per_client, api.connections)",
        code="TOO_MANY_CONNECTIONS",
    )


def _tell_beginnings(server: web.Server) -> None:
    """Notify each connection when a request of its own begins to be handled: its head is complete by then."""
    make = server.request_factory

    def made(*arguments: Any) -> web.BaseRequest:
        protocol = arguments[2]
        if isinstance(protocol, HttpProtocol):
            protocol.begin()
        return make(*arguments)

    server.request_factory = made


class _Malformed(logging.Filter):
    """What is no HTTP is its sender's mistake: without a trace and for debugging only, or anybody fills the journal."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        record.levelno, record.levelname, record.exc_info = logging.DEBUG, "DEBUG", None
        return _requests_log.isEnabledFor(logging.DEBUG)


_requests_log = logging.getLogger("homed.api.connections")
_requests_log.addFilter(_Malformed())


def _name_of(one: socket.socket) -> tuple[str, int | None]:
    name = one.getsockname()
    return (name[0], name[1]) if isinstance(name, tuple) else (str(name), None)


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _bind(host: str, port: int) -> list[socket.socket]:
    sockets = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            # Listen immediately: two bound sockets that do not listen can share a port; the second would fail later.
            one.listen(BACKLOG)
    except OSError as error:
        for one in sockets:
            one.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}", code="CANNOT_LISTEN") from error
    return sockets


def _unix(path: Path) -> socket.socket:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()  # left by a run that was killed
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o117)
        try:
            one.bind(str(path))
        except OSError:
            one.close()
            raise
        finally:
            os.umask(before)
    except OSError as error:
        raise ConfigError(f"cannot listen on unix:{path}: {error.strerror or error}", code="CANNOT_LISTEN") from error
    return one


def _beside(path: Path) -> socket.socket:
    """A socket for root alone, in the place of one that a killed run left. Its path may be longer than an address."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            one.bind(f"/proc/self/fd/{folder}/{path.name}")
        except OSError:
            one.close()
            raise
        finally:
            os.umask(before)
    finally:
        os.close(folder)
    return one


def runner_for(application: web.Application) -> web.AppRunner:
    """Return a runner that cancels a handler when its client disconnects, and waits 3 s for handlers at shutdown."""
    return protocol.Runner(application)
