"""A registry of images: Debian's docker-registry as a process, with or without accounts, and a slow way to it."""

import ctypes
import io
import os
import secrets
import socket
import subprocess
import tarfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.boards.rig.process import spawn
from tests.support.engine import IMAGE, DockerEngine
from tests.support.homed import free_port
from tests.support.tools import program
from tests.support.wait import until


class Registry:
    """Serves at `address` (`host:port`). `account` is a (name, password) that it asks for."""

    def __init__(self, folder: Path, host: str, account: tuple[str, str] | None = None):
        self._folder = folder
        self._account = account
        self.address = f"{host}:{free_port(host)}"
        self._process: subprocess.Popen[bytes] | None = None

    def push(self, engine: DockerEngine, name: str, *, padding: int = 0) -> str:
        """Push the tests' image, with `padding` random bytes as a layer of its own; its reference."""
        reference = f"{self.address}/{name}"
        repository, _, tag = reference.rpartition(":")
        if padding:
            _padded(engine, reference, padding)
        else:
            engine.client.images.get(IMAGE).tag(repository, tag)
        auth = None
        if self._account is not None:
            auth = {"username": self._account[0], "password": self._account[1]}
        for message in engine.client.api.push(repository, tag, stream=True, decode=True, auth_config=auth):
            assert "error" not in message, message
        engine.client.images.remove(reference, force=True)
        return reference

    def __enter__(self) -> Self:
        binary = program("docker-registry", "usr/bin/docker-registry")
        config = self._folder / "registry.yml"
        auth = ""
        if self._account is not None:
            passwords = self._folder / "htpasswd"
            passwords.write_text(_htpasswd(*self._account))
            auth = f"auth:\n  htpasswd:\n    realm: tests\n    path: {passwords}\n"
        config.write_text(
            f"version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {self._folder / 'data'}\n"
            f"http:\n  addr: {self.address}\n  secret: {secrets.token_hex(8)}\n{auth}"
        )
        with (self._folder / "registry.log").open("ab") as log:
            self._process = spawn([binary, "serve", config], dict(os.environ), log)
        host, _, port = self.address.partition(":")
        until("the registry", lambda: _listens(host, int(port)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class SlowWay:
    """Forwards to `target` at `rate` bytes a second in each connection; `address` stands for it."""

    def __init__(self, target: str, rate: int):
        host, _, port = target.partition(":")
        self._target = host, int(port)
        self._rate = rate
        self._server = socket.create_server((host, 0))
        self.address = f"{host}:{self._server.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._ended = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._server.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            self._open += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(16_384):
                sink.sendall(data)
                time.sleep(len(data) / self._rate)
            sink.shutdown(socket.SHUT_WR)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _padded(engine: DockerEngine, reference: str, size: int) -> None:
    """The tests' image with a file of random bytes over it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("padding")
        entry.size = size
        archive.addfile(entry, io.BytesIO(os.urandom(size)))
    holder = engine.client.containers.create(IMAGE, ["true"])
    try:
        holder.put_archive("/", packed.getvalue())
        repository, _, tag = reference.rpartition(":")
        holder.commit(repository, tag)
    finally:
        holder.remove(force=True)


def _htpasswd(name: str, password: str) -> str:
    """A line of htpasswd: the registry takes bcrypt only, which the C library's companion has."""
    try:
        library = ctypes.CDLL("libcrypt.so.1")
    except OSError as error:
        pytest.skip(f"no bcrypt for the registry's accounts: {error}")
    library.crypt.restype = ctypes.c_char_p
    salt = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(21))
    hashed: bytes | None = library.crypt(password.encode(), f"$2b$05${salt}e".encode())
    if hashed is None or not hashed.startswith(b"$2b$"):
        pytest.skip("no bcrypt for the registry's accounts: libcrypt lacks it")
    return f"{name}:{hashed.decode()}\n"
