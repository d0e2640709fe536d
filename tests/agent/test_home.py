"""The worker's folder: its id, its jobs' folders, and that nothing stays in it."""

import os
from pathlib import Path

import pytest

from homed.agent.home import Home
from homed.errors import ConfigError
from homed.jobs.removal import remove


@pytest.mark.parametrize("job", ["..", "../x", "", "a/b", ".hidden", "x" * 300, "a\0b", "job\n"])
def test_any_id_leads_to_a_folder_of_its_own(tmp_path: Path, job: str) -> None:
    home = Home(tmp_path / "work")
    folder = home.folder(job)
    assert folder.parent == tmp_path / "work" / "jobs" and folder.name.startswith("_")
    assert folder != home.folder(f"{job}x")
    assert home.folder("job-1").name == "job-1"
    home.close()


def test_an_id_stays_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = home.id(None)
    assert home.id(None) == first and home.id("other") == "other" and home.id(None) == first
    (tmp_path / "id").write_bytes(b"\xff")
    with pytest.raises(ConfigError):
        home.id(None)
    home.close()


def test_a_folder_has_one_worker(tmp_path: Path) -> None:
    first = Home(tmp_path)
    with pytest.raises(ConfigError):
        Home(tmp_path)
    first.close()
    Home(tmp_path).close()


def test_what_cannot_be_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError):
        Home(tmp_path / "file")


def test_a_folder_that_a_job_has_closed_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("x")
    os.symlink("/etc", folder / "link")
    os.chmod(folder / "a" / "b", 0)
    os.chmod(folder / "a", 0o500)
    remove(folder)
    assert not folder.exists() and Path("/etc").exists()
    remove(folder)
