"""homed's updates on a board with two slots, driven as its owner drives them, and the bundles that the board takes."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from http.client import HTTPException
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final, Self

from tests.support.pki import Authority

from .homed import CONFIG, STATE, Answer, Homed
from .rig.cache import REPOSITORY, remove
from .rig.process import command, until
from .slots import BOOT_ID, COMPATIBLE, INTACT, RELEASE, Slots, release

HOLD_BEFORE: Final = "/run/hold-before-writing"
HOLD_AFTER: Final = "/run/hold-after-writing"
"""While one of these is there, an installation waits at that point."""

WELL: Final = "/run/well"
"""Where an owner's check is configured, it wants this; each boot begins without it."""

ENDED: Final = frozenset({"good", "rolled_back", "failed", "cancelled"})

SERVICE: Final = "work"
# The new system takes from it what it needs, where it says so.
_WORK: Final = "grep -q breaks=service /system/release && exit 1; trap exit TERM; sleep 1000000 & wait"

_CONFIG: Final = """\
[api]
host = "0.0.0.0"
[api.limits]
enabled = false
[containers]
settle_time = 0.1
[updates]
deadline = {deadline}
soak = {soak}
"""
_CHECK: Final = f"""\
[[updates.checks]]
name = "well"
command = ["/usr/bin/test", "-e", "{WELL}"]
"""

# nspawn lays a boot id of the board's own over the kernel's, and the /proc of homed's sandbox is one without it.
_DROP_IN: Final = f"""\
[Service]
BindReadOnlyPaths={BOOT_ID}:/proc/sys/kernel/random/boot_id
ExecStartPre=/bin/sh -c '! grep -q breaks=homed {RELEASE}'
"""

# A clock for the guard that its waiting moves on: what takes minutes on a board is over at once.
_CLOCK: Final = "/var/lib/board/clock"
_SLEEP: Final = f"""\
#!/bin/sh
IFS=. read -r now _ < {_CLOCK}/uptime
echo "$((now + $1)).00 0.00" > {_CLOCK}/uptime
"""
_GUARD: Final = "/etc/systemd/system/homed-update-guard"
_HURRIED: Final = f"""\
[Service]
Environment=GUARD_PROC={_CLOCK} GUARD_SLEEP={_CLOCK}/sleep
ReadWritePaths={_CLOCK}
"""
_EARLY: Final = """\
[Timer]
OnBootSec=
OnBootSec=2s
AccuracySec=100ms
"""

_MANIFEST: Final = f"""\
[update]
compatible={COMPATIBLE}
version={{version}}
[bundle]
format=plain
[hooks]
filename=hook
[image.rootfs]
filename=rootfs.img
hooks=pre-install;post-install
"""
_HOOK: Final = f"""\
#!/bin/sh
case $1 in
slot-pre-install) held={HOLD_BEFORE} ;;
slot-post-install) held={HOLD_AFTER} ;;
esac
[ ! -e "$held" ] || : > "$held.reached"
while [ -e "$held" ]; do sleep 0.05; done
"""


class Bundles:
    """Bundles that the boards take, made on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder / "bundles"
        self.folder.mkdir()
        self._authority: Final = Authority(folder / "pki", "The boards' CA")
        self._signer: Final = self._authority.signer("Release")

    @property
    def keyring(self) -> Path:
        return self._authority.certificate

    def make(self, version: str, breaks: str = "", size: int = 1 << 20) -> Path:
        """A signed bundle with an image of `size` bytes, of which the first say what it is; made once."""
        bundle = self.folder / f"{version}{breaks}.raucb"
        if bundle.exists():
            return bundle
        content = self.folder / f"{version}{breaks}"
        content.mkdir()
        (content / "manifest.raucm").write_text(_MANIFEST.format(version=version))
        (content / "hook").write_text(_HOOK)
        (content / "hook").chmod(0o755)
        (content / "rootfs.img").write_bytes(release(version, breaks).encode().ljust(size, b"\0"))
        signed_by = ("--cert", self._signer.certificate, "--key", self._signer.key, "--keyring", self.keyring)
        command("rauc", *signed_by, "bundle", content, bundle)
        return bundle


class Updates:
    """A board as delivered, again and again, with homed on it, a service that homed keeps, and slots."""

    def __init__(self, homed: Homed, slots: Slots, bundles: Bundles) -> None:
        self.homed: Final = homed
        self.board: Final = homed.board
        self.slots: Final = slots
        self.bundles: Final = bundles
        self._before = 0
        homed.unusual()
        self.board.write("/etc/systemd/system/homed.service.d/board.conf", _DROP_IN)
        self.board.run("systemctl", "daemon-reload")
        self.board.run("systemctl", "enable", "homed-update-guard.timer")
        self.board.push(REPOSITORY / "rauc", "/tmp/homed/rauc")
        self.board.run("sh", "-euc", f"cd /tmp/homed\n{policy_installation()}")
        homed.configure(_CONFIG.format(deadline=90, soak=0.5))
        homed.restart()
        self._until_ready()
        homed.create(SERVICE, command=["sh", "-c", _WORK], volumes=[f"{Path(RELEASE).parent}:/system:ro"])
        homed.wait_for(SERVICE)

    def deliver(self, *, deadline: float = 90, soak: float = 0.5, gated: bool = False) -> Self:
        """The board as it was delivered, whatever became of it; slot A is booted, and all is well.

        `gated`: an owner's check stands between a new system and a good verdict.
        """
        self.board.cut_power()
        self.slots.reset()
        disk = self.board.disk
        (disk / CONFIG[1:]).write_text(_CONFIG.format(deadline=deadline, soak=soak) + _CHECK * gated)
        for path in (f"{STATE}/updates", f"{_GUARD}.service.d", f"{_GUARD}.timer.d"):
            remove(disk / path[1:])
        self.board.start()
        self._before = len(self.slots.boots()) - 1
        self._until_ready()
        if gated:
            self.board.run("touch", WELL)
        self.homed.wait_for(SERVICE)
        # Who asks has RAUC started, and homed look again without a pause.
        until("RAUC to be there", lambda: self.status()["rauc"] == "available", timeout=60, every=0.5)
        until("the booted slot to be marked good", lambda: self.slots.bootloader() == INTACT, timeout=60)
        return self

    def hurry_guard(self) -> None:
        """From the next boot on, and until the board is delivered again, the guard waits for seconds, not minutes."""
        self.board.write(f"{_CLOCK}/uptime", "1.00 0.00\n")
        self.board.write(f"{_CLOCK}/sleep", _SLEEP, mode=0o755)
        self.board.run("mkdir", "-p", f"{_CLOCK}/sys/kernel/random")
        self.board.run("ln", "-sf", BOOT_ID, f"{_CLOCK}/sys/kernel/random/boot_id")
        self.board.write(f"{_GUARD}.service.d/hurried.conf", _HURRIED)
        self.board.write(f"{_GUARD}.timer.d/early.conf", _EARLY)

    def boots(self) -> list[str]:
        """What was booted since the board was delivered: the slot and what it says of itself."""
        return self.slots.boots()[self._before :]

    def put(self, bundle: Path) -> str:
        """Copy a bundle to the board; its path there."""
        path = f"/srv/{bundle.name}"
        self.board.push(bundle, path)
        return path

    @contextmanager
    def served(self, bundle: Path, address: str) -> Iterator[dict[str, str]]:
        """A web server on the machine has the bundle: what to ask homed for."""
        with ThreadingHTTPServer((address, 0), partial(_Quiet, directory=bundle.parent)) as server:
            thread = Thread(target=server.serve_forever)
            thread.start()
            try:
                url = f"http://{address}:{server.server_port}/{bundle.name}"
                yield {"bundle_url": url, "sha256": sha256(bundle.read_bytes()).hexdigest()}
            finally:
                server.shutdown()
                thread.join()

    def install(self, source: Path | Mapping[str, str], **options: Any) -> str:
        """Begin an update from a file of this machine, or from what `served` gave; its id."""
        given = {"bundle_path": self.put(source)} if isinstance(source, Path) else source
        answer = self.post("install", **given, **options)
        assert answer.status == 200 and answer.body["status"] == "installing", answer
        return str(answer.body["id"])

    def post(self, act: str, **body: Any) -> Answer:
        return self.homed.call("POST", f"/api/v1/update/{act}", body or None)

    def status(self) -> Mapping[str, Any]:
        answer = self.homed.call("GET", "/api/v1/update/status")
        assert answer.status == 200, answer
        return dict(answer.body)

    def get(self, identity: str) -> Mapping[str, Any]:
        answer = self.homed.call("GET", f"/api/v1/update/history/{identity}", timeout=5)
        assert answer.status == 200, answer
        return dict(answer.body)

    def slot(self, bootname: str) -> Mapping[str, Any]:
        """What homed says of a slot."""
        (slot,) = (slot for slot in self.status()["slots"] if slot["bootname"] == bootname)
        return dict(slot)

    def wait_for(self, identity: str, state: str, timeout: float = 90) -> Mapping[str, Any]:
        """Wait, through reboots, until an update is in a state; it must not end in another one."""
        return self._wait_for(identity, state, lambda update: True, timeout)

    def wait_for_judgement(self, identity: str, boots: int) -> Mapping[str, Any]:
        """Wait, through reboots, until an update is judged in its new system's boot of that number."""
        return self._wait_for(identity, "judging", lambda update: update["judgement"]["boots"] == boots, timeout=90)

    def _wait_for(
        self, identity: str, state: str, is_it: Callable[[Mapping[str, Any]], bool], timeout: float
    ) -> Mapping[str, Any]:
        seen: Mapping[str, Any] = {}

        def look() -> bool:
            nonlocal seen
            try:
                seen = self.get(identity)
            except (OSError, HTTPException):  # the board reboots
                return False
            assert seen["state"] == state or seen["state"] not in ENDED, seen
            return bool(seen["state"] == state and is_it(seen))

        until(f"update {identity} to be {state}", look, timeout, every=0.2)
        return seen

    def wait_for_service(self) -> None:
        """Wait, through a reboot, until the service runs."""
        self.board.wait_running()
        self._until_ready()
        self.homed.wait_for(SERVICE)

    def hold(self, point: str) -> None:
        self.board.run("touch", point)

    def wait_held(self, point: str) -> None:
        """Wait until an installation has come to the point where it is held, and forget that it was there."""
        arrived = ("rm", f"{point}.reached")
        until("the installation to be there", lambda: not self.board.run(*arrived, check=False).returncode, timeout=30)

    def release(self, point: str) -> None:
        self.board.run("rm", point)

    def kill(self, unit: str) -> None:
        """kill -9 for the process of a unit; what else is in it goes with it."""
        self.board.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit)

    def _until_ready(self) -> None:
        def ready() -> bool:
            try:
                return self.homed.call("GET", "/health/ready", timeout=5).status == 200
            except (OSError, HTTPException):
                return False

        until("homed to be ready", ready, timeout=60)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def policy_installation() -> str:
    """The commands of rauc/README.md that put homed's D-Bus policy in the place of RAUC's own, on Debian."""
    text = (REPOSITORY / "rauc" / "README.md").read_text()
    (commands,) = re.findall(r"^  ```\n(  dpkg-divert.*?)^  ```", text, re.M | re.S)
    return str(commands)


def way(update: Mapping[str, Any]) -> Sequence[str]:
    """The states that an update went through."""
    return [step["state"] for step in update["steps"]]
