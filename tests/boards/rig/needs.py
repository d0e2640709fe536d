"""What this machine lacks for booting boards."""

import os
import shutil
from pathlib import Path
from typing import Final

_PROGRAMS: Final = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "systemctl": "systemd",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}


def why_no_boards() -> str | None:
    """The reason for which no board can be booted here, or None if one can."""
    if os.environ.get("BOARDS") == "0":
        return "boards are left out: BOARDS=0"
    if os.geteuid() != 0:
        return "boards need root"
    lacking = sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})
    if lacking:
        return f"boards need the package {', '.join(lacking)}"
    if " - cgroup2 " not in Path("/proc/self/mountinfo").read_text():
        return "boards need cgroup v2"
    return None
