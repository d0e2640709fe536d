"""What is kept of a machine on which something failed."""

import shutil
from contextlib import suppress
from pathlib import Path
from time import strftime
from typing import Final

from tests.boards.rig.cache import cache
from tests.boards.rig.process import RigError

from .guest import Guest

_KEPT: Final = 10

_ASKED: Final = {
    "journal": "journalctl --no-pager --output=short-precise --lines=4000",
    "rauc": "rauc status --detailed; cat /data/rauc/*; cat /boot/efi/EFI/homed/grubenv",
    "updates": 'cd /var/lib/homed/updates; for f in */update.json; do echo "== $f"; cat $f; echo; done; ls -lR',
}


def keep(guest: Guest) -> Path:
    """Copy the machine's console, and what can still be asked of it, to the cache; the path there."""
    kept = cache() / "vm-failed" / f"{strftime('%Y%m%d-%H%M%S')}-{guest.machine.name}"
    kept.mkdir(parents=True)
    for path in (guest.machine.console, guest.machine.log):
        with suppress(FileNotFoundError):
            shutil.copyfile(path, kept / path.name)
    if guest.machine.on:
        for name, script in _ASKED.items():
            with suppress(OSError, RigError):
                (kept / name).write_text(guest.shell(script, check=False))
    for older in sorted(kept.parent.iterdir())[:-_KEPT]:
        shutil.rmtree(older)
    return kept
