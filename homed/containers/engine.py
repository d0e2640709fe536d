"""Docker Engine's calls, by docker-py on threads of its own. Streams (events, logs) are in `streams.py`.

Every error becomes an EngineError with what the engine said; EngineUnavailableError where it cannot be reached.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from homed.containers.model import Listed, Volume, from_list, volume_from
from homed.containers.reachability import unreachable
from homed.containers.spec import MANAGED_LABEL, Registry
from homed.errors import ConflictError, EngineError, EngineUnavailableError, NotFoundError

if TYPE_CHECKING:
    from docker import APIClient

T = TypeVar("T")
Observe = Callable[[str], Callable[[float, bool], None]]
log = logging.getLogger(__name__)
_TIMEOUT = 60
# Seconds for a quick call, including the wait for a thread: all threads may hang if the engine does not answer.
_QUICK_TIMEOUT = 30.0
_QUICK_THREADS = 6
# A stop may take an hour, and a pull for ever: neither may take the last thread from all the others.
_SLOW_THREADS = 96
_PULL_THREADS = 16


class Engine:
    """The engine at `address` (`unix:///…` or `tcp://…`). Quick calls wait behind no stop, stops behind no pull."""

    def __init__(self, address: str, observe: Observe):
        self.address = address
        self._observe = observe
        self._client: APIClient | None = None
        self._connecting = threading.Lock()
        self._networking = threading.Lock()
        self._quick = ThreadPoolExecutor(_QUICK_THREADS, thread_name_prefix="docker")
        self._slow = ThreadPoolExecutor(_SLOW_THREADS, thread_name_prefix="docker-slow")
        self._pulls = ThreadPoolExecutor(_PULL_THREADS, thread_name_prefix="docker-pull")

    async def version(self) -> dict[str, Any]:
        return await self._call("version", lambda c: dict(c.version()))

    async def all(self) -> list[Listed]:
        """Every container, in short."""
        return await self._call("list", lambda c: [from_list(row) for row in c.containers(all=True)])

    async def inspect(self, container: str) -> dict[str, Any]:
        """What the engine knows of a container. NotFoundError (CONTAINER_NOT_FOUND)."""
        return await self._call("inspect", lambda c: dict(c.inspect_container(container)))

    async def stats(self, container: str) -> dict[str, Any]:
        """One sample at once; the engine's own wait for a second one is left out."""
        return await self._call("stats", lambda c: dict(c.stats(container, stream=False, one_shot=True)))

    async def has_image(self, image: str) -> bool:
        try:
            await self._call("inspect_image", lambda c: c.inspect_image(image))  # type: ignore[no-untyped-call]
        except NotFoundError:
            return False
        return True

    async def image_id(self, image: str) -> str:
        """Return the id of the image that a name refers to now. Raises: NotFoundError."""
        return await self._call("inspect_image", lambda c: str(c.inspect_image(image)["Id"]))  # type: ignore[no-untyped-call]

    async def pull(self, image: str, registry: Registry | None, progress: Callable[[dict[str, Any]], None]) -> None:
        """Pull an image; `progress` is called on the event loop with the engine's own messages."""
        loop = asyncio.get_running_loop()
        given_up = threading.Event()
        auth = None if registry is None else {"username": registry.username, "password": registry.password}

        def run(client: "APIClient") -> None:
            name, tag = split_image(image)
            messages: Iterator[dict[str, Any]] = client.pull(name, tag=tag, stream=True, decode=True, auth_config=auth)
            for message in messages:
                if given_up.is_set():
                    return
                if "error" in message:
                    raise EngineError(str(message["error"]), details={"image": image})
                loop.call_soon_threadsafe(progress, message)

        try:
            await self._call("pull", run, self._pulls)
        finally:
            given_up.set()  # where the waiting was cancelled, the thread stops at the next message

    async def create(self, name: str, configuration: dict[str, Any]) -> str:
        """Make a container and return its id. ConflictError where the name is taken."""
        created = await self._call(
            "create",
            lambda c: c.create_container_from_config(configuration, name),  # type: ignore[no-untyped-call]
        )
        for warning in created.get("Warnings") or ():
            log.warning("Docker on creating %s: %s", name, warning)
        return str(created["Id"])

    async def ensure_network(self, name: str) -> None:
        """Make a bridge network of this name where there is none."""

        def run(client: "APIClient") -> None:
            # The engine makes two of one name where two ask at once, and then starts nothing in either.
            with self._networking:
                if not any(network["Name"] == name for network in client.networks(names=[name])):
                    client.create_network(name, driver="bridge", labels={MANAGED_LABEL: "true"}, check_duplicate=True)

        await self._call("create_network", run)

    async def start(self, container: str, check: Callable[[dict[str, Any]], None]) -> None:
        """Start it, unless `check` raises at what the engine knows of it: asked on the thread, with no wait between."""

        def run(client: "APIClient") -> None:
            check(dict(client.inspect_container(container)))
            client.start(container)

        await self._call("start", run, self._slow)

    async def stop(self, container: str, timeout: int) -> None:
        """Ask it to end, and kill it after `timeout` seconds."""
        await self._call("stop", lambda c: c.stop(container, timeout=timeout), self._slow)

    async def remove(self, container: str) -> None:
        """Remove a container (not its volumes), whatever it does."""
        await self._call("remove", lambda c: c.remove_container(container, force=True), self._slow)

    async def rename(self, container: str, name: str) -> None:
        await self._call("rename", lambda c: c.rename(container, name))

    async def pause(self, container: str) -> None:
        """Freeze it. ConflictError where it does not run, or is frozen already."""
        await self._call("pause", lambda c: c.pause(container), self._slow)

    async def unpause(self, container: str) -> None:
        """ConflictError where it is not frozen."""
        try:
            await self._call("unpause", lambda c: c.unpause(container), self._slow)
        except EngineError as error:
            # Some releases of the engine answer this with 409, others with 500.
            if "is not paused" in error.message or "is not running" in error.message:
                raise ConflictError(error.message, code=error.code) from error
            raise

    async def inspect_running(self) -> list[dict[str, Any]]:
        """What the engine knows of each container that is up, those it cannot tell of left out."""

        def run(client: "APIClient") -> list[dict[str, Any]]:
            found = []
            for row in client.containers():
                with suppress(_not_found()):
                    found.append(dict(client.inspect_container(row["Id"])))
            return found

        return await self._call("list", run, self._slow)

    async def find_volume(self, name: str) -> Volume | None:
        try:
            return await self._call("inspect_volume", lambda c: volume_from(c.inspect_volume(name)))
        except NotFoundError:
            return None

    async def ensure_volume(self, name: str) -> Volume:
        """The volume of this name, made where there is none."""
        return await self._call(
            "create_volume",
            lambda c: volume_from(c.create_volume(name, driver="local", labels={MANAGED_LABEL: "true"})),
        )

    async def prepare_exec(self, container: str, command: Sequence[str]) -> str:
        """The id of a command that `Streams.exec` then runs in a container."""
        made = await self._call("exec_create", lambda c: c.exec_create(container, list(command)), self._slow)
        return str(made["Id"])

    async def inspect_exec(self, exec_id: str) -> dict[str, Any]:
        return await self._call("exec_inspect", lambda c: dict(c.exec_inspect(exec_id)))

    async def close(self) -> None:
        # Threads that wait for a slow engine must not hold up the end of the daemon.
        self._quick.shutdown(wait=False, cancel_futures=True)
        self._slow.shutdown(wait=False, cancel_futures=True)
        self._pulls.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()

    async def _call(self, name: str, act: "Callable[[APIClient], T]", pool: ThreadPoolExecutor | None = None) -> T:
        observe = self._observe(name)
        started, worked = time.perf_counter(), False
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None if pool else _QUICK_TIMEOUT):
                result = await loop.run_in_executor(pool or self._quick, self._run, act)
        except TimeoutError as error:
            raise EngineUnavailableError(f"Docker Engine did not answer within {_QUICK_TIMEOUT:.0f} s") from error
        except NotFoundError:
            worked = True  # an answer like any other
            raise
        else:
            worked = True
            return result
        finally:
            observe(time.perf_counter() - started, worked)

    def _run(self, act: "Callable[[APIClient], T]") -> T:
        # docker-py and what it imports cost 8 MB and 40 ms: paid on this thread, when first used.
        import requests
        import urllib3
        from docker import errors

        try:
            return act(self._connected())
        except EngineError:
            raise
        except errors.NotFound as error:
            raise NotFoundError(said(error), code="CONTAINER_NOT_FOUND") from error
        except errors.APIError as error:
            if error.response is not None and error.response.status_code == 409:
                raise ConflictError(said(error), code="DOCKER_ERROR") from error
            raise EngineError(said(error)) from error
        except requests.exceptions.ReadTimeout as error:
            raise EngineUnavailableError(f"Docker Engine did not answer within {_TIMEOUT} s") from error
        except (
            errors.DockerException,
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,  # docker-py reads a pull's messages past requests
            OSError,
        ) as error:
            raise unreachable(self.address) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineError(f"Docker Engine answered in an unknown form: {error!r}") from error

    def _connected(self) -> "APIClient":
        with self._connecting:
            if self._client is None:
                from docker import APIClient

                self._client = APIClient(base_url=self.address, version="auto", timeout=_TIMEOUT, max_pool_size=32)
            return self._client


def _not_found() -> type[Exception]:
    from docker.errors import NotFound

    return NotFound


def said(error: Any) -> str:
    """What the engine said, without docker-py's words around it."""
    explanation = getattr(error, "explanation", None) or str(error)
    return str(explanation.decode() if isinstance(explanation, bytes) else explanation).strip()


def split_image(image: str) -> tuple[str, str | None]:
    """`name` and tag or digest: `registry:5000/app:1` is (`registry:5000/app`, `1`); without a tag `latest`."""
    if "@" in image:
        return image, None
    head, slash, tail = image.rpartition("/")
    name, colon, tag = tail.partition(":")
    return f"{head}{slash}{name}", tag if colon else "latest"
