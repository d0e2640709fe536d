"""The system in the slots: Debian 13 with a kernel, RAUC and homed, as the image of a slot."""

from pathlib import Path
from typing import Final

from tests.boards.rig.cache import cached, key
from tests.boards.rig.process import contained

from . import tools

SHELL_PORT: Final = 2222
API_PORT: Final = 8080

_PACKAGES: Final = (
    "ca-certificates",
    "dbus",
    "dosfstools",
    "e2fsprogs",
    "grub-common",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "linux-image-cloud-amd64",
    "python3",
    "python3-systemd",
    "python3-venv",
    "rauc",
    "rauc-service",
    "systemd",
    "systemd-sysv",
    "udev",
)

# What nobody does in a test, or does by the clock. A boot is a third shorter without it.
_MASKED: Final = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "grub-common.service",
    "ldconfig.service",
    "modprobe@configfs.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "proc-sys-fs-binfmt_misc.automount",
    "serial-getty@ttyS0.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-udev-load-credentials.service",
    "systemd-update-utmp.service",
)

_ENABLED: Final = ("board-network.service", "board-shell.socket")

_NETWORK: Final = """\
[Unit]
Description=The address of this board
DefaultDependencies=no
Wants=network.target
After=sys-subsystem-net-devices-eth0.device
BindsTo=sys-subsystem-net-devices-eth0.device
Before=network.target network-online.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip address replace 10.0.2.15/24 dev eth0
ExecStart=ip link set eth0 up
ExecStart=ip route replace default via 10.0.2.2

[Install]
WantedBy=multi-user.target network-online.target
"""

# Who connects is root: QEMU lets in only who is on the machine itself, and this board leads nowhere else.
_SHELL: Final = f"""\
[Unit]
Description=A shell for the test

[Socket]
ListenStream={SHELL_PORT}
Accept=yes
MaxConnections=16

[Install]
WantedBy=sockets.target
"""

_SHELLS: Final = """\
[Unit]
Description=A shell for the test

[Service]
ExecStart=/bin/sh -s
StandardInput=socket
StandardOutput=socket
StandardError=socket
"""

# As rauc/grub-efi/system.conf has it: what both slots share is on /data, and the boot counters are written at once.
_FSTAB: Final = """\
PARTLABEL=data /data ext4 defaults,noatime 0 2
/data/var /var none bind,x-systemd.requires-mounts-for=/data 0 0
LABEL=bundles /media ext4 ro,nofail,x-systemd.device-timeout=120s 0 0
PARTLABEL=efi /boot/efi vfat sync,noatime,umask=0077 0 0
"""

# One machine, whichever slot it runs from: the journal and the leases of both are in one place.
_MACHINE_ID: Final = "0123456789abcdef0123456789abcdef\n"

_FILES: Final = {
    "etc/hostname": "board\n",
    "etc/machine-id": _MACHINE_ID,
    "etc/resolv.conf": "",
    "etc/fstab": _FSTAB,
    "etc/systemd/journald.conf.d/board.conf": (
        "[Journal]\nStorage=persistent\nForwardToConsole=no\nRateLimitIntervalSec=0\nSystemMaxUse=64M\n"
    ),
    "etc/systemd/system.conf.d/board.conf": "[Manager]\nDefaultTimeoutStopSec=20s\n",
    "etc/systemd/network/10-eth0.link": "[Match]\nDriver=virtio_net\n[Link]\nName=eth0\n",
    "etc/systemd/system/board-network.service": _NETWORK,
    "etc/systemd/system/board-shell.socket": _SHELL,
    "etc/systemd/system/board-shell@.service": _SHELLS,
}

# A small initrd: with what else Debian puts into it, the firmware would read for seconds.
_INITRD: Final = (
    '--essential-hook=mkdir -p "$1/etc/initramfs-tools/conf.d"',
    '--essential-hook=printf "MODULES=list\\nCOMPRESS=lz4\\nFSTYPE=ext4\\n" >"$1/etc/initramfs-tools/conf.d/board"',
    '--essential-hook=printf "virtio_blk\\n" >"$1/etc/initramfs-tools/modules"',
    "--dpkgopt=force-confold",
)

_DROPPED: Final = ("/usr/lib/udev/hwdb.d/*", "/usr/lib/x86_64-linux-gnu/gconv/*", "/usr/share/zoneinfo/*")


def base() -> Path:
    """Debian with a kernel and RAUC, built first if it is not in the cache (about half a minute)."""
    recipe = (tools.SUITE, *_PACKAGES, *_INITRD, *_DROPPED, *_MASKED, *_ENABLED, repr(_FILES))
    return cached(f"vm-root-{key('1', *recipe)}", _build)


def _build(target: Path) -> None:
    dropped = (f"--dpkgopt=path-exclude={pattern}" for pattern in _DROPPED)
    tools.debian(target, _PACKAGES, *_INITRD, *dropped)
    for name, text in _FILES.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    contained("systemctl", f"--root={target}", "enable", *_ENABLED, timeout=60)
    contained("systemctl", f"--root={target}", "mask", *_MASKED, timeout=60)
