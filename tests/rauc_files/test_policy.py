"""RAUC's policy on the bus: a real dbus-daemon, which is asked as root and as nobody."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rauc_files.running import RAUC_FILES, Run, need, run
from tests.support.tools import program
from tests.support.wait import until

NAME = "de.pengutronix.rauc"
OURS = RAUC_FILES / f"{NAME}.conf"
PACKAGED = f"usr/share/dbus-1/system.d/{NAME}.conf"

# In short what every system's bus begins with, and the two folders that it then reads, in their order.
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:dir={folder}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
  </policy>
  <includedir>{folder}/usr</includedir>
  <includedir>{folder}/etc</includedir>
</busconfig>
"""


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A program that is ended at the latest at the end of the block."""
    with process:
        try:
            yield process
        finally:
            process.kill()


class Bus:
    """A bus, with policies as a system would have them, and its callers."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.address = ""
        for name in ("usr", "etc"):
            (folder / name).mkdir()

    @contextmanager
    def with_rauc(self) -> Iterator[None]:
        """The daemon with the policies that are there, and RAUC's own service on it."""
        config = self.folder / "bus.conf"
        config.write_text(BUS.format(folder=self.folder))
        command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address=1"]
        with ended(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)) as daemon:
            assert daemon.stdout is not None
            self.address = daemon.stdout.readline().strip()
            system = self.folder / "system.conf"
            system.write_text("[system]\ncompatible=any\nbootloader=noop\n")
            environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.address}
            service = ["rauc", "-c", str(system), "service", "--override-boot-slot=A"]
            with ended(subprocess.Popen(service, env=environment, stderr=subprocess.DEVNULL, text=True)):
                until("RAUC's service", self.owner)
                yield

    def owner(self) -> str:
        """The name that the bus itself gave to RAUC's service."""
        done = self.ask("root", "org.freedesktop.DBus", "org.freedesktop.DBus.GetNameOwner", f"string:{NAME}")
        return "".join(re.findall(r'string "(:[^"]+)"', done.stdout))

    def ask(self, user: str, destination: str, *words: str) -> Run:
        lowered = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") if user == "nobody" else ()
        call = ("dbus-send", f"--bus={self.address}", "--print-reply", f"--dest={destination}", "/", *words)
        return run(*lowered, *call)

    def reaches(self, user: str, destination: str = NAME) -> bool:
        """Whether a call of this user's gets to the owner of a name."""
        done = self.ask(user, destination, "org.freedesktop.DBus.Peer.Ping")
        assert done.returncode == 0 or "AccessDenied" in done.stderr, done.stderr
        return done.returncode == 0

    def owns(self, user: str) -> bool:
        """Whether this user may have RAUC's name."""
        done = self.ask(user, "org.freedesktop.DBus", "org.freedesktop.DBus.RequestName", f"string:{NAME}", "uint32:4")
        assert done.returncode == 0 or "AccessDenied" in done.stderr, done.stderr
        return done.returncode == 0


@pytest.fixture
def bus() -> Iterator[Bus]:
    if os.geteuid() != 0:
        pytest.skip("a call as another user needs root")
    need(**{"dbus-daemon": "dbus", "dbus-send": "dbus", "rauc": "rauc", "setpriv": "util-linux"})
    # Short, and open to nobody: pytest's own folders are neither.
    folder = Path(tempfile.mkdtemp(prefix="homed-policy-"))
    folder.chmod(0o755)
    yield Bus(folder)
    shutil.rmtree(folder)


def test_rauc_s_own_policy_lets_anybody_call(bus: Bus) -> None:
    shutil.copy(program("rauc-service", PACKAGED), bus.folder / "usr")

    with bus.with_rauc():
        assert bus.reaches("nobody")


@pytest.mark.parametrize("place", ["usr", "etc"])
def test_ours_in_its_place_lets_root_alone_call_and_own(bus: Bus, place: str) -> None:
    shutil.copy(OURS, bus.folder / place)

    with bus.with_rauc():
        assert bus.reaches("root")
        assert not bus.reaches("nobody")
        # Not by its other name either.
        assert not bus.reaches("nobody", bus.owner())
        assert not bus.owns("nobody")
        assert bus.owns("root")


def test_beside_rauc_s_own_the_last_that_is_read_wins(bus: Bus) -> None:
    # Why it has to take the other's place: added, it holds only where it happens to be read later.
    packaged = program("rauc-service", PACKAGED)
    for ours, theirs, open_to_all in (("etc", "usr", False), ("usr", "etc", True)):
        for folder in ("usr", "etc"):
            (bus.folder / folder / f"{NAME}.conf").unlink(missing_ok=True)
        shutil.copy(OURS, bus.folder / ours)
        shutil.copy(packaged, bus.folder / theirs)

        with bus.with_rauc():
            assert bus.reaches("nobody") is open_to_all
