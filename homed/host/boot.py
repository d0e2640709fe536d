"""Which boot this is, and how long it has lasted."""

import time
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The kernel's name for this boot, 32 hexadecimal digits as journalctl writes it; empty where there is none."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip().replace("-", "")
    except OSError:
        return ""


def boot_clock() -> float:
    """Seconds since the boot, those of a suspended board too: what /proc/uptime says."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
