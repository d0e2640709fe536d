"""What a board has, told in the units that requirements have."""

import os
from pathlib import Path

from homed.host import capacity


def test_this_board_tells_what_it_has(tmp_path: Path) -> None:
    found = capacity.read(tmp_path, root=tmp_path)
    assert (found.platform, found.cpu_cores, found.gpu) == ("linux", os.cpu_count(), False)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    assert abs(found.memory_gb - total) < 0.1
    disk = os.statvfs(tmp_path)
    assert abs(found.storage_gb - disk.f_blocks * disk.f_frsize / 2**30) < 0.1


def test_a_gpu_is_known_by_its_device(tmp_path: Path) -> None:
    (tmp_path / "dev" / "dri").mkdir(parents=True)
    (tmp_path / "dev" / "dri" / "renderD128").touch()
    assert capacity.read(tmp_path, root=tmp_path).gpu
