"""Who may come over the loopback without a key: every user of the board, but those that jobs run as.

Else whoever may have a command run could have it ask this API for everything.
"""

import logging
import os
import pwd
from collections.abc import Callable, Iterable
from functools import cached_property

from homed.host import own_sockets, peers
from homed.host.peers import Address, Owner

log = logging.getLogger(__name__)
# systemd's range for users that it makes for a unit (DynamicUser=): "UIDs, GIDs on systemd Systems".
_DYNAMIC = range(61184, 65520)
_NOBODY = 65534


class Neighbours:
    """`users` names those as which jobs may run, by the configuration. `holds` tells of a socket, by its inode, whether
    homed itself has it open.
    """

    def __init__(self, users: Callable[[], Iterable[str]], holds: Callable[[int], bool] = own_sockets.holds):
        self._users = users
        self._holds = holds

    def is_a_job(self, client: Address, server: Address) -> bool:
        """Return whether the client of this connection is a job, or gone, or homed itself, which has no reason to call
        its own API, but makes requests for others.
        """
        owner = self._owner(client, server)
        if owner is None or is_of_a_job(owner.user, self._users()):
            return True
        return owner.user == os.geteuid() and self._holds(owner.inode)

    @cached_property
    def _owner(self) -> Callable[[Address, Address], Owner | None]:
        try:
            quick = peers.is_supported()
        except OSError:
            quick = False
        if not quick:
            log.info("This kernel has no sock_diag for TCP: whose a connection is, is read from /proc/net/tcp")
        return peers.owner if quick else peers.listed_owner


def is_of_a_job(user: int | None, names: Iterable[str]) -> bool:
    """homed's own user is none: what runs as that needs no API."""
    if user is None:
        return True
    if user == os.geteuid():
        return False
    return user in _DYNAMIC or user == _NOBODY or user in _numbers(names)


def _numbers(names: Iterable[str]) -> set[int]:
    found = set()
    for name in names:
        try:
            found.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    return found
