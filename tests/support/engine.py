"""A Docker Engine for the tests alone: beside the machine's own, and gone without a trace.

It runs in namespaces of its own (processes, mounts, network), so that what it starts dies with it, whatever ends the
tests, and its packet filter and bridges are not the machine's. containerd is process-wise apart from dockerd, as on a
board: dockerd can be killed and started again.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import docker
from docker.errors import APIError, NotFound

from tests.boards.rig.images import IMAGE, busybox_image
from tests.boards.rig.network import BRIDGE, Network
from tests.boards.rig.process import NAMESPACES, command, spawn
from tests.boards.rig.workspace import Workspace
from tests.support.api import Api
from tests.support.wait import until

__all__ = ["IMAGE", "DockerEngine", "why_no_engine"]

_PROGRAMS: Final = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "iptables": "iptables",
}
# Process 1 of the namespace: it reaps what containers leave behind.
_INIT: Final = 'containerd --config "$1" & while :; do wait; sleep 1; done'


def why_no_engine() -> str | None:
    """The reason for which no engine can be started here, or None if one can."""
    if os.environ.get("BOARDS") == "0":
        return "Docker Engine is left out: BOARDS=0"
    if os.geteuid() != 0:
        return "a Docker Engine needs root"
    lacking = sorted({package for name, package in _PROGRAMS.items() if shutil.which(name) is None})
    if lacking:
        return f"a Docker Engine needs the package {', '.join(lacking)}"
    if not Path("/usr/bin/busybox").exists():
        return "the tests' image needs the package busybox-static"
    return None


class DockerEngine:
    """`address` is what homed is told; published ports are reached at `host`; the machine is at `machine` from inside.

    `client` is docker-py's, for what a test does by hand.
    """

    def __init__(self) -> None:
        self._workspace = Workspace()
        self._network = Network()
        self._folder = self._workspace.path
        self._short = Path(tempfile.mkdtemp(prefix="homed-engine-"))  # a socket's path has 107 bytes at most
        self._cgroup: Final = f"homed-engine-{os.getpid()}"
        self.socket: Final = self._short / "docker.sock"
        self.address: Final = f"unix://{self.socket}"
        self.machine: Final = self._network.host_address
        self.host = ""
        self._daemon: subprocess.Popen[bytes] | None = None
        self._holder: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = (self._folder / "engine.log").open("ab")
        try:
            self._plug_in()
            self._hold()
            self.start()
            self.client = docker.DockerClient(base_url=self.address, timeout=60)
            self.client.images.load(busybox_image(Path("/")).read_bytes())
        except BaseException:
            self.close()
            raise

    @property
    def log(self) -> str:
        return (self._folder / "engine.log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        """dockerd's process id."""
        assert self._daemon is not None
        children = Path(f"/proc/{self._daemon.pid}/task/{self._daemon.pid}/children").read_text().split()
        return int(children[0])

    @property
    def runs(self) -> bool:
        return self._daemon is not None and self._daemon.poll() is None

    def start(self) -> None:
        """Start dockerd and wait until it answers."""
        assert self._holder is not None
        (self._folder / "docker.pid").unlink(missing_ok=True)
        inside = ("nsenter", f"--target={self._init}", "--mount", "--pid", "--net", "--")
        arguments = (
            f"--config-file={self._folder / 'daemon.json'}", f"--data-root={self._folder / 'data'}",
            f"--exec-root={self._short / 'exec'}", f"--pidfile={self._folder / 'docker.pid'}",
            f"--host={self.address}", f"--containerd={self._short / 'containerd.sock'}",
            f"--cgroup-parent=/{self._cgroup}", f"--insecure-registry={self._network.subnet}", "--log-level=warn",
            "--shutdown-timeout=3",
        )  # fmt: skip
        self._daemon = spawn([*inside, "dockerd", *arguments], dict(os.environ), self._log)
        until("Docker Engine to answer", self._answers, deadline=60)

    def stop(self) -> None:
        """End dockerd in its own time; its containers are stopped."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9: its containers run on until it is back."""
        self._end(signal.SIGKILL)

    @contextmanager
    def hung(self) -> Iterator[None]:
        """dockerd stopped by SIGSTOP: it takes connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)
            if self._daemon is not None:
                self._daemon.send_signal(signal.SIGCONT)  # nsenter stops with its child

    def clean(self) -> None:
        """Remove what a test left: containers, networks, volumes, and images but the tests' own."""
        if not self.runs:
            self.start()
        empty = 0
        while empty < 3:  # what a killed homed asked for last may still be on its way
            left = self.client.api.containers(all=True)
            empty = 0 if left else empty + 1
            for container in left:
                with suppress(NotFound):
                    self._remove(container["Id"])
            time.sleep(0.05)
        self.client.networks.prune()
        for volume in self.client.volumes.list():
            volume.remove(force=True)
        for image in self.client.images.list():
            for tag in image.tags:
                if tag != IMAGE:
                    self.client.images.remove(tag, force=True)

    def close(self) -> None:
        if hasattr(self, "client"):
            self.client.close()
        if self.runs:
            self._end(signal.SIGKILL)
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
        self._log.close()
        self._discard_cgroups()
        self._network.close()
        self._workspace.close()
        shutil.rmtree(self._short, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, *arguments: str, name: str | None = None, **more: Any) -> Any:
        """A container made by hand, running."""
        return self.client.containers.run(IMAGE, list(arguments) or None, name=name, detach=True, **more)

    def inspect(self, name: str) -> dict[str, Any]:
        return dict(self.client.api.inspect_container(name))

    def find(self, name: str) -> dict[str, Any] | None:
        """As `inspect`; None where there is none."""
        with suppress(NotFound):
            return self.inspect(name)
        return None

    def names(self) -> set[str]:
        return {c["Names"][0].lstrip("/") for c in self.client.api.containers(all=True) if c.get("Names")}

    def is_running(self, name: str) -> bool:
        found = self.find(name)
        return found is not None and bool(found["State"]["Running"])

    def _remove(self, identity: str) -> None:
        for _ in range(20):
            try:
                self.client.api.remove_container(identity, force=True, v=True)
            except APIError as error:
                if error.status_code != 409:
                    raise
                time.sleep(0.1)  # its removal is already in progress
            else:
                return

    def _answers(self) -> bool:
        if not self.runs:
            raise AssertionError(f"dockerd ended: {self.log[-2000:]}")
        try:
            return Api(unix=str(self.socket), timeout=5).get("/_ping").status == 200
        except OSError:
            return False

    def _plug_in(self) -> None:
        """Give the namespace an address that the machine reaches; there is no way out of it."""
        address = self._network.join()
        self.host = address.partition("/")[0]
        for arguments in (
            ("address", "add", address, "dev", BRIDGE),
            ("link", "set", "lo", "up"),
        ):
            command(*self._network.enter, "ip", *arguments)

    def _hold(self) -> None:
        (self._folder / "daemon.json").write_text("{}")
        config = str(self._folder / "containerd.toml")
        Path(config).write_text(
            f'version = 2\nroot = "{self._folder / "containerd"}"\nstate = "{self._short / "containerd"}"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self._short / "containerd.sock"}"\n'
        )
        inside = (*self._network.enter, *NAMESPACES, "sh", "-c", _INIT, "init", config)
        self._holder = spawn(inside, dict(os.environ), self._log)
        until("containerd", (self._short / "containerd.sock").exists)

    @property
    def _init(self) -> int:
        """Process 1 of the namespace, by its number outside."""
        assert self._holder is not None
        holder = self._holder.pid
        return int(Path(f"/proc/{holder}/task/{holder}/children").read_text().split()[0])

    def _end(self, number: signal.Signals) -> None:
        assert self._daemon is not None
        os.kill(self.pid, number)
        self._daemon.wait(timeout=60)

    def _discard_cgroups(self) -> None:
        """Everything in them is dead by now; the kernel needs a moment to see it."""
        for top in Path("/sys/fs/cgroup").glob(f"**/{self._cgroup}") if Path("/sys/fs/cgroup").exists() else ():
            for directory, _, _ in os.walk(top, topdown=False):
                until(f"{directory} to be empty", lambda d=directory: _gone(Path(d)), deadline=10)  # type: ignore[misc]


def _gone(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
