"""Debian's sshd on a port of the loopback, with keys of its own; its log is kept."""

import contextlib
import getpass
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.wait import until

_DEADLINE = 30


ACCOUNT, PASSWORD = "homed-guest", "correct horse"


@dataclass(frozen=True)
class Account:
    """A user that this sshd alone knows."""

    name: str
    number: int
    shell: str = "/bin/sh"
    home: str = "/tmp"


_GUEST = Account(ACCOUNT, 64123)


@dataclass(frozen=True)
class Sshd:
    """`public` is the server's key; `key` is one that may log in as `user`."""

    port: int
    user: str
    public: str
    key: str
    log: Path
    pid: int

    @property
    def logins(self) -> int:
        return len(re.findall("Accepted [a-z-]+ for ", self.log.read_text()))

    def kill_sessions(self, *, listener: bool = False) -> None:
        """As a host that fails: whoever is logged in has no sshd any more, and nobody gets in where the `listener` is
        killed too. What they run goes on.
        """
        main = psutil.Process(self.pid)
        theirs = [process for process in main.children(recursive=True) if process.name() == "sshd"]
        for process in ([main] if listener else []) + theirs:
            process.kill()

    def known_hosts(self, port: int) -> str:
        """As a port of the loopback knows it: its own, or that of a proxy before it."""
        return f"[127.0.0.1]:{port} {self.public}\n"


def keypair(folder: Path, name: str) -> tuple[str, str]:
    """An Ed25519 pair in `folder`: the private key's text, and the public one's."""
    path = folder / name
    _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)])
    return path.read_text(), path.with_suffix(".pub").read_text().strip()


@contextlib.contextmanager
def sshd(
    folder: Path, *, shell: bool = True, passwords: bool = False, port: int = 0, lines: str = "",
    accounts: Sequence["Account"] = (),
) -> Iterator[Sshd]:  # fmt: skip
    """Without a `shell` it serves SFTP alone, as storage that is rented does. With `passwords` it knows an account more
    than the machine, ACCOUNT with PASSWORD; and `accounts`, which log in by the key. `lines` go before all others of
    its configuration.
    """
    _, public = keypair(folder, "host")
    key, authorized = keypair(folder, "client")
    (folder / "authorized").write_text(authorized + "\n")
    port = port or _free_port()
    config, log = folder / "config", folder / "log"
    more = f"{lines}\n" + ("PasswordAuthentication yes\n" if passwords else "")
    config.write_text(more + _config(folder, port) + ("" if shell else "ForceCommand internal-sftp\n"))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    command = [_program(), "-D", "-e", "-f", str(config)]
    with log.open("wb") as out:
        known = [*([_GUEST] if passwords else []), *accounts]
        process = subprocess.Popen([*_with_accounts(folder, known), *command], stdout=out, stderr=out)
    try:
        until("sshd's port", lambda: _listens(port, process, log), deadline=_DEADLINE)
        yield Sshd(port, getpass.getuser(), public, key, log, process.pid)
    finally:
        process.terminate()
        process.wait(_DEADLINE)


def _with_accounts(folder: Path, accounts: Sequence["Account"]) -> list[str]:
    """What a command begins with to see accounts that the machine has not: in a mount namespace of its own."""
    if not accounts:
        return []
    if os.geteuid() != 0:
        pytest.skip("an account of its own needs root")
    crypted = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=PASSWORD, check=True, capture_output=True, text=True
    ).stdout.strip()
    passwd = "".join(f"{one.name}:x:{one.number}:65534::{one.home}:{one.shell}\n" for one in accounts)
    shadow = "".join(f"{one.name}:{crypted}:19000:0:99999:7:::\n" for one in accounts)
    for name, lines in (("passwd", passwd), ("shadow", shadow)):
        (folder / name).write_text(Path("/etc", name).read_text() + lines)
        (folder / name).chmod(0o644 if name == "passwd" else 0o600)
    binds = "; ".join(f"mount --bind '{folder}/{name}' /etc/{name}" for name in ("passwd", "shadow"))
    return ["unshare", "--mount", "sh", "-ec", f'{binds}; exec "$@"', "sh"]


def _config(folder: Path, port: int) -> str:
    lines = [
        f"ListenAddress 127.0.0.1:{port}",
        f"HostKey {folder}/host",
        f"AuthorizedKeysFile {folder}/authorized",
        *("StrictModes no", "UsePAM no", "PermitRootLogin yes", "PasswordAuthentication no", "PidFile none"),
        *("LogLevel VERBOSE", "MaxStartups 100", "Subsystem sftp internal-sftp"),
    ]
    return "\n".join(lines) + "\n"


def _program() -> str:
    """sshd wants to be called by its whole path; it needs a user of its own, so unpacking its package does not do."""
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        pytest.skip("openssh-server is not installed")
    return found


def _listens(port: int, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_DEADLINE)
