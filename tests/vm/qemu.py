"""A machine in QEMU that can lose its power. Emulated (TCG), so that it runs wherever the test does."""

import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.boards.rig.process import RigError

from . import tools
from .root import API_PORT, SHELL_PORT

_FIRMWARE: Final = "/usr/share/OVMF/OVMF_CODE_4M.fd"
_VARIABLES: Final = "/usr/share/OVMF/OVMF_VARS_4M.fd"
_MEMORY_MIB: Final = 768


class Machine:
    """Firmware, memory and a disk; what the disk holds outlives each `cut`.

    `base` is never written: what the machine writes goes to a file of its own over it. The disk's cache is not
    `unsafe`: what the guest had not flushed when QEMU is killed may be lost, as it may on a board.
    """

    def __init__(self, name: str, folder: Path, base: Path, media: Path) -> None:
        self.name: Final = name
        self.console: Final = folder / f"{name}.console"
        self.disk: Final = folder / f"{name}.qcow2"
        self._media: Final = media
        self.log: Final = folder / f"{name}.qemu"
        self._variables: Final = folder / f"{name}.variables"
        self._process: subprocess.Popen[bytes] | None = None
        self.shell_port = self.api_port = 0
        backing = tools.seen(base)
        tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", backing, self.disk)
        self._variables.write_bytes((tools.tools() / _VARIABLES.lstrip("/")).read_bytes())

    @property
    def on(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Switch the power on."""
        if self.on:
            raise RigError(f"{self.name} is on already")
        self.shell_port, self.api_port = _free_ports(2)
        with self.log.open("ab") as log:
            self._process = tools.start(*self._command(), output=log)

    def cut(self) -> None:
        """Take the power away, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
            self._process = None

    def check(self) -> None:
        """RigError if QEMU ended by itself."""
        if self._process is None or self._process.poll() is not None:
            said = self.log.read_text(errors="replace")[-1000:] if self.log.exists() else ""
            raise RigError(f"{self.name}: QEMU does not run: {said}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def _command(self) -> list[str | Path]:
        forwarded = ",".join(
            f"hostfwd=tcp:127.0.0.1:{ours}-:{its}"
            for ours, its in ((self.shell_port, SHELL_PORT), (self.api_port, API_PORT))
        )
        return [
            "qemu-system-x86_64",
            *("-name", self.name, "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"),
            *("-m", str(_MEMORY_MIB), "-smp", "2", "-display", "none", "-nodefaults"),
            *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_FIRMWARE}"),
            *("-drive", f"if=pflash,unit=1,format=raw,file={tools.seen(self._variables)}"),
            *("-drive", f"if=virtio,format=qcow2,cache=writeback,file={tools.seen(self.disk)}"),
            *("-drive", f"if=virtio,format=raw,readonly=on,file={tools.seen(self._media)}"),
            *("-chardev", f"file,id=console,append=on,path={tools.seen(self.console)}", "-serial", "chardev:console"),
            *("-device", "virtio-rng-pci"),
            *("-netdev", f"user,id=net,restrict=on,{forwarded}", "-device", "virtio-net-pci,netdev=net,romfile="),
        ]


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
