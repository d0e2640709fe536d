"""Archives that are sealed as they are packed."""

import os
from pathlib import Path

import pyrage
import pytest

from homed.backups.archive import seal
from homed.backups.archive.pack import Packer
from homed.backups.archive.unpack import unpack
from homed.backups.archive.verify import verify
from homed.backups.worker.messages import Seal, Unlock
from homed.errors import ArchiveError
from tests.support.archives import VOLUME, Told, draft, snapshot


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    (made / "file").write_bytes(os.urandom(300_000))
    return made


def test_it_is_sealed_verified_and_unpacked_with_its_key(tree: Path, tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    sealed, path, watch = Seal((str(identity.to_public()),)), tmp_path / "b.age.tar", Told().context
    with Packer(path, tmp_path / "spool", draft(), level=1, seal=sealed, watch=watch) as packer:
        packer.add(VOLUME, tree)
        made = packer.finish()
    assert seal.is_sealed(path)
    assert made.size == path.stat().st_size
    unlock = Unlock(identity=str(identity))
    assert verify(path, tmp_path / "spool", unlock, watch) == made
    (tmp_path / "staged").mkdir()
    unpack(path, unlock, [(made.sections[0], tmp_path / "staged")], watch)
    assert snapshot(tmp_path / "staged") == snapshot(tree)
    with pytest.raises(ArchiveError) as caught:
        verify(path, tmp_path / "spool", None, watch)
    assert caught.value.code == "BACKUP_KEY_MISSING"


def test_nothing_is_left_where_it_is_broken_off(tree: Path, tmp_path: Path) -> None:
    sealed = Seal((str(pyrage.x25519.Identity.generate().to_public()),))
    with Packer(
        tmp_path / "b.age.tar", tmp_path / "spool", draft(), level=1, seal=sealed, watch=Told().context
    ) as packer:
        packer.add(VOLUME, tree)
    assert os.listdir(tmp_path) == ["tree"]
