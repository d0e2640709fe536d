"""Whenever a restore ends, all its targets are old, or all are new, and nothing else is left."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from homed import atomic
from homed.backups.worker import disk, journal, staging, swap
from homed.backups.worker.journal import Phase
from homed.backups.worker.swap import Outcome, Swap
from homed.errors import BackupError, BackupSpaceError
from tests.support.filesystems import in_memory
from tests.support.swap_world import ID, Picture, World, is_killed, killed_at, picture, silent, times, write_tree

IS_ROOT = os.geteuid() == 0


class Worlds:
    """A new world as often as one is wanted, always at the same place."""

    def __init__(self, folder: Path, *, mount: bool):
        self._folder = folder
        self._mount = mount
        self._mounts = ExitStack()

    def another(self) -> World:
        self.close()
        root = self._folder / "board"
        root.mkdir()
        if self._mount:
            self._mounts.enter_context(in_memory(root / "disk"))
        return World(root, self._folder / "work", mount=self._mount)

    def close(self) -> None:
        self._mounts.close()
        for name in ("board", "work"):
            shutil.rmtree(self._folder / name, ignore_errors=True)


@pytest.fixture(params=["as it is", "without exchange", "without renameat2"])
def worlds(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worlds]:
    real = disk._rename

    def rename(source: disk.Name, target: disk.Name, flags: int) -> None:
        if flags == disk._EXCHANGE or request.param == "without renameat2":
            raise OSError(errno.EINVAL, "not known")
        real(source, target, flags)

    if request.param != "as it is":
        monkeypatch.setattr(disk, "_rename", rename)
    made = Worlds(tmp_path, mount=IS_ROOT)
    yield made
    made.close()


def wanted(worlds: Worlds, patch: pytest.MonkeyPatch) -> tuple[tuple[Picture, dict[Path, int]], int]:
    """What a restore that nothing disturbs leaves, and in how many steps."""
    world = worlds.another()
    with killed_at(0, patch) as steps:
        world.restore()
    assert not world.is_old()
    assert list(world.work.iterdir()) == []
    return world.new(), steps.count


def test_every_kind_of_target_becomes_what_was_staged(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    (found, of), _ = wanted(worlds, monkeypatch)
    for name in ("plain", "volume/_data", "made/deep/tree", "made/other", *(["disk"] if IS_ROOT else [])):
        assert found[f"{name}/only-new"][1] == b"new"
        assert f"{name}/only-old" not in found
        assert found[name][0] == stat.S_IFDIR | 0o711
    assert found["single"][1] == found["was-folder"][1] == b"new"
    assert not any("homed" in path for path in found)
    assert {time for path, time in of.items() if path.is_dir()} == {10**18 + 3 * 10**9}


@pytest.mark.parametrize("applied", [False, True])
def test_a_kill_at_any_step_leaves_all_old_or_all_new(
    applied: bool, worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, steps = wanted(worlds, monkeypatch)
    outcomes = set()
    for last in range(1, steps + 1):
        world = worlds.another()
        with killed_at(last, monkeypatch):
            assert is_killed(world.restore)
        written = journal.load(world.work)
        # homed is asked before a finish is begun: what was begun is told as it was decided.
        began = written is not None and written.phase is Phase.FINISHING
        with killed_at(0, monkeypatch):
            outcome = world.recover(applied or began)
        check(world, outcome, new)
        outcomes.add(outcome)
    assert outcomes == {Outcome.NOTHING, Outcome.ROLLED_BACK, Outcome.COMPLETED}


@pytest.mark.parametrize("applied", [False, True])
def test_a_recovery_is_killed_at_each_of_its_steps_in_turn(
    applied: bool, worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, steps = wanted(worlds, monkeypatch)
    for last in range(2, steps + 1, 1 if applied else 2):
        world = worlds.another()
        with killed_at(last, monkeypatch):
            assert is_killed(world.restore)
        decided = None
        for at in range(1, 1000):
            with killed_at(at, monkeypatch):
                if not is_killed(world.recover, applied):
                    break
            written = journal.load(world.work)
            if written is not None and written.phase in (Phase.UNDONE, Phase.FINISHING):
                decided = decided or written.phase
                assert written.phase is decided
        if picture(world.root) != world.old:
            assert world.new() == new
        else:
            assert world.is_old()
        assert list(world.work.iterdir()) == []


def check(world: World, outcome: Outcome, new: tuple[Picture, dict[Path, int]]) -> None:
    if outcome is Outcome.COMPLETED:
        assert world.new() == new
    elif outcome is Outcome.ROLLED_BACK:
        assert world.is_old()
    else:
        assert world.is_old() or world.new() == new
    assert list(world.work.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_at_any_step_leaves_all_old_or_all_new(
    code: int, worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step fails, and those after it work again."""
    new, steps = wanted(worlds, monkeypatch)
    for at in range(1, steps + 1):
        world = worlds.another()
        with killed_at(0, monkeypatch) as counted:
            failing = at

            def step() -> None:
                counted.count += 1
                if counted.count == failing:  # noqa: B023  used in this turn only
                    raise OSError(code, os.strerror(code))

            monkeypatch.setattr(counted, "step", step)
            try:
                world.restore()
            except (BackupError, OSError):
                outcome = world.recover(journal.load(world.work) is not None and picture(world.root) != world.old)
            else:
                outcome = Outcome.COMPLETED
        check(world, outcome, new)


def test_a_full_disk_while_the_journal_is_written_changes_nothing(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From each of the journal's writings on the disk is full, and stays so: undoing needs no room."""
    wanted(worlds, monkeypatch)
    real = atomic.write
    for room in range(3):
        world = worlds.another()
        written: list[Path] = []

        def write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
            if len(written) == room:  # noqa: B023  used in this turn only
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(path)  # noqa: B023
            real(path, data, mode=mode)

        with monkeypatch.context() as patched:
            patched.setattr(atomic, "write", write)
            with pytest.raises(BackupSpaceError, match="journal"):
                world.restore()
        assert world.is_old()
        assert list(world.work.iterdir()) == []


def test_a_disk_that_is_full_at_the_end_keeps_no_old_data(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    new, _ = wanted(worlds, monkeypatch)
    world = worlds.another()
    swapping = world.stage()
    swapping.swap()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(atomic, "write", full)
        swapping.finish()
    assert world.new() == new
    assert list(world.work.iterdir()) == []


def test_two_restores_one_after_the_other(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    new, _ = wanted(worlds, monkeypatch)
    world = worlds.another()
    world.restore()
    world.restore()
    assert world.new() == new


def test_a_swap_that_is_undone_after_all_was_new(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    world = worlds.another()
    swapping = world.stage()
    swapping.swap()
    assert not world.is_old()
    swapping.undo()
    assert world.is_old()
    assert list(world.work.iterdir()) == []


def test_nothing_is_to_be_recovered_where_nothing_was_begun(tmp_path: Path) -> None:
    assert swap.recover(tmp_path, False, silent) is Outcome.NOTHING


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "board").mkdir()
    return World(tmp_path / "board", tmp_path / "work", mount=False)


def test_what_comes_or_goes_between_staging_and_swapping_is_taken_as_it_is_then(world: World) -> None:
    swapping = world.stage()
    shutil.rmtree(world.root / "plain")
    (world.root / "single").unlink()
    shutil.rmtree(world.root / "volume/_data")
    write_tree(world.root / "volume/_data", "other")
    write_tree(world.root / "made/other", "docker")
    before = {name: found for name, found in picture(world.root).items() if staging.STAGED not in name}
    swapping.swap()
    assert (world.root / "plain/only-new").exists() and (world.root / "made/other/only-new").exists()
    assert (world.root / "volume/_data/only-new").exists() and (world.root / "single").read_text() == "new"
    swapping.undo()
    assert picture(world.root) == before


def test_what_others_put_in_the_way_of_an_undoing_is_kept_and_told(world: World) -> None:
    swapping = world.stage()
    swapping.swap()
    os.rename(world.root / "plain", world.root / "taken-away")
    write_tree(world.root / "plain", "stranger")
    shutil.rmtree(world.root / "volume/_data")
    (world.root / "volume/_data").mkdir()  # empty: as Docker makes what it misses
    said: list[str] = []
    assert swap.recover(world.work, False, said.append) is Outcome.ROLLED_BACK
    shutil.rmtree(world.root / "taken-away")
    (kept,) = world.root.glob(".homed-found-*")
    assert (kept / "only-stranger").exists()
    assert len(said) == 1 and str(kept) in said[0]
    shutil.rmtree(kept)
    assert world.is_old()


def test_a_target_is_not_put_back_with_another_inside_it(tmp_path: Path) -> None:
    write_tree(tmp_path / "board/outer", "old")
    places = [staging.place(tmp_path / "board" / name, ID) for name in ("outer", "outer/sub")]
    with pytest.raises(BackupError, match="in which it lies"):
        Swap.begin(tmp_path, places, ID, silent)
    with pytest.raises(BackupError, match="in which it lies"):
        Swap.begin(tmp_path, places[:1] * 2, ID, silent)
    assert journal.load(tmp_path) is None


def test_a_swap_without_what_was_to_be_staged_fails_and_leaves_nothing(world: World) -> None:
    swapping = world.stage()
    shutil.rmtree(next(place for place in world.places() if place.target.name == "other").tree)
    with pytest.raises(BackupError, match="nothing to be put"):
        swapping.swap()
    assert world.is_old()


def test_a_journal_that_is_damaged_is_told_and_kept(tmp_path: Path) -> None:
    (tmp_path / "journal.json").write_bytes(b'{"phase": "swap\xff')
    with pytest.raises(BackupError, match="damaged"):
        swap.recover(tmp_path, True, silent)
    assert (tmp_path / "journal.json").exists()


def test_a_disk_that_is_not_mounted_yet_is_waited_for(tmp_path: Path) -> None:
    image, point = tmp_path / "memory", tmp_path / "board" / "disk"
    with in_memory(image):
        target = image / "tree"
        write_tree(target, "old")
        old, old_times = picture(target), times([target])
        work = tmp_path / "work"
        work.mkdir()
        place = staging.place(target, ID)
        swapping = Swap.begin(work, [place], ID, silent)
        write_tree(place.tree, "new")
        swapping.swap()
        point.mkdir(parents=True)
        # What is mounted there is away for the moment: another lies over it.
        with in_memory(image), pytest.raises(BackupError, match="is its filesystem mounted"):
            swap.recover(work, False, silent)
        assert swap.recover(work, False, silent) is Outcome.ROLLED_BACK
        assert (picture(target), times([target])) == (old, old_times)
