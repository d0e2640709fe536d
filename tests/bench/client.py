"""`python -m tests.bench.client ADDRESS PATH SECONDS CONNECTIONS [HEADER…]`: ask as fast as the answers come.

ADDRESS is `host:port` or a Unix socket's path. One thread, raw sockets, kept alive, one request at a time on each:
it costs a tenth of what a server in Python does, and speaks to a Unix socket as well. Prints requests per second.
"""

import select
import socket
import sys
import time
from typing import Final

_WARM_UP: Final = 0.5
_STALLED: Final = 30.0


def main(address: str, path: str, seconds: str, connections: str, *headers: str) -> None:
    host = "docker" if address.startswith("/") else address
    head = "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", f"Host: {host}", *headers))
    print(measure(address, f"{head}\r\n".encode(), float(seconds), int(connections)))


def measure(address: str, request: bytes, seconds: float, connections: int) -> float:
    """Answers per second; RuntimeError where one is not a 200 or none comes."""
    sockets = {one.fileno(): one for one in (_connect(address) for _ in range(connections))}
    pending = dict.fromkeys(sockets, b"")
    answers, began = 0, 0.0
    with select.epoll() as poll:
        for number, one in sockets.items():
            poll.register(number, select.EPOLLIN)
            one.sendall(request)
        start = time.perf_counter()
        while (now := time.perf_counter()) - start < _WARM_UP + seconds:
            if not began and now - start >= _WARM_UP:
                answers, began = 0, now
            ready = poll.poll(_STALLED)
            if not ready:
                raise RuntimeError(f"no answer for {_STALLED:g} s")
            for number, _ in ready:
                one = sockets[number]
                chunk = one.recv(262_144)
                if not chunk:
                    raise RuntimeError("the server closed a connection")
                data = pending[number] + chunk if pending[number] else chunk
                if not _is_whole(data):
                    pending[number] = data
                    continue
                if data[9:12] != b"200":
                    raise RuntimeError(f"not a 200: {data[:200]!r}")
                pending[number] = b""
                answers += 1
                one.sendall(request)
        ended = time.perf_counter()
    for one in sockets.values():
        one.close()
    return answers / (ended - began)


def _is_whole(data: bytes) -> bool:
    """Whether an answer has all of its body: by its length, or by the last chunk."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    at = data.find(b"Content-Length: ", 0, end)
    if at < 0:
        return data.endswith(b"0\r\n\r\n")
    return len(data) >= end + 4 + int(data[at + 16 : data.find(b"\r\n", at)])


def _connect(address: str) -> socket.socket:
    if address.startswith("/"):
        one = socket.socket(socket.AF_UNIX)
        one.connect(address)
        return one
    host, _, port = address.rpartition(":")
    one = socket.create_connection((host, int(port)))
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


if __name__ == "__main__":
    main(*sys.argv[1:])
