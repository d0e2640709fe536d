"""The origin of a request, and the check whether its connection may carry it."""

from typing import NamedTuple

from homed.errors import BusyError, HttpsRequiredError


class Origin(NamedTuple):
    """The origin of a request: the peer's address, and whether its listener is loopback only.

    `only` is the one path that its listener serves (the metrics port's); None for all. `control`: it came over the
    socket in the state directory, so from root on this board. `spare`: all connections were in use, so this one serves
    only health. `plain`: it came from another machine without TLS to a TLS port.
    """

    address: str
    trusted: bool
    only: str | None = None
    control: bool = False
    spare: bool = False
    plain: bool = False


def check_connection(origin: Origin, headers: dict[str, str], *, health: bool) -> None:
    """Refuse a request that its connection may not carry; `health`: the request is for the board's health."""
    if origin.plain:
        raise HttpsRequiredError("this port speaks TLS: use https:// in place of http://")
    if origin.spare and not health:
        headers["Retry-After"] = "1"
        raise BusyError(
            "all connections are in use (api.connections): try again in a moment",
            code="TOO_MANY_CONNECTIONS",
        )
