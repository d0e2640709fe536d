"""What a bundle holds, whether it fits, and who signed it."""

import contextlib
import subprocess
from collections.abc import Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homed.errors import BundleError
from homed.updates import bundle
from homed.updates.bundle import Inspection, check, device_sizes, from_inspect, from_json, inspection, is_newer, signers
from homed.updates.records import Signer
from homed.updates.slots import Facts, SlotBundle
from tests.support import pki
from tests.support.updating import NEW, OLD, facts, slot

MIB = 2**20
# `rauc info --output-format=json`, as 1.8 prints it.
JSON_18: Mapping[str, Any] = {
    "compatible": "board", "version": "2.0", "description": "the system 2.0", "build": "20260101",
    "hooks": ["install-check"],
    "images": [
        {"rootfs": {"variant": None, "filename": "rootfs.img", "checksum": "f3e0", "size": 2 * MIB, "hooks": [],
                    "adaptive": []}},
        {"appfs": {"variant": None, "filename": "app.tar.gz", "checksum": "0123", "size": 64 * MIB, "hooks": [],
                   "adaptive": []}},
    ],
}  # fmt: skip
# InspectBundle's answer, unwrapped, as 1.13 gives it.
INSPECTED: Mapping[str, Any] = {
    "manifest-hash": "abcd",
    "update": {"compatible": "board", "version": "2.0", "description": "the system 2.0", "build": "20260101"},
    "bundle": {"format": "verity", "verity-size": 4096, "verity-salt": "00", "verity-hash": "11"},
    "hooks": {},
    "images": [
        {"slot-class": "rootfs", "filename": "rootfs.img", "checksum": "f3e0", "size": 2 * MIB},
        {"slot-class": "appfs", "filename": "app.tar.gz", "checksum": "0123", "size": 64 * MIB, "hooks": ["x"]},
    ],
}  # fmt: skip


def board(version: str | None = "1.0", **changes: object) -> Facts:
    """Two systems, each with a slot for applications inside of it."""
    content = SlotBundle("board", version, None, None)
    apps = (
        slot("appfs.0", class_="appfs", bootname=None, parent=OLD, state="active"),
        slot("appfs.1", class_="appfs", bootname=None, parent=NEW, state="inactive"),
    )
    made = facts(slots=(*apps, slot(bundle=content), slot(NEW)))
    return msgspec.structs.replace(made, **changes)


SIZES = {OLD: 4 * MIB, NEW: 4 * MIB, "appfs.0": MIB, "appfs.1": MIB}


def inspected(
    *images: Mapping[str, Any], found: Facts | None = None, sizes: Mapping[str, int] = SIZES, **update: str
) -> Inspection:
    told = {"compatible": "board", "version": "2.0", "description": "", "build": "", **update}
    return inspection(told, images, "plain", found or board(), sizes, 1000, ())


def image(**changes: Any) -> dict[str, Any]:
    return {"slot-class": "rootfs", "filename": "rootfs.img", "size": 2 * MIB, "checksum": "f3e0", **changes}


@pytest.mark.parametrize("told", [from_json(JSON_18), from_inspect(INSPECTED)], ids=["1.8", "1.13"])
def test_each_rauc_tells_the_same(told: tuple[dict[str, str], list[dict[str, Any]], str]) -> None:
    update, images, form = told
    shown = inspection(update, images, form, board(), SIZES, 1000, ())
    assert (shown.compatible, shown.version, shown.description, shown.build) == (
        "board", "2.0", "the system 2.0", "20260101",
    )  # fmt: skip
    rootfs, appfs = shown.images
    assert (rootfs.slot_class, rootfs.filename, rootfs.checksum, rootfs.size) == (
        "rootfs",
        "rootfs.img",
        "f3e0",
        2 * MIB,
    )
    assert (rootfs.slot, rootfs.device, rootfs.slot_size, rootfs.fits) == (NEW, f"/dev/{NEW}", 4 * MIB, True)
    # What is unpacked has another size than its archive.
    assert (appfs.slot, appfs.slot_size, appfs.fits) == ("appfs.1", MIB, None)
    assert (shown.fits, shown.compatible_with_board, shown.newer, shown.size) == (True, True, True, 1000)


def test_the_format_is_told_where_rauc_tells_it() -> None:
    assert from_inspect(INSPECTED)[2] == "verity"
    assert from_json(JSON_18)[2] == ""


@pytest.mark.parametrize("found", [{}, {"images": None, "update": {"version": None}, "bundle": None}])
def test_what_rauc_does_not_tell_is_empty(found: Mapping[str, Any]) -> None:
    for told in (from_inspect(found), from_json({})):
        update, images, form = told
        assert set(update.values()) == {""} and (images, form) == ([], "")
    shown = inspection(*from_inspect(found), board(), {}, 0, ())
    assert (shown.fits, shown.compatible_with_board, shown.newer) == (True, False, None)


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"size": 4 * MIB}, True),
        ({"size": 4 * MIB + 1}, False),
        ({"size": 4 * MIB + 1, "filename": "rootfs.ext4"}, False),
        ({"size": 4 * MIB + 1, "filename": "rootfs.tar.xz"}, None),
        ({"size": None}, None),
        ({"slot-class": "bootloader"}, None),
        ({"size": 4 * MIB + 1, "variant": "large"}, None),
    ],
)
def test_whether_an_image_fits(changes: dict[str, Any], fits: bool | None) -> None:
    shown = inspected(image(), image(**changes))
    assert shown.images[1].fits is fits
    assert shown.fits is (fits is not False)


def test_the_boards_own_variant_must_fit() -> None:
    large = image(size=4 * MIB + 1, variant="large")
    assert not inspected(large, found=board(variant="large")).fits


def test_where_the_slots_size_or_kind_tells_nothing_it_may_fit() -> None:
    huge = image(size=999 * MIB)
    assert inspected(huge, sizes={}).images[0].fits is None
    flash = board(slots=(slot(), slot(NEW, type="ubivol")))
    assert inspected(huge, found=flash).images[0].fits is None
    unknown = inspected(huge, found=facts(None))
    assert (unknown.images[0].slot, unknown.images[0].fits) == (None, None)


@pytest.mark.parametrize(
    ("version", "running", "newer"),
    [("2.0", "1.0", True), ("1.0", "1.0", True), ("1.0", "2.0", False), ("2.0", None, None), ("", "1.0", None)],
)
def test_whether_it_is_newer_than_what_runs(version: str, running: str | None, newer: bool | None) -> None:
    assert is_newer(version, board(running)) is newer
    assert inspected(found=board(running), version=version).newer is newer


def test_what_nobody_installed_has_no_version() -> None:
    assert is_newer("2.0", facts()) is None
    assert is_newer("2.0", facts(None)) is None


def refused(shown: Inspection, *, downgrade: bool = False, incompatible: bool = False) -> str | None:
    try:
        check(shown, board("3.0"), allow_downgrade=downgrade, ignore_compatible=incompatible)
    except BundleError as error:
        return error.code if error.message else "?"
    return None


def test_what_belongs_and_fits_is_taken() -> None:
    assert refused(inspected(image(), found=board("1.0"))) is None


def test_a_bundle_for_another_board_is_refused_unless_it_is_meant() -> None:
    foreign = inspected(image(), compatible="another")
    assert refused(foreign) == "UPDATE_INCOMPATIBLE"
    assert refused(foreign, incompatible=True) is None


def test_an_older_one_is_refused_unless_it_is_meant() -> None:
    older = inspected(image(), found=board("3.0"))
    assert refused(older) == "UPDATE_OLDER"
    assert refused(older, downgrade=True) is None


def test_one_that_does_not_fit_is_refused_whatever_is_meant() -> None:
    large = inspected(image(size=5 * MIB), compatible="another", found=board("3.0"))
    assert refused(large, downgrade=True, incompatible=True) == "UPDATE_TOO_LARGE"


def test_what_is_kept_of_a_bundle() -> None:
    kept = bundle.summary(inspected(image()), "aa")
    assert (kept.version, kept.compatible, kept.format, kept.size, kept.sha256) == ("2.0", "board", "plain", 1000, "aa")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> pki.Authority:
    return pki.Authority(tmp_path_factory.mktemp("pki") / "ca", "Test CA")


@pytest.fixture(scope="module")
def release(authority: pki.Authority) -> pki.Signer:
    return authority.signer("Release, 1")


def cms(folder: Path, *arguments: str | Path) -> bytes:
    """A CMS by openssl, which RAUC uses too."""
    (folder / "content").write_bytes(b"a bundle's content")
    command: list[str | Path] = [
        "openssl",
        "cms",
        "-binary",
        "-in",
        folder / "content",
        "-outform",
        "DER",
        "-out",
        folder / "cms",
    ]
    subprocess.run([*command, *arguments], check=True, capture_output=True, timeout=60)
    return (folder / "cms").read_bytes()


@pytest.fixture(scope="module")
def signature(release: pki.Signer, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("cms")
    return cms(folder, "-sign", "-nosmimecap", "-signer", release.certificate, "-inkey", release.key)


def signed(folder: Path, signature: bytes, content: bytes = b"squashfs") -> Path:
    path = folder / "update.raucb"
    path.write_bytes(content + signature + len(signature).to_bytes(8, "big"))
    return path


def test_the_signer_is_told(tmp_path: Path, signature: bytes, release: pki.Signer) -> None:
    found = signers(signed(tmp_path, signature))
    assert found == (Signer("CN=Release\\, 1", "CN=Test CA", release.not_after),)
    assert found[0].not_after.tzinfo is UTC


def test_the_whole_chain_is_told(tmp_path: Path, release: pki.Signer, authority: pki.Authority) -> None:
    chain = cms(
        tmp_path, "-sign", "-signer", release.certificate, "-inkey", release.key, "-certfile", authority.certificate
    )
    assert {one.subject for one in signers(signed(tmp_path, chain))} == {"CN=Release\\, 1", "CN=Test CA"}


def test_an_encrypted_signature_hides_its_signer(tmp_path: Path, signature: bytes, release: pki.Signer) -> None:
    (tmp_path / "signature").write_bytes(signature)
    hidden = cms(tmp_path, "-encrypt", "-aes256", "-in", tmp_path / "signature", release.certificate)
    assert signers(signed(tmp_path, hidden)) == ()


def test_a_signature_without_a_certificate_is_refused(tmp_path: Path, release: pki.Signer) -> None:
    bare = cms(tmp_path, "-sign", "-nocerts", "-signer", release.certificate, "-inkey", release.key)
    with pytest.raises(BundleError) as raised:
        signers(signed(tmp_path, bare))
    assert raised.value.code == "UPDATE_SIGNATURE"


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", b"\0" * 8, b"\0" * 100, b"x" * 100, b"\0" * 7 + b"\1", (100).to_bytes(8, "big") * 13],
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "update.raucb"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"update\.raucb"):
        signers(path)


def test_a_length_without_end_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "update.raucb"
    with path.open("wb") as file:
        file.truncate(2**32)
        file.seek(0, 2)
        file.write((2**31).to_bytes(8, "big"))
    with pytest.raises(BundleError, match="has no signature"):
        signers(path)


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No such file"):
        signers(tmp_path / "gone.raucb")


def test_a_certificate_of_a_version_that_there_is_not_is_refused(tmp_path: Path, signature: bytes) -> None:
    version = b"\xa0\x03\x02\x01"
    assert version + b"\x02" in signature
    with pytest.raises(BundleError, match="damaged signature"):
        signers(signed(tmp_path, signature.replace(version + b"\x02", version + b"\x01")))


# Of what it takes though it is damaged, the library warns.
@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 1200), st.booleans(),
)  # fmt: skip
def test_a_damaged_trailer_is_refused_or_read(
    tmp_path: Path, signature: bytes, flips: list[tuple[int, int]], cut: int, is_cut: bool
) -> None:
    trailer = bytearray(signature + len(signature).to_bytes(8, "big"))
    for at, byte in flips:
        trailer[at % len(trailer)] = byte
    path = tmp_path / "update.raucb"
    path.write_bytes(b"squashfs" + trailer[: -cut or None] if is_cut else b"squashfs" + trailer)
    with contextlib.suppress(BundleError):
        msgspec.json.encode(signers(path))


def test_a_devices_size_is_the_kernels(tmp_path: Path) -> None:
    """/dev/null is no block device, but has a number as one has."""
    folder = tmp_path / "dev" / "block" / "1:3"
    folder.mkdir(parents=True)
    (folder / "size").write_text("8192\n")
    null, gone = slot(device="/dev/null"), slot(NEW, device="/dev/gone")
    assert device_sizes([null, gone, slot("x", device=None)], sys=tmp_path) == {OLD: 4 * MIB}
    (folder / "size").write_text("?\n")
    assert device_sizes([null], sys=tmp_path) == {}
