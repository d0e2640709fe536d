"""What RAUC's words stand for: all its errors bear one name, and only the text tells them apart."""

import pytest

from homed.bus.rauc import UnknownMethodError, meaning
from homed.errors import (
    BundleError,
    HomedError,
    NoSpaceError,
    RaucUnavailableError,
    UpdateConflictError,
    UpdateError,
)

GIO = "org.gtk.GDBus.UnmappedGError.Quark._g_2dio_2derror_2dquark.Code30"

# Seen: 1.8 unless it is said otherwise; those of 1.13 and 1.15 are from RAUC's own texts.
TEXTS = [
    ("already processing a different method", "UPDATE_BUSY"),
    ("Already processing a different method", "UPDATE_BUSY"),
    (
        "Installation error: Compatible mismatch: Expected 'homed-test-board' but bundle manifest has 'another-board'",
        "UPDATE_INCOMPATIBLE",
    ),
    ("Installation error: Bundle rejected: Hook returned: not on a Monday", "UPDATE_REFUSED"),
    # 1.12 and later
    (
        "Installation error: Version mismatch: Expected at least '2.0' but bundle manifest has '1.0'",
        "UPDATE_OLDER",
    ),
    (
        "Installation error: Version mismatch: Expected at least '2.0' but bundle manifest has no version",
        "UPDATE_OLDER",
    ),
    ("signature verification failed: error:1700009E:CMS routines::verification failure", "UPDATE_SIGNATURE"),
    ("signature verification failed: Verify error: unable to get local issuer certificate", "UPDATE_SIGNATURE"),
    ("signature verification failed: Verify error: certificate has expired", "UPDATE_SIGNATURE"),
    ("signature verification failed: Verify error: self-signed certificate", "UPDATE_SIGNATURE"),
    ("Failed to read signature from bundle: Input/output error", "UPDATE_SIGNATURE"),
    ("Invalid bundle format: Signature size (10660168192787845567) exceeds bundle size", "UPDATE_BUNDLE"),
    ("Invalid bundle format: Signature size is 0", "UPDATE_BUNDLE"),
    ("Invalid bundle format: Bundle is not a regular file", "UPDATE_BUNDLE"),
    (
        "Invalid bundle format: Failed to open bundle for reading: Error opening file /nope.raucb: "
        "No such file or directory",
        "UPDATE_BUNDLE",
    ),
    ("Bundle format 'plain' not allowed", "UPDATE_BUNDLE"),
    ("Failed to load manifest: Key file does not have group “update”", "UPDATE_BUNDLE"),
    ("bundle payload is corrupted", "UPDATE_BUNDLE"),
    ("Check read from dm-verity device failed: Input/output error", "UPDATE_BUNDLE"),
    # 1.13
    ("Bundle size (100) is too small", "UPDATE_BUNDLE"),
    ("Failed to mount bundle: wrong fs type, bad superblock on /dev/loop0", "UPDATE_BUNDLE"),
    (
        "Installation error: Failed updating slot rootfs.1: Failed splicing data: Error writing to file descriptor: "
        "No space left on device",
        "UPDATE_TOO_LARGE",
    ),
    # 1.10 and later
    (
        "Installation error: Failed updating slot rootfs.1: Slot (16777216 bytes) is too small for image "
        "(17825792 bytes).",
        "UPDATE_TOO_LARGE",
    ),
    ("Failed to create data directory '/data': No space left on device", "UPDATE_NO_SPACE"),
    (
        "Failed to extract manifest from bundle: Failed to run unsquashfs: Failed to execute child process “unsquashfs”"
        " (No such file or directory)",
        "UPDATE_ERROR",
    ),
    ("No slot with class rootfs and name rootfs.7 found", "UPDATE_ERROR"),
    ("unknown subcommand fine", "UPDATE_ERROR"),
    ("Unsupported key: no-such", "UPDATE_ERROR"),
    ("Did not find booted slot (matching 'C')", "UPDATE_ERROR"),
    ("Failed marking slot rootfs.1 non-bootable: Failed to run fw_setenv: No such file", "UPDATE_ERROR"),
    ("rauc info error", "UPDATE_ERROR"),
    ("", "UPDATE_ERROR"),
]
KINDS: dict[str, type[HomedError]] = {
    "UPDATE_BUSY": UpdateConflictError, "UPDATE_NO_SPACE": NoSpaceError, "UPDATE_ERROR": UpdateError,
}  # fmt: skip


@pytest.mark.parametrize(("text", "code"), TEXTS)
def test_raucs_words_have_a_meaning_and_are_kept(text: str, code: str) -> None:
    for name in (GIO, ""):
        error = meaning(name, text)
        assert (type(error), error.code) == (KINDS.get(code, BundleError), code)
        assert text in error.message
        assert error.details == {"rauc": text}


@pytest.mark.parametrize(
    "name",
    [
        "org.freedesktop.DBus.Error.ServiceUnknown",
        "org.freedesktop.DBus.Error.NameHasNoOwner",
        "org.freedesktop.DBus.Error.NoReply",
        "org.freedesktop.DBus.Error.TimedOut",
        "org.freedesktop.DBus.Error.Disconnected",
        "org.freedesktop.DBus.Error.AccessDenied",
        "org.freedesktop.DBus.Error.Spawn.ChildExited",
        "org.freedesktop.DBus.Error.Spawn.ServiceNotFound",
        "org.freedesktop.systemd1.UnitMasked",
        "org.freedesktop.systemd1.NoSuchUnit",
    ],
)
def test_a_rauc_that_is_not_there_is_told_as_such(name: str) -> None:
    error = meaning(name, "The name de.pengutronix.rauc was not provided by any .service files")
    assert (type(error), error.code, error.status) == (RaucUnavailableError, "RAUC_UNAVAILABLE", 503)


def test_a_rauc_that_is_too_old_for_a_call_is_told_as_such() -> None:
    error = meaning("org.freedesktop.DBus.Error.UnknownMethod", "No such method “InspectBundle”")
    assert type(error) is UnknownMethodError


def test_words_that_are_wrong_for_rauc_are_not_its_absence() -> None:
    error = meaning("org.freedesktop.DBus.Error.InvalidArgs", "Type of message, “(s)”, does not match expected type")
    assert type(error) is UpdateError
