"""The table `[containers]`: the supervision of services, and their access to the board."""

import re
from posixpath import normpath
from typing import Annotated

from msgspec import Meta

from homed.config.section import Section
from homed.errors import FieldError, ValidationError

Seconds = Annotated[float, Meta(ge=0.1, le=86_400)]

DATA_ROOTS = ("/srv", "/data", "/mnt", "/media", "/home", "/var/lib/homed-data")
# Devices of one purpose. Not here: raw buses and memory (spidev, usb, uio, vfio, vcio, mem), input (hidraw, uinput),
# terminals of the board (console, tty1), the watchdog, disks.
DEVICES = (
    "/dev/ttyUSB*", "/dev/ttyACM*", "/dev/ttyAMA*", "/dev/ttyS*", "/dev/ttyTHS*", "/dev/ttymxc*", "/dev/ttySC*",
    "/dev/serial/by-id/*", "/dev/serial/by-path/*", "/dev/i2c-*", "/dev/gpiochip*", "/dev/video*", "/dev/media*",
    "/dev/v4l-subdev*", "/dev/v4l/by-id/*", "/dev/v4l/by-path/*", "/dev/snd/*", "/dev/snd/by-*/*", "/dev/dri/*",
    "/dev/dri/by-path/*", "/dev/mali*", "/dev/nvidia*", "/dev/nvhost-*", "/dev/nvmap", "/dev/nvgpu/*", "/dev/apex_*",
    "/dev/hailo*", "/dev/net/tun", "/dev/hwrng", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom",
)  # fmt: skip
# Docker Engine's own set, and locking memory, which the memory limit bounds.
CAPABILITIES = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "IPC_LOCK", "KILL", "MKNOD", "NET_BIND_SERVICE",
    "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip


class Containers(Section, frozen=True):
    """The supervision of services. `data_roots`, `devices`, `capabilities` and the `allow_` fields limit a container's
    access to the board: see SECURITY.md.
    """

    engine: str = "unix:///var/run/docker.sock"
    data_roots: tuple[str, ...] = DATA_ROOTS
    devices: tuple[str, ...] = DEVICES
    capabilities: tuple[str, ...] = CAPABILITIES
    allow_privileged: bool = False
    allow_host_root: bool = False
    allow_docker_socket: bool = False
    settle_time: Seconds = 10
    start_timeout: Seconds = 180
    backoff_first: Seconds = 1
    backoff_limit: Seconds = 300
    followers: Annotated[int, Meta(ge=1, le=4096)] = 64

    def __post_init__(self) -> None:
        errors = []
        if not self.engine.startswith(("unix:///", "tcp://")):
            errors.append(FieldError("engine", "must be unix:///path or tcp://host:port"))
        for i, root in enumerate(self.data_roots):
            if not root.startswith("/") or ".." in root.split("/") or "\0" in root:
                errors.append(FieldError(f"data_roots[{i}]", "must be an absolute path without '..'"))
            elif normpath(f"/{root.lstrip('/')}") == "/":
                errors.append(FieldError(f"data_roots[{i}]", "must not be /: set allow_host_root instead"))
        for i, pattern in enumerate(self.devices):
            if not re.fullmatch(r"/dev/[^\x00]+", pattern) or ".." in pattern.split("/"):
                errors.append(FieldError(f"devices[{i}]", "must be like /dev/ttyUSB0 or /dev/ttyUSB*"))
        for i, name in enumerate(self.capabilities):
            if not re.fullmatch("[A-Z][A-Z0-9_]*", name) or name.startswith("CAP_"):
                errors.append(FieldError(f"capabilities[{i}]", "must be like NET_ADMIN, without CAP_"))
        if errors:
            raise ValidationError(errors)
