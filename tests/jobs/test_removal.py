"""What jobs leave behind goes, whatever it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from homed.jobs.removal import remove
from tests.support import filesystems

_DEEP = """
import os
for _ in range(3000):
    os.mkdir("a")
    open("file", "w").close()
    os.chdir("a")
"""


def dig(folder: Path) -> None:
    """Far deeper than Python recurses, or than a path may be long."""
    subprocess.run([sys.executable, "-c", _DEEP], cwd=folder, check=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "left"
    made.mkdir()
    return made


def test_a_tree_deeper_than_python_recurses_is_removed(folder: Path) -> None:
    dig(folder)
    assert remove(folder)
    assert not folder.exists()


def test_folders_and_files_side_by_side_are_removed(folder: Path) -> None:
    for name in ("a/b/c", "a/d", "e", "a/b/f"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("x")
    assert remove(folder)
    assert not folder.exists()


def test_no_link_is_followed(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    (folder / "link").symlink_to(kept)
    (folder / "inner").mkdir()
    (folder / "inner" / "link").symlink_to(kept)
    assert remove(folder)
    assert (kept / "file").read_text() == "x"


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "inner").mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(kept)
    assert not remove(link)
    assert (kept / "inner").is_dir()


def test_what_is_not_there_is_gone(tmp_path: Path) -> None:
    assert remove(tmp_path / "nothing")


def test_folders_that_are_closed_to_their_owner_are_removed(folder: Path) -> None:
    """By another user than root, to whom nothing is closed."""
    (folder / "outer" / "inner" / "last").mkdir(parents=True)
    for name in ("outer/inner/last", "outer/inner", "outer"):
        os.chmod(folder / name, 0)
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    if os.geteuid() == 0:
        for at, names, _ in os.walk(folder):
            for name in (".", *names):
                os.chown(os.path.join(at, name), user, user)
    child = os.fork()
    if child == 0:
        top = os.open(folder, os.O_RDONLY)
        os.fchdir(top)
        if os.geteuid() == 0:
            os.setuid(user)
        remove(Path("outer"))
        os._exit(0 if not os.listdir() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_cannot_be_removed_stays_and_is_said(folder: Path) -> None:
    (folder / "mounted").mkdir()
    (folder / "other").mkdir()
    (folder / "other" / "file").write_text("x")
    with filesystems.in_memory(folder / "mounted", 1):
        assert not remove(folder)
        assert os.listdir(folder) == ["mounted"]
    assert remove(folder)
