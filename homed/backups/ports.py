"""What backups need of the rest of the board: given by the composition root, so that a test can give its own."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from homed.errors import FieldError
from homed.model import Capture, Hook, Mode, Source

__all__ = ["Capture", "Hook", "Mode", "Services", "Source"]


class Services(Protocol):
    """The services of this board, as backups need them. HomedError where something cannot be done."""

    async def captures(self) -> Sequence[Capture]:
        """Every service (none that is being deleted), with its data."""
        ...

    def records(self) -> Mapping[str, bytes]:
        """Each service as it is stored (JSON), by name; none that is being deleted."""
        ...

    def order(self, records: Mapping[str, bytes]) -> Sequence[str]:
        """The names of these, what is depended on first."""
        ...

    def problems(self, records: Mapping[str, bytes], *, alone: bool = False) -> list[FieldError]:
        """Why these could not be services of this board: not readable, not allowed; and, unless `alone`, what they
        depend on is missing.
        """
        ...

    def paths(self, records: Mapping[str, bytes]) -> set[str]:
        """The paths of the board that these services mount; what cannot be read mounts none."""
        ...

    async def pause(self, names: Sequence[str]) -> None:
        """Freeze their containers. Those that do not run are left."""
        ...

    async def resume(self, names: Sequence[str]) -> None:
        """Let them go on: only what `pause` froze, also before a restart of homed."""
        ...

    async def hold(self, names: Sequence[str], why: str) -> None:
        """Stop them, those that depend on others first, and keep them so until `release`. Returns when all have."""
        ...

    def keep_held(self, names: Sequence[str], why: str) -> None:
        """Hold them from the start, before anything is started: where a restore was killed."""
        ...

    async def release(self, names: Sequence[str]) -> None: ...

    async def run_hook(self, name: str, hook: Hook) -> int | None:
        """Run a hook. Returns None where it ended well; the process's id on the board where it is past its deadline
        and still runs (`container` tells where); BackupError (BACKUP_HOOK_FAILED) with its output where it failed.
        """
        ...

    def container(self, name: str) -> str | None:
        """The full id of the service's container that is up."""
        ...

    async def strangers(self, paths: Sequence[str], services: Sequence[str]) -> list[str]:
        """Names of containers that run, mount one of these paths (or something in it), and are of none of these."""
        ...

    async def find_volume(self, name: str) -> str | None:
        """The path of a volume's data; None where there is no such volume."""
        ...

    async def make_volume(self, name: str) -> str:
        """The path of a volume's data, which is made where it is not there."""
        ...

    async def put(self, records: Mapping[str, bytes]) -> None:
        """Make the services as these say: changed, or created. Done twice it does nothing more."""
        ...

    async def settle(self, names: Sequence[str], timeout: float) -> list[str]:
        """Wait until these run, as far as they should; returns those that do not by then, with why."""
        ...
