"""What somebody wants done: a backup to be made, or how much of one to be put back."""

import msgspec

from homed.backups.records import Type
from homed.backups.worker.messages import Unlock


class Wish(msgspec.Struct, frozen=True):
    """A backup to be made. `name` is the first part of its name; `schedule` is the one that asks for it."""

    name: str = "backup"
    type: Type = Type.FULL
    include_data: bool = True
    schedule: str | None = None


class RestoreWish(msgspec.Struct, frozen=True):
    """The extent of a restore, or (`dry_run`) of a restore plan.

    `services` and `volumes` are all, none, or those named: services by name; volumes by name, bind mounts by path.
    `keys` are the API keys of the board that was backed up, as far as this one does not have them. `file_settings`: the
    owner's file is restored, and so what can be set in that file only; else that stays as it is.
    """

    services: bool | tuple[str, ...] = True
    volumes: bool | tuple[str, ...] = True
    config: bool = True
    keys: bool = False
    file_settings: bool = False
    dry_run: bool = False
    unlock: Unlock | None = None
