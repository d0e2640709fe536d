"""The diagnosis of an unreachable Docker Engine after a failed call."""

import os
import socket

from homed.errors import EngineUnavailableError


def unreachable(address: str) -> EngineUnavailableError:
    """Return the error of a call that did not reach the engine at `address`, with the reason and what to do.

    It never blocks.
    """
    return EngineUnavailableError(f"Docker Engine cannot be reached at {address}{_reason(address)}")


def _reason(address: str) -> str:
    path = address.removeprefix("unix://")
    if path == address:
        return ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
        tried.setblocking(False)
        try:
            tried.connect(path)
        except FileNotFoundError:
            return ": there is no such socket; install Docker Engine, or start it (systemctl start docker)"
        except PermissionError:
            return (
                f": permission denied for user {os.geteuid()}; run homed as root, or add its user to the group docker"
            )
        except ConnectionRefusedError:
            return ": nothing listens there; start Docker Engine (systemctl start docker)"
        except BlockingIOError:
            return ": its queue of connections is full"
        except OSError as error:
            return f": {error.strerror or error}"
    return ""
