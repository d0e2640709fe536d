"""An update as it is kept on disk, and the table of what may follow on what.

The file is read by the older homed after a rollback: fields are added, with defaults, and never renamed.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

from homed.errors import UpdateError


class State(StrEnum):
    DOWNLOADING = "downloading"
    VERIFIED = "verified"
    BACKING_UP_STATE = "backing_up_state"
    INSTALLING = "installing"
    INSTALLED = "installed"
    REBOOTING = "rebooting"
    JUDGING = "judging"
    # The verdict is bad; the board is on its way back.
    ROLLING_BACK = "rolling_back"
    GOOD = "good"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({State.GOOD, State.ROLLED_BACK, State.FAILED, State.CANCELLED})

# Up to here RAUC has not begun to write.
CANCELLABLE = frozenset({State.DOWNLOADING, State.VERIFIED, State.BACKING_UP_STATE})

# From here on a boot may be one into the new system.
COMMITTED = frozenset({State.INSTALLED, State.REBOOTING, State.JUDGING, State.ROLLING_BACK})

# From here on the guard must know of it: the power may go when RAUC has just finished, before that is written down.
GUARDED = COMMITTED | {State.INSTALLING}

TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.DOWNLOADING: frozenset({State.VERIFIED, State.FAILED, State.CANCELLED}),
    State.VERIFIED: frozenset({State.BACKING_UP_STATE, State.FAILED, State.CANCELLED}),
    State.BACKING_UP_STATE: frozenset({State.INSTALLING, State.FAILED, State.CANCELLED}),
    State.INSTALLING: frozenset({State.INSTALLED, State.FAILED}),
    State.INSTALLED: frozenset({State.REBOOTING, State.JUDGING, State.ROLLED_BACK, State.FAILED, State.CANCELLED}),
    State.REBOOTING: frozenset({State.JUDGING, State.ROLLED_BACK, State.FAILED, State.CANCELLED}),
    # Back to rebooting: power cuts used up the bootloader's attempts, and the new system is given another chance.
    State.JUDGING: frozenset({State.GOOD, State.ROLLING_BACK, State.REBOOTING, State.ROLLED_BACK, State.FAILED}),
    State.ROLLING_BACK: frozenset({State.ROLLED_BACK, State.FAILED}),
    State.GOOD: frozenset(),
    State.ROLLED_BACK: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


class Kind(StrEnum):
    """A rollback is an update to what the other slot holds already: no download, no installation."""

    INSTALL = "install"
    ROLLBACK = "rollback"


class Reboot(StrEnum):
    NOW = "now"
    NEVER = "never"
    WINDOW = "window"


class Source(msgspec.Struct, frozen=True):
    """One of them is set; the URL is as it was given, with its password."""

    path: str | None = None
    url: str | None = None


class Signer(msgspec.Struct, frozen=True):
    subject: str
    issuer: str
    not_after: datetime


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle says of itself. `sha256` is known where homed downloaded it or was given it; sizes in bytes."""

    version: str = ""
    compatible: str = ""
    description: str = ""
    build: str = ""
    format: str = ""
    size: int = 0
    sha256: str | None = None
    signers: tuple[Signer, ...] = ()


class Failure(msgspec.Struct, frozen=True):
    """Why an update ended as it did: homed's code and words, and RAUC's where it said any."""

    code: str
    message: str
    rauc: str | None = None


class Step(msgspec.Struct, frozen=True):
    state: State
    at: datetime


class Complaint(msgspec.Struct, frozen=True):
    """What is not as it was before the update."""

    probe: str
    reason: str


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """The trial of the new system in one boot. `until` is on the boot clock (seconds), which a reboot sets back."""

    boot_id: str
    started_at: datetime
    deadline_at: datetime
    until: float
    healthy_since: datetime | None = None
    waiting_on: tuple[Complaint, ...] = ()
    verdict: str | None = None


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """`required` are the probes that were healthy before it; `boot_id` is the boot that it was begun or last written
    in, before the new system. `called`: RAUC was told to install. `count_before` is how often the target was
    installed until then; `bundle_identity` tells whether the file still is the one that was verified. `boots` are
    the boots into the new system that homed has seen.
    """

    id: str
    kind: Kind
    state: State
    source: Source = Source()
    reboot: Reboot = Reboot.NEVER
    require_confirmation: bool = False
    confirmed: bool = False
    allow_downgrade: bool = False
    ignore_compatible: bool = False
    sha256: str | None = None
    bundle: Bundle | None = None
    bundle_path: str | None = None
    bundle_identity: str = ""
    fetched_sha256: str | None = None
    from_slot: str | None = None
    to_slot: str | None = None
    to_bootname: str | None = None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
    boot_id: str = ""
    called: bool = False
    count_before: int | None = None
    error_before: str = ""
    interruptions: int = 0
    required: tuple[str, ...] = ()
    judgement: Judgement | None = None
    boots: tuple[str, ...] = ()
    revivals: int = 0
    reboots: int = 0
    blind_reboots: int = 0
    failure: Failure | None = None
    steps: tuple[Step, ...] = ()
    has_journal: bool = False
    state_restored: bool = False

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def moved(update: Update, state: State, at: datetime, **changes: object) -> Update:
    """The update in its next state. UpdateError where the table has no such way."""
    if state is not update.state and state not in TRANSITIONS[update.state]:
        raise UpdateError(f"update {update.id} cannot go from {update.state} to {state}")
    steps = update.steps if state is update.state else (*update.steps, Step(state, at))
    finished = at if state in ENDED else None
    fields = {"state": state, "updated_at": at, "finished_at": finished, "steps": steps, **changes}
    return msgspec.structs.replace(update, **fields)
