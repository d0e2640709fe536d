"""What a bundle holds and whether it fits: RAUC's answer made into values, and the signers out of its signature.

A bundle ends with its CMS signature and that signature's length, 64 bits, big endian
(https://rauc.readthedocs.io/en/latest/reference.html#bundle-formats).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509 import InvalidVersion

from homed.errors import BundleError
from homed.updates import versions
from homed.updates.records import Bundle, Signer
from homed.updates.slots import Facts, Slot

_LONGEST_SIGNATURE = 1 << 20
# The type of a CMS that is enveloped (RFC 5652), as `rauc encrypt` makes it.
_ENCRYPTED = bytes.fromhex("06092a864886f70d010703")
# What RAUC copies as it is: the file must fit. Of archives only the content must, whose size nothing tells.
_RAW = (".img", ".ext4", ".squashfs", ".vfat", ".raw", ".erofs", ".btrfs")


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image and where it would go; `fits` is None where it cannot be told. Sizes in bytes."""

    slot_class: str
    filename: str
    size: int | None
    checksum: str | None
    slot: str | None
    device: str | None
    slot_size: int | None
    fits: bool | None


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What would be installed. `newer` compares with what runs: None where either version is not known."""

    version: str
    compatible: str
    description: str
    build: str
    format: str
    size: int
    images: Sequence[Image]
    fits: bool
    compatible_with_board: bool
    newer: bool | None
    signers: Sequence[Signer]


def from_inspect(found: Mapping[str, Any]) -> tuple[dict[str, str], list[dict[str, Any]], str]:
    """RAUC's own words, from InspectBundle: (the update's, the images', the format)."""
    update = {key: str(found.get("update", {}).get(key) or "") for key in _UPDATE_KEYS}
    images = [dict(image) for image in found.get("images") or []]
    return update, images, str((found.get("bundle") or {}).get("format") or "")


def from_json(found: Mapping[str, Any]) -> tuple[dict[str, str], list[dict[str, Any]], str]:
    """The same from `rauc info --output-format=json`, for a RAUC before 1.9."""
    update = {key: str(found.get(key) or "") for key in _UPDATE_KEYS}
    images = [
        {"slot-class": slot_class, **dict(image)}
        for entry in found.get("images") or []
        for slot_class, image in dict(entry).items()
    ]
    return update, images, str(found.get("format") or "")


_UPDATE_KEYS = ("compatible", "version", "description", "build")


def inspection(
    update: Mapping[str, str],
    images: Sequence[Mapping[str, Any]],
    form: str,
    facts: Facts,
    sizes: Mapping[str, int],
    size: int,
    signers: Sequence[Signer],
) -> Inspection:
    """`sizes` are the slots' devices', in bytes, by the slot's name."""
    shown = [_image(image, facts, sizes) for image in images]
    return Inspection(
        version=update["version"],
        compatible=update["compatible"],
        description=update["description"],
        build=update["build"],
        format=form,
        size=size,
        images=shown,
        fits=all(image.fits is not False for image in shown),
        compatible_with_board=update["compatible"] == facts.compatible,
        newer=is_newer(update["version"], facts),
        signers=signers,
    )


def is_newer(version: str, facts: Facts) -> bool | None:
    """Whether it is newer than what runs, or the same; None where that cannot be told."""
    running = facts.slot(facts.booted)
    current = running.bundle.version if running is not None and running.bundle is not None else None
    return versions.compare(version, current) >= 0 if version and current else None


def check(inspected: Inspection, facts: Facts, *, allow_downgrade: bool, ignore_compatible: bool) -> None:
    """BundleError where it must not be installed here."""
    if not inspected.compatible_with_board and not ignore_compatible:
        raise BundleError(
            f"the bundle is for '{inspected.compatible}', this board is '{facts.compatible}'",
            code="UPDATE_INCOMPATIBLE",
        )
    for image in inspected.images:
        if image.fits is False:
            raise BundleError(
                f"{image.filename} has {image.size} bytes, {image.slot} ({image.device}) only {image.slot_size}",
                code="UPDATE_TOO_LARGE",
            )
    if inspected.newer is False and not allow_downgrade:
        running = facts.slot(facts.booted)
        current = running.bundle.version if running is not None and running.bundle is not None else ""
        raise BundleError(
            f"version {inspected.version} is older than {current}, which runs: say allow_downgrade if it is meant",
            code="UPDATE_OLDER",
        )


def summary(inspected: Inspection, sha256: str | None) -> Bundle:
    """What an update's record keeps of it."""
    return Bundle(
        version=inspected.version,
        compatible=inspected.compatible,
        description=inspected.description,
        build=inspected.build,
        format=inspected.format,
        size=inspected.size,
        sha256=sha256,
        signers=tuple(inspected.signers),
    )


def _image(image: Mapping[str, Any], facts: Facts, sizes: Mapping[str, int]) -> Image:
    slot_class = str(image.get("slot-class") or image.get("slotclass") or "")
    filename = str(image.get("filename") or "")
    size = int(image["size"]) if image.get("size") is not None else None
    slot = _target(slot_class, facts)
    slot_size = sizes.get(slot.name) if slot is not None else None
    raw = filename.endswith(_RAW) and slot is not None and slot.type not in ("ubivol", "ubifs", "nand", "nor")
    # Of several variants of an image RAUC takes the one that is this board's.
    raw = raw and image.get("variant") in (None, "", facts.variant)
    return Image(
        slot_class=slot_class,
        filename=filename,
        size=size,
        checksum=str(image["checksum"]) if image.get("checksum") else None,
        slot=slot.name if slot is not None else None,
        device=slot.device if slot is not None else None,
        slot_size=slot_size,
        fits=size <= slot_size if raw and size is not None and slot_size is not None else None,
    )


def _target(slot_class: str, facts: Facts) -> Slot | None:
    """The slot of that class in the group that does not run."""
    other = facts.other
    if other is None:
        return None
    group = [slot for slot in facts.slots if slot.name == other.name or slot.parent == other.name]
    return next((slot for slot in group if slot.class_ == slot_class), None)


def signers(path: Path) -> tuple[Signer, ...]:
    """The certificates in a bundle's signature; none where it is encrypted. Not a check: RAUC has verified them.

    BundleError where there is no signature. Blocks: call it from a thread.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(-8, os.SEEK_END)
            length = int.from_bytes(file.read(8), "big")
            if not 0 < length <= min(end, _LONGEST_SIGNATURE):
                raise BundleError(f"{path.name} has no signature: it is not a bundle, or not all of one")
            file.seek(end - length)
            signature = file.read(length)
        if _ENCRYPTED in signature[:32]:
            return ()
        return tuple(
            Signer(one.subject.rfc4514_string(), one.issuer.rfc4514_string(), one.not_valid_after_utc)
            for one in pkcs7.load_der_pkcs7_certificates(signature)
        )
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm, InvalidVersion) as error:
        raise BundleError(f"{path.name} has a damaged signature: {error}", code="UPDATE_SIGNATURE") from error


def device_sizes(slots: Sequence[Slot], sys: Path = Path("/sys")) -> dict[str, int]:
    """The size in bytes of each slot's block device, from sysfs: homed itself may not open it."""
    found: dict[str, int] = {}
    for slot in slots:
        try:
            number = os.stat(slot.device or "").st_rdev
            sectors = (sys / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}" / "size").read_text()
            found[slot.name] = int(sectors) * 512
        except (OSError, ValueError):
            continue
    return found
