"""The hardware of a board: a disk, a place in the network, and power, played by systemd-nspawn."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from .network import BRIDGE, Network
from .process import NAMESPACES, RigError, spawn, until
from .workspace import discard_cgroup, kill_cgroup

# Neither Docker nor containerd can put its overlays on the overlay that a board's root is.
OFF_OVERLAY: Final = ("/var/lib/docker", "/var/lib/containerd", "/var/lib/containers")

# Seccomp filters of nspawn's own keep CRIU from suspending a container's; without cgroup v2 Docker gets no
# control group; with a read-only /proc/sys CRIU cannot restore. The lock would guard what is ours alone.
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SYSTEMD_SECCOMP": "0",
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1",
    "SYSTEMD_NSPAWN_LOCK": "0",
}

# Process 1 of a process namespace, in a mount namespace: no process outlives it (a board would its nspawn),
# no mount, and nothing that nspawn keeps in /run. With --keep-unit nspawn does not reboot a board itself but
# ends with 133, for a service manager to start it again: here, the loop.
_LAUNCH: Final = """
set -eu
cgroup=$1 overlay=$2 root=$3
shift 3
mkdir -p "$cgroup/launcher" "$cgroup/machine"
echo 0 > "$cgroup/launcher/cgroup.procs"
mount -t overlay board -o "$overlay" "$root"
mkdir -p /run/systemd/nspawn
mount -t tmpfs board /run/systemd/nspawn
status=133
while [ "$status" = 133 ]; do
    find "$cgroup/machine" -mindepth 1 -depth -type d -exec rmdir {} +
    status=0
    (echo 0 > "$cgroup/machine/cgroup.procs"; exec "$@") || status=$?
done
exit "$status"
"""

_POWER_OFF: Final = signal.SIGRTMIN + 4
_REBOOT: Final = signal.SIGRTMIN + 5


class Machine:
    """One nspawn container on an overlay of `layers` (lowest first) that keeps its changes in `path`."""

    def __init__(self, name: str, layers: Sequence[Path], path: Path, cgroup: Path, network: Network) -> None:
        self.name: Final = name
        self.disk: Final = path / "disk"
        self.console: Final = path / "console.log"
        self._layers = layers
        self._path = path
        self._cgroup = cgroup
        self._network = network
        self._launcher: subprocess.Popen[bytes] | None = None
        for directory in ("disk", "work", "root", *(f"data{volume}" for volume in OFF_OVERLAY)):
            (path / directory).mkdir(parents=True)

    @property
    def on(self) -> bool:
        """Whether it has power."""
        return self._launcher is not None and self._launcher.poll() is None

    @property
    def leader(self) -> int | None:
        """The machine's number for the board's process 1; None before systemd runs in it."""
        payload = self._cgroup / "machine" / "payload"
        groups = (payload / "init.scope", payload)
        return next(filter(_is_leader, chain.from_iterable(map(_members, groups))), None)

    def power_on(self) -> None:
        """Start it; it has not booted when this returns."""
        if self.on:
            raise RigError(f"{self.name} is running already")
        layers = ":".join(str(layer) for layer in reversed(self._layers))
        overlay = f"lowerdir={layers},upperdir={self.disk},workdir={self._path / 'work'}"
        root = self._path / "root"
        launch = ("sh", "-c", _LAUNCH, "launch", str(self._cgroup), overlay, str(root), *self._nspawn(root))
        argv = (*self._network.enter, *NAMESPACES, *launch)
        with self.console.open("ab") as console:
            self._launcher = spawn(argv, _ENVIRONMENT, console)

    def power_off(self, timeout: float) -> None:
        """Let it shut down in its own order and wait until it is off."""
        self._signal(_POWER_OFF)
        until(f"{self.name} to shut down", lambda: not self.on, timeout)
        self.cut_power()

    def reset(self) -> None:
        """Let it shut down in its own order and start again; this returns before it has."""
        self._signal(_REBOOT)

    def cut_power(self) -> None:
        """End all that runs in it in one instant."""
        kill_cgroup(self._cgroup)
        if self._launcher is not None:
            self._launcher.wait()
        self._network.unplug(self.name)

    def discard(self) -> None:
        """Cut its power and remove its control group; its disk is the workspace's to remove."""
        self.cut_power()
        discard_cgroup(self._cgroup)

    def last_words(self) -> str:
        """The end of what it printed on its console."""
        return self.console.read_text(errors="replace")[-3000:] if self.console.exists() else ""

    def _signal(self, number: int) -> None:
        leader = self.leader
        if leader is None:
            raise RigError(f"{self.name} is not running")
        os.kill(leader, number)

    def _nspawn(self, root: Path) -> Iterator[str]:
        yield from ("systemd-nspawn", "--quiet", "--boot", f"--directory={root}", "--capability=all")
        yield from ("--register=no", "--keep-unit", "--link-journal=no")
        # The link at the bridge gets its name from the machine, which is registered nowhere: it can have the
        # board's, since another run's boards are in another namespace.
        yield from (f"--machine={self.name}", f"--network-bridge={BRIDGE}")
        yield from (f"--bind={self._path}/data{volume}:{volume}" for volume in OFF_OVERLAY)
        yield from (f"--bind={device}" for device in _devices())


def _devices() -> Iterator[Path]:
    """What a board has that nspawn leaves out: loop devices for RAUC's bundles, and fuse."""
    candidates = (*sorted(Path("/dev").glob("loop[0-9]*")), Path("/dev/loop-control"), Path("/dev/fuse"))
    return (device for device in candidates if not device.is_dir() and device.exists())


def _members(cgroup: Path) -> Iterator[int]:
    try:
        return map(int, (cgroup / "cgroup.procs").read_text().split())
    except FileNotFoundError:
        return iter(())


def _is_leader(pid: int) -> bool:
    """Whether a process is number 1 where it lives, and systemd already, not nspawn about to become it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return fields["Name"] == "systemd" and fields["NSpid"].split()[-1] == "1"
