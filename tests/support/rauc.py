"""RAUC's service without a board: a system bus of its own, slots on loop devices, a bootloader in a file.

RAUC and its hooks run in a mount namespace, so that what a killed service left mounted goes with it.
"""

import hashlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tests.boards.rig.process import command, spawn
from tests.support.wait import until

COMPATIBLE: Final = "homed-test-board"
SLOT_SIZE: Final = 16 * 2**20
ATTEMPTS: Final = 3
_RAUC: Final = "de.pengutronix.rauc"
_PROGRAMS: Final = {
    "rauc": "rauc",
    "mksquashfs": "squashfs-tools",
    "dbus-daemon": "dbus",
    "dbus-send": "dbus",
    "losetup": "mount",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}

_BUS: Final = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>{address}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""

_SYSTEM: Final = """[system]
compatible={compatible}
bootloader=custom
bundle-formats=plain verity
data-directory={data}
mountprefix={mounts}

[handlers]
bootloader-custom-backend={backend}

[keyring]
path={keyring}

[slot.rootfs.0]
description=the first system
device={a}
type=raw
bootname=A

[slot.rootfs.1]
description=the second system
device={b}
type=raw
bootname=B

[slot.appfs.0]
device={apps}.0
type=raw
parent=rootfs.0

[slot.appfs.1]
device={apps}.1
type=raw
parent=rootfs.1
"""

# What RAUC's own U-Boot backend does, on a file: an order, and attempts left for each slot.
_BACKEND: Final = """#!/bin/sh
set -eu
env={env}
. "$env"
left() {{ eval "echo \\$$1"_LEFT; }}
without() {{ for slot in $ORDER; do [ "$slot" = "$1" ] || printf '%s ' "$slot"; done; }}
save() {{
    printf "ORDER='%s'\\nA_LEFT=%s\\nB_LEFT=%s\\n" "$ORDER" "$A_LEFT" "$B_LEFT" > "$env.new"
    mv "$env.new" "$env"
}}
case "$1" in
    get-primary)
        for slot in $ORDER; do
            [ "$(left "$slot")" -le 0 ] || {{ echo "$slot"; exit 0; }}
        done
        exit 1 ;;
    set-primary) ORDER="$2 $(without "$2")"; eval "$2_LEFT={attempts}"; save ;;
    get-state)
        for slot in $ORDER; do
            [ "$slot" != "$2" ] || [ "$(left "$slot")" -le 0 ] || {{ echo good; exit 0; }}
        done
        echo bad ;;
    set-state)
        [ ! -e "$env.deaf" ] || exit 0
        echo "$2 $3" >> "$env.marks"
        case "$3" in
            good)
                case " $ORDER " in *" $2 "*) ;; *) ORDER="$ORDER $2" ;; esac
                eval "$2_LEFT={attempts}" ;;
            bad) ORDER="$(without "$2")"; eval "$2_LEFT=0" ;;
        esac
        save ;;
    *) exit 1 ;;
esac
"""


def why_no_rauc() -> str | None:
    """The reason for which RAUC's service cannot be tested here, or None if it can."""
    if os.environ.get("BOARDS") == "0":
        return "RAUC's service is left out: BOARDS=0"
    if os.geteuid() != 0:
        return "RAUC's service needs root"
    lacking = sorted({package for name, package in _PROGRAMS.items() if shutil.which(name) is None})
    if lacking:
        return f"RAUC's service needs the package {', '.join(lacking)}"
    if not Path("/dev/loop-control").exists():
        return "RAUC's slots need loop devices"
    look = "grep -qw squashfs /proc/filesystems || modprobe -q squashfs"
    if subprocess.run(["sh", "-c", look], capture_output=True, check=False).returncode:
        return "RAUC's bundles need squashfs in the kernel"
    return None


class SystemBus:
    """A dbus-daemon that can be killed and started again at the same address."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._short = Path(tempfile.mkdtemp(prefix="homed-bus-"))  # a socket's path has 107 bytes at most
        self._socket = self._short / "bus"
        self._process: subprocess.Popen[bytes] | None = None
        self.address: Final = f"unix:path={self._socket}"
        (folder / "bus.conf").write_text(_BUS.format(address=self.address))

    def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        with (self._folder / "bus.log").open("ab") as log:
            arguments = ["dbus-daemon", f"--config-file={self._folder / 'bus.conf'}", "--nofork", "--nopidfile"]
            self._process = spawn(arguments, dict(os.environ), log)
        until("the bus to answer", self._answers, every=0.01)

    def kill(self) -> None:
        """kill -9."""
        end(self._process)
        self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._short, ignore_errors=True)

    def owns(self, name: str) -> bool:
        """Whether somebody has this name."""
        return "boolean true" in self._ask("NameHasOwner", f"string:{name}")

    def owner(self, name: str) -> int:
        """The process that has this name."""
        return int(self._ask("GetConnectionUnixProcessID", f"string:{name}").split()[-1])

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket)) == 0

    def _ask(self, method: str, *arguments: str) -> str:
        asked = subprocess.run(
            [
                "dbus-send", f"--bus={self.address}", "--print-reply", "--dest=org.freedesktop.DBus",
                "/org/freedesktop/DBus", f"org.freedesktop.DBus.{method}", *arguments,
            ],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        return asked.stdout


class Slot:
    """A slot on a loop device, which is given back when this process ends, however it ends."""

    def __init__(self, folder: Path, name: str, bootname: str):
        self.name, self.bootname = name, bootname
        file = folder / f"{name}.img"
        with file.open("wb") as made:
            made.truncate(SLOT_SIZE)
        self.device = Path(command("losetup", "--find", "--show", file).strip())
        self._held = os.open(self.device, os.O_RDWR | os.O_CLOEXEC)
        # Detached now, it goes with its last descriptor, which is this one.
        command("losetup", "--detach", self.device)

    def fill(self, seed: str) -> None:
        """Write all of it, from a seed."""
        os.pwrite(self._held, content(seed, SLOT_SIZE), 0)

    def read(self, size: int = SLOT_SIZE) -> bytes:
        return os.pread(self._held, size, 0)

    def digest(self) -> str:
        return hashlib.sha256(self.read()).hexdigest()

    def holds(self, image: bytes) -> bool:
        """Whether it begins with this image."""
        return self.read(len(image)) == image

    def close(self) -> None:
        os.close(self._held)


class Bootloader:
    """What U-Boot's script does with the variables that RAUC writes, on a file."""

    def __init__(self, folder: Path):
        self._env = folder / "bootloader.env"
        self._deaf = folder / "bootloader.env.deaf"
        self._marks = folder / "bootloader.env.marks"
        self.backend = folder / "bootloader-backend"
        self.backend.write_text(_BACKEND.format(env=shlex.quote(str(self._env)), attempts=ATTEMPTS))
        self.backend.chmod(0o755)
        self.reset()

    def reset(self) -> None:
        self._write(["A", "B"], {"A": ATTEMPTS, "B": ATTEMPTS})
        self.deaf = False
        self._marks.unlink(missing_ok=True)

    def choose(self) -> str:
        """The slot that is booted now: the first with an attempt left, which this takes one of."""
        order, left = self.read()
        for name in order:
            if left[name] > 0:
                left[name] -= 1
                self._write(order, left)
                return name
        # Nothing is left to boot: U-Boot's script begins anew.
        self._write(order or ["A", "B"], {"A": ATTEMPTS, "B": ATTEMPTS})
        return self.choose()

    def read(self) -> tuple[list[str], dict[str, int]]:
        """The order of the slots and the attempts left."""
        lines = (line.partition("=") for line in self._env.read_text().splitlines())
        values = {key: value.strip("'") for key, _, value in lines}
        return values["ORDER"].split(), {name: int(values[f"{name}_LEFT"]) for name in ("A", "B")}

    @property
    def primary(self) -> str | None:
        order, left = self.read()
        return next((name for name in order if left[name] > 0), None)

    def is_good(self, bootname: str) -> bool:
        order, left = self.read()
        return bootname in order and left[bootname] > 0

    @property
    def marks(self) -> list[str]:
        """What was marked since the reset, in order: `A good`, `B bad`."""
        return self._marks.read_text().splitlines() if self._marks.exists() else []

    @property
    def deaf(self) -> bool:
        """Whether marks are taken and do nothing, as where the bootloader's variables cannot be written."""
        return self._deaf.exists()

    @deaf.setter
    def deaf(self, on: bool) -> None:
        if on:
            self._deaf.touch()
        else:
            self._deaf.unlink(missing_ok=True)

    def _write(self, order: list[str], left: dict[str, int]) -> None:
        beside = self._env.with_suffix(".new")
        lines = [f"ORDER='{' '.join(order)}'", *(f"{name}_LEFT={count}" for name, count in left.items())]
        beside.write_text("\n".join(lines) + "\n")
        beside.replace(self._env)


class Rauc:
    """RAUC's service on a bus, with its slots and its bootloader; `keyring` is the CA that it trusts."""

    def __init__(self, folder: Path, bus: SystemBus, keyring: Path):
        self._folder = folder
        self._bus = bus
        self._data, self._mounts = folder / "rauc-data", folder / "rauc-mounts"
        self._process: subprocess.Popen[bytes] | None = None
        # A program that starts the service where it has to be.
        self.within: tuple[str, ...] = ()
        self.config: Final = folder / "system.conf"
        self.bootloader = Bootloader(folder)
        self.slots = {"A": Slot(folder, "rootfs.0", "A"), "B": Slot(folder, "rootfs.1", "B")}
        for number in range(2):
            (folder / f"appfs.{number}").write_bytes(bytes(2**16))
        self._mounts.mkdir()
        self.config.write_text(
            _SYSTEM.format(
                compatible=COMPATIBLE, data=self._data, mounts=self._mounts, backend=self.bootloader.backend,
                keyring=keyring, a=self.slots["A"].device, b=self.slots["B"].device, apps=folder / "appfs",
            )
        )  # fmt: skip

    def launch(self, booted: str) -> None:
        """Start the service, booted from this slot, without waiting for it."""
        with (self._folder / "rauc.log").open("ab") as log:
            self._process = spawn(
                [
                    *self.within, "unshare", "--mount", "--", "rauc", "--conf", self.config, "--mount", self._mounts,
                    "service", f"--override-boot-slot={booted}",
                ],
                self._environment,
                log,
            )  # fmt: skip

    def await_up(self) -> None:
        until("RAUC's service", lambda: self.runs and self._bus.owns(_RAUC), every=0.02)

    def start(self, booted: str) -> None:
        self.launch(booted)
        self.await_up()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        end(self._process, number)
        self._process = None

    def reset(self) -> None:
        """As delivered: both slots good, the first one primary; nothing was ever installed. It must not run."""
        shutil.rmtree(self._data, ignore_errors=True)
        self._data.mkdir()
        self.bootloader.reset()
        for slot in self.slots.values():
            slot.fill(f"delivered in {slot.bootname}")

    def close(self) -> None:
        self.kill()
        for slot in self.slots.values():
            slot.close()

    @property
    def log(self) -> str:
        path = self._folder / "rauc.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        return self._bus.owner(_RAUC)

    def command(self, *arguments: str | Path) -> str:
        """`rauc …` by a person; RigError with what it printed where it fails."""
        return command("rauc", "--conf", self.config, *arguments, env=self._environment)

    def by_hand(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """The same without waiting for its end."""
        with (self._folder / "by-hand.log").open("ab") as log:
            return spawn(["rauc", "--conf", self.config, *arguments], self._environment, log)

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self._bus.address}

    @property
    def runs(self) -> bool:
        """AssertionError where it has ended."""
        if self._process is None or self._process.poll() is not None:
            raise AssertionError(f"RAUC's service ended: {self.log[-2000:]}")
        return True


def content(seed: str, size: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return hashlib.shake_128(seed.encode()).digest(size)


def end(process: subprocess.Popen[Any] | None, number: signal.Signals = signal.SIGKILL) -> None:
    """End a process of ours, if it is still there, and wait until it is gone."""
    if process is None:
        return
    with suppress(ProcessLookupError):
        process.send_signal(number)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=20)
