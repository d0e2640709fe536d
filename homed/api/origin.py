"""Where a request comes from, and what may be answered on its connection."""

from typing import NamedTuple

from homed.errors import BusyError, HttpsRequiredError


class Origin(NamedTuple):
    """Where a request comes from: the peer's address, and whether it came by a listener that is loopback only.

    `only` is the one path that its listener serves (the metrics port's); None for all. `control`: it came by the socket
    in the state directory, so from root on this board. `spare`: all connections were taken, and only health is answered
    on this one. `plain`: it came without TLS to a port that has it, from another machine.
    """

    address: str
    trusted: bool
    only: str | None = None
    control: bool = False
    spare: bool = False
    plain: bool = False


def check_connection(origin: Origin, headers: dict[str, str], *, health: bool) -> None:
    """Refuse what may not be answered on this connection; `health`: the request is for the board's health."""
    if origin.plain:
        raise HttpsRequiredError("this port speaks TLS: use https:// in place of http://")
    if origin.spare and not health:
        headers["Retry-After"] = "1"
        raise BusyError(
            "all connections are taken and at work (api.connections): try again in a moment",
            code="TOO_MANY_CONNECTIONS",
        )
