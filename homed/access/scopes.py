"""What a caller may do, and who a caller is."""

from enum import StrEnum
from typing import NamedTuple


class Scope(StrEnum):
    """Each scope holds the ones before it."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def allows(self, needed: "Scope") -> bool:
        return _RANKS[self] >= _RANKS[needed]


_RANKS = {Scope.READ: 0, Scope.OPERATE: 1, Scope.ADMIN: 2}


class Principal(NamedTuple):
    """A caller: `scope` None may only use what is open to all. `id` is what the audit log calls it."""

    id: str
    scope: Scope | None
    key_id: str | None = None
    by_token: bool = False


ANONYMOUS = Principal("anonymous", None)
LOCAL = Principal("local", Scope.ADMIN)
