"""A TCP proxy between a client and a real server, which cuts or holds connections as a bad link does."""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator


class FaultyProxy:
    """Listens on `port` of the loopback. Of each connection's bytes from the client so many pass, then the fault comes.

    `cuts` and `holds`: so many connections in a row are cut, or held (nothing passes any more), after `passes` bytes
    from the client; those that follow are left alone. `rate` slows a connection to so many bytes a second.
    """

    def __init__(self, to: int):
        self._to = to
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]
        self.passes = 0
        self.cuts = 0
        self.holds = 0
        self.rate = 0
        self.passed = 0

    def accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        self._over.set()

    def _serve(self, client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            client,
            socket.create_connection(("127.0.0.1", self._to)) as server,
            selectors.DefaultSelector() as selector,
        ):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            self._pump(selector, client)

    def _pump(self, selector: selectors.BaseSelector, client: socket.socket) -> None:
        seen = 0
        while not self._over.is_set():
            for key, _ in selector.select(0.1):
                source = key.fileobj
                assert isinstance(source, socket.socket)
                data = source.recv(32 << 10)
                if not data:
                    return
                if source is client:
                    seen += len(data)
                    if self.cuts and seen > self.passes:
                        self.cuts -= 1
                        return
                    if self.holds and seen > self.passes:
                        self.holds -= 1
                        self._over.wait()
                        return
                    self.passed += len(data)
                    if self.rate:
                        self._over.wait(len(data) / self.rate)
                key.data.sendall(data)


@contextlib.contextmanager
def faulty_proxy(to: int) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(to)
    thread = threading.Thread(target=proxy.accept)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
