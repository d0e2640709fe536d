"""The root file system that all boards share: Debian 13, built once."""

from pathlib import Path
from typing import Final

from .cache import cached, key
from .process import command, contained

VERSION: Final = "1"
"""Raise it when what this module writes into the root changes: the root is then built anew."""

SUITE: Final = "trixie"

PYTHON: Final = "3.13"
"""The version of Python in that suite: wheels for the boards are for it."""

PACKAGES: Final = (
    "busybox-static",
    "ca-certificates",
    "curl",
    "dbus",
    "docker-cli",
    "docker.io",
    "iproute2",
    "iptables",
    "jq",
    "less",
    "procps",
    "python3",
    "python3-systemd",
    "python3-venv",
    "systemd",
    "systemd-sysv",
)

EXTRA: Final[tuple[str, ...]] = ("rauc", "rauc-service", "restic", "squashfs-tools")
"""Packages that a part of homed needs on its boards: add to it, and the root is built anew."""

ENABLED: Final = ("board-network.service", "docker.service")

# A board in a test has no screen to log in at, does nothing by the clock but what the test is about, and runs
# on the kernel of the machine, into which it has no modules to load. RAUC would fail without slots: see ../updating.py.
MASKED: Final = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "getty.target",
    "rauc.service",
    "systemd-firstboot.service",
    "systemd-modules-load.service",
)

# Not networkd: where /sys is writable, as CRIU needs it, it waits for a udev that no container has.
_NETWORK: Final = """\
[Unit]
Description=The address of this board
DefaultDependencies=no
Wants=network.target
Before=network.target network-online.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=/etc/board-network
ExecStart=ip address replace ${ADDRESS} dev host0
ExecStart=ip link set host0 up

[Install]
WantedBy=multi-user.target network-online.target
"""

FILES: Final = {
    "etc/hostname": "board\n",
    # Empty, so that each board makes its own at its first boot and keeps it.
    "etc/machine-id": "",
    # No name server: looking up a name fails at once instead of after a timeout.
    "etc/resolv.conf": "",
    "etc/systemd/journald.conf.d/board.conf": (
        "[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nRateLimitBurst=0\nSystemMaxUse=256M\n"
    ),
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/systemd/system/board-network.service": _NETWORK,
}

# Nobody reads manuals on a board; without them and without fsync the build is faster.
_UNREAD = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")


def board_root() -> Path:
    """The directory of the shared root, built first if it is not in the cache (about half a minute)."""
    recipe = (VERSION, SUITE, *PACKAGES, *EXTRA, *ENABLED, *MASKED, repr(FILES))
    return cached(f"root-{key(*recipe)}", _build)


def _build(target: Path) -> None:
    contained(
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        f"--include={','.join((*PACKAGES, *EXTRA))}",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _UNREAD),
        SUITE,
        target,
        timeout=900,
    )
    for name, text in FILES.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    command("systemctl", f"--root={target}", "enable", *ENABLED)
    command("systemctl", f"--root={target}", "mask", *MASKED)
