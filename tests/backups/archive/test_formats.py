"""What is no archive of homed's is named by its first bytes."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from homed.backups.archive import age, formats, seal
from homed.backups.worker.messages import Seal
from homed.errors import ArchiveError
from tests.support.archives import VOLUME, pack, unpacked

PLAIN, SEALED = "backup-20260102-030405.tar.gz", "backup-20260102-030405.age.tar"


def _tar() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return made.getvalue()


def _zip() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("x", "y")
    return made.getvalue()


_OTHERS = {
    "a plain tar": _tar(),
    "a tar": _tar(),
    "xz": lzma.compress(b"x"),
    "bzip2": bz2.compress(b"x"),
    "a zip": _zip(),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(100),
    "age alone": b"age-encryption.org/v1\n-> X25519 x\n",
    "an empty file": b"",
    "HTML": b"<!doctype html>",
}


@pytest.mark.parametrize(("words", "data"), _OTHERS.items(), ids=_OTHERS.keys())
def test_what_is_sent_instead_is_named(words: str, data: bytes) -> None:
    for name in (SEALED,) if words == "a tar" else (PLAIN,) if words == "a plain tar" else (PLAIN, SEALED):
        with pytest.raises(ArchiveError, match=words) as caught:
            formats.check(name, data[: formats.HEAD])
        assert caught.value.code == "BACKUP_FORMAT"


def test_archives_of_homeds_pass_under_their_own_name_alone(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    pack(tmp_path / PLAIN, [(VOLUME, tmp_path / "tree")])
    recipient, _ = age.generate()
    with seal.create(tmp_path / SEALED, Seal((recipient,))) as file:
        file.write(b"x")
    heads = {name: (tmp_path / name).read_bytes()[: formats.HEAD] for name in (PLAIN, SEALED)}
    for name, head in heads.items():
        formats.check(name, head)
    with pytest.raises(ArchiveError, match=r"encrypted archive: its name ends in .age.tar"):
        formats.check(PLAIN, heads[SEALED])
    with pytest.raises(ArchiveError, match=r"a gzip: .* ends in .tar.gz"):
        formats.check(SEALED, heads[PLAIN])
    with pytest.raises(ArchiveError, match="compressed twice"):
        formats.check(PLAIN, gzip.compress((tmp_path / PLAIN).read_bytes()))
    # As it arrives if it was sent with Content-Encoding: gzip.
    with pytest.raises(ArchiveError, match="without a Content-Encoding"):
        formats.check(PLAIN, unpacked(tmp_path / PLAIN)[: formats.HEAD])
    formats.check(PLAIN, b"\0" * 100)  # of what is unknown the verification says what is wrong
