"""RAUC's service over D-Bus (`de.pengutronix.rauc.Installer`), from 1.8 to the newest.

https://rauc.readthedocs.io/en/latest/reference.html#d-bus-api and what was found beyond it: every error bears one
D-Bus name and only its text differs; `Operation` is no busy flag; there is no Cancel.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from homed.bus.connection import Bus, CallError, Peer, Signal
from homed.bus.values import variants
from homed.errors import (
    BundleError,
    BusUnavailableError,
    NoSpaceError,
    RaucUnavailableError,
    UpdateConflictError,
    UpdateError,
)

T = TypeVar("T")
NAME = "de.pengutronix.rauc"
_PEER = Peer(NAME, "/", "de.pengutronix.rauc.Installer")
# Verifying a plain bundle reads all of it, on a slow card.
_INSPECTION = 300.0
# What the bus and systemd say where the service is not installed, masked, does not start, or hangs; not RAUC's words.
_ABSENT = re.compile(r"org\.freedesktop\.(DBus\.Error\.(?!UnknownMethod|InvalidArgs)|systemd1\.)")


class Properties(NamedTuple):
    """What the service tells of itself. `boot_slot` is a bootname; `progress` is (percentage, message)."""

    operation: str
    last_error: str
    compatible: str
    variant: str
    boot_slot: str
    progress: tuple[int, str]


class Listener(NamedTuple):
    """Who is told: of the service coming (True) or going, of progress, of an installation's end (0 is success)."""

    on_owner: Callable[[bool], None]
    on_progress: Callable[[int, str], None]
    on_operation: Callable[[str], None]
    on_completed: Callable[[int], None]


class Installer:
    """Typed calls. Each raises RaucUnavailableError where RAUC is not there, else what `meaning` makes of its words."""

    def __init__(self, bus: Bus):
        self._bus = bus

    def listen(self, listener: Listener) -> None:
        """To be said before the bus runs."""

        def on_signal(signal: Signal) -> None:
            if signal.member == "Completed" and signal.interface == _PEER.interface:
                listener.on_completed(int(signal.body[0]))
            elif signal.member == "PropertiesChanged" and signal.body[0] == _PEER.interface:
                changed = signal.body[1]
                if "Progress" in changed:
                    percentage, message, _depth = changed["Progress"]
                    listener.on_progress(int(percentage), str(message))
                if "Operation" in changed:
                    listener.on_operation(str(changed["Operation"]))

        self._bus.watch(NAME, on_signal, listener.on_owner)

    @property
    def is_there(self) -> bool:
        """Whether the service runs; one that the bus starts when it is called may be there all the same."""
        return self._bus.has(NAME)

    async def properties(self) -> Properties:
        found = await self._guard(self._bus.properties(_PEER))
        percentage, message, _depth = found.get("Progress") or (0, "", 0)
        return Properties(
            operation=str(found.get("Operation", "")),
            last_error=str(found.get("LastError", "")),
            compatible=str(found.get("Compatible", "")),
            variant=str(found.get("Variant", "")),
            boot_slot=str(found.get("BootSlot", "")),
            progress=(int(percentage), str(message)),
        )

    async def slots(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Every slot's name and RAUC's words about it, in RAUC's order."""
        (found,) = await self._call("GetSlotStatus")
        return [(str(name), dict(status)) for name, status in found]

    async def primary(self) -> str | None:
        """The name of the slot that the bootloader would take next; None where it cannot tell."""
        try:
            (name,) = await self._call("GetPrimary")
        except UpdateConflictError:
            raise
        except RaucUnavailableError:
            raise
        except UpdateError:
            # As the `noop` bootloader does.
            return None
        return str(name) or None

    async def install(self, path: str, options: Mapping[str, object]) -> None:
        """Begin an installation; its end comes by `on_completed`."""
        await self._call("InstallBundle", "sa{sv}", path, variants(dict(options)))

    async def inspect(self, path: str) -> Mapping[str, Any] | None:
        """What a bundle holds, once its signature is verified; None where this RAUC is older than 1.9."""
        try:
            (found,) = await self._call("InspectBundle", "sa{sv}", path, {}, deadline=_INSPECTION)
        except UnknownMethodError:
            return None
        return dict(found)

    async def info(self, path: str) -> tuple[str, str]:
        """A bundle's (compatible, version), once its signature is verified."""
        compatible, version = await self._call("Info", "s", path, deadline=_INSPECTION)
        return str(compatible), str(version)

    async def mark(self, state: str, slot: str) -> tuple[str, str]:
        """`good`, `bad` or `active`; `booted`, `other` or a slot's name. (the slot's name, RAUC's words)."""
        name, message = await self._call("Mark", "ss", state, slot, deadline=30)
        return str(name), str(message)

    async def _call(self, member: str, signature: str = "", *body: object, deadline: float = 15) -> Sequence[Any]:
        return await self._guard(self._bus.call(_PEER, member, signature, *body, deadline=deadline))

    async def _guard(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except CallError as error:
            raise meaning(error.name, error.message) from error
        except BusUnavailableError as error:
            raise RaucUnavailableError(f"RAUC cannot be asked: {error.message}") from error


class UnknownMethodError(UpdateError):
    """This RAUC is too old for the call."""


# In order: the first that fits is taken. RAUC's texts, of 1.8 to 1.15.
_MEANINGS: Sequence[tuple[str, type[UpdateError], str]] = (
    # InstallBundle says it with a capital, the others without.
    (r"[Aa]lready processing", UpdateConflictError, "UPDATE_BUSY"),
    # The board lacks squashfs-tools, which RAUC needs to look into a plain bundle: the bundle is not to blame.
    (r"Failed to run unsquashfs", UpdateError, "UPDATE_ERROR"),
    (r"Compatible mismatch|[Ii]ncompatible|does not match.*compatible", BundleError, "UPDATE_INCOMPATIBLE"),
    (r"Bundle rejected|rejected by hook|install-check", BundleError, "UPDATE_REFUSED"),
    (r"[Vv]ersion (limit|mismatch)|older than|min-bundle-version", BundleError, "UPDATE_OLDER"),
    (r"signature|[Cc]ertificate|self.signed|issuer|CMS|[Vv]erif", BundleError, "UPDATE_SIGNATURE"),
    (
        r"too large|larger than|does not fit|Slot .*too small|updating slot .*No space left",
        BundleError,
        "UPDATE_TOO_LARGE",
    ),
    (r"[Nn]o space left|not enough (free )?space|maximum bundle", NoSpaceError, "UPDATE_NO_SPACE"),
    (
        r"squashfs|superblock|[Ii]nvalid bundle|manifest|[Uu]nsupported bundle|format|checksum|digest|truncated"
        r"|too small|identifier|[Ff]ailed to (open|load) bundle|payload is corrupted|dm-verity device failed",
        BundleError,
        "UPDATE_BUNDLE",
    ),
)


def meaning(name: str, text: str) -> UpdateError:
    """The error that RAUC's words stand for; `details.rauc` holds them."""
    if _ABSENT.match(name):
        return RaucUnavailableError(f"RAUC cannot be asked: {text}", details={"rauc": text})
    if name == "org.freedesktop.DBus.Error.UnknownMethod":
        return UnknownMethodError(text)
    for pattern, kind, code in _MEANINGS:
        if re.search(pattern, text):
            return kind(_plain(text), code=code, details={"rauc": text})
    return UpdateError(_plain(text), details={"rauc": text})


def _plain(text: str) -> str:
    """RAUC's last words of a chain are the reason; all of it stands in the details."""
    return f"RAUC: {text}"
