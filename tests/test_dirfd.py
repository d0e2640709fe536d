"""Work by descriptors: nothing that was exchanged for a link is followed."""

import os
from pathlib import Path

import pytest

from homed import dirfd


def test_no_link_is_opened(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with dirfd.opened(str(tmp_path)) as at:
        with dirfd.opened("real", at):
            pass
        with pytest.raises(NotADirectoryError), dirfd.opened("link", at):
            pass
        assert dirfd.is_directory("real", at)
        assert not dirfd.is_directory("link", at)
    with pytest.raises(OSError), dirfd.parent(str(tmp_path / "link" / "x")):
        pass
    with pytest.raises(OSError, match="no name"), dirfd.parent(f"{tmp_path}/.."):
        pass


def test_a_file_is_new_and_whole(tmp_path: Path) -> None:
    (tmp_path / "there").symlink_to("/etc/passwd")
    with dirfd.opened(str(tmp_path)) as at:
        with pytest.raises(FileExistsError):
            dirfd.write("there", at, b"x", 0o600)
        descriptor = dirfd.write("new", at, b"content" * 100_000, 0o640)
        assert os.read(descriptor, 7) == b"content"
        os.close(descriptor)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "new").read_bytes() == b"content" * 100_000


def test_a_directory_that_was_exchanged_as_it_was_made_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = os.mkdir

    def exchanged(name: str, mode: int, *, dir_fd: int) -> None:
        make(name, mode, dir_fd=dir_fd)
        os.close(os.open(f"{tmp_path}/{name}/planted", os.O_CREAT))

    with dirfd.opened(str(tmp_path)) as at:
        with dirfd.made("one", at) as one:
            assert os.fstat(one).st_mode & 0o777 == 0o700
        monkeypatch.setattr(os, "mkdir", exchanged)
        with pytest.raises(FileExistsError), dirfd.made("two", at):
            pass
