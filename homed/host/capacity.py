"""What this board has for work to be placed on: read once, as it does not change while it runs."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

import psutil

_GIB = 1 << 30
# Of NVIDIA (desktop; Jetson's), and of any driver that offers rendering without a screen.
_GPUS = ("dev/nvidia0", "dev/nvhost-gpu", "dev/nvgpu/igpu0", "dev/dri/renderD128")


class Capacity(NamedTuple):
    """Memory and storage (of the state directory's filesystem) in GiB."""

    platform: str
    cpu_cores: int
    memory_gb: float
    storage_gb: float
    gpu: bool


def read(state: Path, root: Path = Path("/")) -> Capacity:
    disk = os.statvfs(state)
    return Capacity(
        platform=sys.platform,
        cpu_cores=os.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / _GIB, 1),
        storage_gb=round(disk.f_blocks * disk.f_frsize / _GIB, 1),
        gpu=any((root / path).exists() for path in _GPUS),
    )
