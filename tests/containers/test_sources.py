"""What is captured of a service's mounts, and what is left out with why."""

import os
import socket
from pathlib import Path

import pytest

from homed.containers import sources
from homed.containers.mappings import parse_volume
from homed.containers.model import Volume
from homed.containers.protected import Protected
from homed.model import Source

NONE: frozenset[str] = frozenset()


def of_path(path: Path | str, state: Path, engine: str = "", exclude: frozenset[str] = NONE) -> Source:
    return sources.of_path(str(path), Protected(private=(str(state),)), engine, exclude)


def test_each_mount_is_told_once_in_one_way_of_writing() -> None:
    texts = ("data:/a", "/srv/x/:/b", "//srv//x:/c", "data:/d:ro", "/srv/y:/e")
    assert sources.mounted(map(parse_volume, texts)) == (["data"], ["/srv/x", "/srv/y"])


@pytest.mark.parametrize(
    ("volume", "left_out"),
    [
        (Volume("v", "/v", "local", {}), ""),
        (Volume("v", "/v", "local", {"size": "10G"}), ""),
        (Volume("v", "/v", "local", {"type": "nfs", "device": ":/x"}), "it is mounted from elsewhere"),
        (Volume("v", "/v", "local", {"o": "bind", "device": "/srv"}), "it is mounted from elsewhere"),
        (Volume("v", "/v", "rclone", {}), "its driver is 'rclone'"),
        (None, "there is no such volume yet"),
    ],
)
def test_only_volumes_in_their_own_folder_are_captured(volume: Volume | None, left_out: str) -> None:
    found = sources.of_volume("v", volume, NONE)
    assert found.left_out.startswith(left_out) and bool(found.left_out) == bool(left_out)
    assert found.path == ("/v" if volume else "")


def test_of_what_is_excluded_it_is_still_told_where_it_lies(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    exclude = frozenset({"v", str(data)})
    volume = sources.of_volume("v", Volume("v", "/v", "local", {}), exclude)
    path = of_path(data, tmp_path / "state", exclude=exclude)
    assert (volume.path, path.path) == ("/v", str(data))
    assert volume.left_out == path.left_out == "its service excludes it by label"


def test_files_and_folders_of_the_board_are_captured_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("data")
    for name, leads in (("data", "data"), ("file", "file"), ("link", "data")):
        path = str(tmp_path / name)
        assert of_path(path, tmp_path / "state") == Source("path", path, str(tmp_path / leads))


def test_what_is_no_data_is_left_out_with_why(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    (tmp_path / "to-etc").symlink_to("/etc")
    (tmp_path / "state").mkdir()
    (tmp_path / "run").mkdir()
    engine = str(tmp_path / "run" / "docker.sock")
    expected = {
        "pipe": "it is a pipe", "socket": "it is a socket", "missing": "it is not there",
        "to-etc": "it is the system's",
        "state": "it is the system's", "state/inner": "it is the system's", "run": "it holds Docker's socket",
    }  # fmt: skip
    assert {name: of_path(tmp_path / name, tmp_path / "state", engine).left_out for name in expected} == expected


@pytest.mark.parametrize(
    "path", ["/", "/proc/1", "/sys", "/dev/null", "/run/x", "/var/run/docker.sock", "/root", "/var"]
)
def test_what_is_the_systems_is_left_out(path: str, tmp_path: Path) -> None:
    assert of_path(path, tmp_path / "state").left_out == "it is the system's"


def test_volumes_that_only_the_image_wants_are_told(tmp_path: Path) -> None:
    mounts = [
        {"Type": "volume", "Name": "data", "Source": "/v/data", "Destination": "/data"},
        {"Type": "volume", "Name": "0f3a", "Source": "/v/0f3a", "Destination": "/var/lib/db"},
        {"Type": "bind", "Source": "/srv", "Destination": "/srv"},
    ]
    (found,) = sources.anonymous({"Mounts": mounts}, ["data"])
    assert (found.name, found.path) == ("0f3a", "/v/0f3a")
    assert found.left_out == "it has no name of its own: mount a volume at /var/lib/db"


def test_a_path_has_one_spelling_however_it_is_mounted() -> None:
    """A backup refuses any other, and would fail as a whole."""
    texts = ("/srv/data/:/a", "/srv//data:/b", "//srv/./data:/c", "vol:/d")
    assert sources.mounted(map(parse_volume, texts)) == (["vol"], ["/srv/data"])
