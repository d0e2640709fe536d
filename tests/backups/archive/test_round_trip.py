"""What a tree is before and after: packed, verified, unpacked."""

import os
import socket
import subprocess
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homed.backups.records import Section
from tests.support.archives import VOLUME, Told, by_hand, check, pack, put_back, round_trip, snapshot

_ODD = (
    b"new\nline",
    b"bad\xff\xfeutf8",
    "gr\u00fc\u00df\u4f60\u597d".encode(),
    b"-rf",
    b"--checkpoint-action=exec=sh",
    b"back\\slash\\n\\101",
    b'quo"te',
    b"100%41",
    b" lead and trail ",
    b"manifest.jsonl",
    b"README",
    b"GNUSparseFile.1",
    b"*?[a]",
    b"a:b: file changed as we read it",
    b"\x01\x7f\x1b[31m",
    b"x" * 255,
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    return made


def test_owners_modes_times_links_and_attributes_are_kept(tree: Path, tmp_path: Path) -> None:
    deep = tree / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"content")
    (tree / "empty").touch()
    (tree / "script").write_bytes(b"#!/bin/sh\n")
    os.chown(tree / "script", 12345, 54321)
    os.chmod(tree / "script", 0o6751)
    os.chown(deep, 3_000_000, 2_999_999)
    os.chmod(deep, 0o1700)
    os.symlink("/etc/passwd", tree / "out")
    os.symlink("../../..", deep / "up")
    os.symlink("x" * 1000, tree / "long link")
    os.link(deep / "file", tree / "hard")
    os.mkfifo(tree / "fifo", 0o640)
    os.setxattr(tree / "empty", "user.note", b"\x00\xff=\nvalue")
    os.setxattr(tree / "a", "user.folder", b"yes")
    os.setxattr(tree / "script", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    subprocess.run(["setfacl", "-m", "u:33:r,g:44:rw", tree / "empty"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:33:rwx", tree / "a"], check=True)
    os.utime(tree / "empty", ns=(1, 1_234_567_890_123_456_789))
    os.utime(tree / "fifo", ns=(1, 999))
    os.utime(tree / "out", ns=(1, 1_600_000_000_000_000_001), follow_symlinks=False)
    os.utime(deep, ns=(1, 1_500_000_000_987_654_321))
    os.chown(tree, 7, 8)
    os.chmod(tree, 0o2750)
    os.utime(tree, ns=(1, 1_400_000_000_000_000_007))
    before = snapshot(tree)
    assert snapshot(round_trip(tree, tmp_path)) == before


def test_odd_names_are_kept(tree: Path, tmp_path: Path) -> None:
    root = os.fsencode(tree)
    for name in _ODD:
        os.mkdir(root + b"/d" + name[:254])
        Path(os.fsdecode(root + b"/" + name)).write_bytes(name)
        Path(os.fsdecode(root + b"/d" + name[:254] + b"/" + name)).write_bytes(name)
        os.link(root + b"/" + name, root + b"/d" + name[:254] + b"/h" + name[:254])
        os.symlink(name, root + b"/d" + name[:254] + b"/s" + name[:254])
    before = snapshot(tree)
    assert snapshot(round_trip(tree, tmp_path)) == before


def test_visiting_gives_every_name_back_byte_for_byte(tree: Path, tmp_path: Path) -> None:
    for name in _ODD:
        Path(os.fsdecode(os.fsencode(tree) + b"/" + name)).write_bytes(b"x")
    path = tmp_path / "b.tar.gz"
    pack(path, [(VOLUME, tree)])
    seen = []
    check(path, visit=lambda section, member: seen.append((section.name, os.fsencode(member.name))))
    assert sorted(seen) == sorted([("data", b""), *(("data", name) for name in _ODD)])


def test_visiting_tells_what_a_member_is(tree: Path, tmp_path: Path) -> None:
    (tree / "file").write_bytes(b"12345")
    os.truncate(tree / "file", 1 << 30)
    os.chown(tree / "file", 10, 3_000_000)
    os.chmod(tree / "file", 0o4640)
    os.utime(tree / "file", ns=(0, 1_700_000_000_500_000_000))
    os.symlink("file", tree / "link")
    os.link(tree / "file", tree / "other")
    path = tmp_path / "b.tar.gz"
    pack(path, [(VOLUME, tree)])
    seen = {}
    check(path, visit=lambda section, member: seen.update({member.name: member}))
    first, second = sorted(("file", "other"), key=lambda name: seen[name].kind == "hardlink")
    assert seen[first].kind == "sparse"
    assert seen[first][2:7] == (1 << 30, 1_700_000_000.5, 0o4640, 10, 3_000_000)
    assert (seen[second].kind, seen[second].link) == ("hardlink", first)
    assert (seen["link"].kind, seen["link"].link) == ("symlink", "file")


def test_what_is_too_deep_to_be_laid_out_is_warned_of(tree: Path, tmp_path: Path) -> None:
    folder = os.open(tree, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 200, dir_fd=folder)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=folder), "wb") as file:
        file.write(b"deep")
    os.close(folder)
    told = Told()
    path = tmp_path / "b.tar.gz"
    made = pack(path, [(VOLUME, tree)], told)
    assert made.members == 2 + 20
    assert told.warnings == ["data: what has a path of more than 4095 bytes is not part of the backup (21)"]
    (staged,) = put_back(path, check(path), tmp_path / "staged")
    assert len(list(staged.rglob("*"))) == 20
    subprocess.run(["rm", "-rf", tree, staged], check=True)


def test_holes_stay_holes(tree: Path, tmp_path: Path) -> None:
    with (tree / "sparse").open("wb") as file:
        file.truncate(20 << 30)
        for at in (0, 5 << 30, (20 << 30) - 4096):
            file.seek(at)
            file.write(os.urandom(4096))
    made = round_trip(tree, tmp_path) / "sparse"
    assert (tmp_path / "backup.tar.gz").stat().st_size < 100_000
    assert made.stat().st_size == 20 << 30
    assert made.stat().st_blocks < 1000
    with made.open("rb") as one, (tree / "sparse").open("rb") as other:
        for at in (0, 4096, 5 << 30, (20 << 30) - 4096):
            one.seek(at)
            other.seek(at)
            assert one.read(4096) == other.read(4096)


def test_a_file_of_more_than_eight_gigabytes_is_followed(tree: Path, tmp_path: Path) -> None:
    """Its size does not fit a header."""
    with (tree / "large").open("wb") as file:
        file.truncate(9 << 30)
        # Many pieces make a long map.
        for at in range(0, 9 << 30, 64 << 20):
            file.seek(at)
            file.write(b"x" * 4096)
    before = (tree / "large").stat()
    made = (round_trip(tree, tmp_path) / "large").stat()
    assert (made.st_size, made.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_sockets_are_left_out_and_device_nodes_are_warned_of(tree: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(tree / "so cket"))
    try:
        os.mknod(tree / "null", 0o20666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("device nodes cannot be made here")
    os.link(tree / "null", tree / "null too")
    (tree / "file").write_bytes(b"x")
    told = Told()
    path = tmp_path / "b.tar.gz"
    pack(path, [(VOLUME, tree)], told)
    (staged,) = put_back(path, check(path), tmp_path / "staged")
    assert os.listdir(staged) == ["file"]
    assert told.warnings == ["data: device nodes are not part of the backup (2)"]


def test_several_sections_and_only_some_of_them(tree: Path, tmp_path: Path) -> None:
    sections = []
    for i in range(4):
        one = tree / str(i)
        one.mkdir()
        (one / "file").write_bytes(bytes([i]) * 100_000)
        sections.append((Section(kind="path", name=f"/srv/{i}", prefix=f"paths/{i}"), one))
    path = tmp_path / "b.tar.gz"
    pack(path, sections)
    backup = check(path)
    wanted = msgspec.structs.replace(backup, sections=(backup.sections[3], backup.sections[1]))
    staged = put_back(path, wanted, tmp_path / "staged")
    assert [(one / "file").read_bytes()[:1] for one in staged] == [b"\x03", b"\x01"]


def test_a_single_file_is_a_section(tree: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"we,ird\n&\\1 \xff.conf")
    (tree / name).write_bytes(b"setting")
    os.utime(tree / name, ns=(0, 1_700_000_000_000_000_001))
    path = tmp_path / "b.tar.gz"
    pack(path, [(Section(kind="path", name="/etc/x.conf", prefix="paths/0"), tree / name)])
    backup = check(path)
    assert (backup.sections[0].single, backup.sections[0].members) == (True, 1)
    (staged,) = put_back(path, backup, tmp_path / "staged")
    assert (staged / "file").read_bytes() == b"setting"
    assert (staged / "file").stat().st_mtime_ns == 1_700_000_000_000_000_001


def test_it_can_be_unpacked_by_hand(tree: Path, tmp_path: Path) -> None:
    (tree / "a").mkdir()
    (tree / "a" / "file").write_bytes(b"content")
    os.setxattr(tree / "a" / "file", "user.x", b"y")
    (tree / "sparse").touch()
    os.truncate(tree / "sparse", 1 << 20)
    os.symlink("/", tree / "root")
    path = tmp_path / "b.tar.gz"
    pack(path, [(VOLUME, tree)])
    by_hand(path, tmp_path / "hand")
    assert snapshot(tmp_path / "hand" / "volumes" / "data") == snapshot(tree)
    assert "tar" in (tmp_path / "hand" / "README").read_text()


def test_what_is_excluded_is_not_there(tree: Path, tmp_path: Path) -> None:
    for name in ("keep", "cache", "cache*", "deep"):
        (tree / name).mkdir()
        (tree / name / "cache").write_bytes(b"x")
    path = tmp_path / "b.tar.gz"
    pack(path, [(VOLUME, tree)], exclude=["cache", str(tree / "deep" / "cache"), "/elsewhere", ".", "../tree/keep"])
    (staged,) = put_back(path, check(path), tmp_path / "staged")
    assert sorted(str(one.relative_to(staged)) for one in staged.rglob("*")) == [
        "cache*",
        "cache*/cache",
        "deep",
        "keep",
        "keep/cache",
    ]


_names = st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & {0, 0x2F} and name not in (b".", b".."))
_contents = st.one_of(st.binary(max_size=2000), st.integers(0, 3000).map(lambda n: b"\0" * n * 512 + b"x" * n))
_trees = st.recursive(
    st.one_of(_contents, st.just("fifo"), _names.map(lambda name: ("link", name))),
    lambda inner: st.dictionaries(_names, inner, max_size=6),
    max_leaves=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.dictionaries(_names, _trees, max_size=6), modes=st.randoms(use_true_random=False))
def test_any_tree_comes_back(
    tmp_path_factory: pytest.TempPathFactory, made: dict[bytes, object], modes: Random
) -> None:
    work = tmp_path_factory.mktemp("any")
    tree = work / "tree"
    _lay(os.fsencode(tree), made, modes)
    before = snapshot(tree)
    assert snapshot(round_trip(tree, work)) == before
    subprocess.run(["rm", "-rf", work], check=True)


def _lay(path: bytes, what: object, modes: Random) -> None:
    """What `what` says, with any owner, mode and time, and in a third of the cases one more name."""
    if isinstance(what, dict):
        os.mkdir(path)
        for name, inner in what.items():
            _lay(path + b"/" + name, inner, modes)
        _mark(path, modes)
        return
    if isinstance(what, bytes):
        with open(path, "wb") as file:
            file.write(what)
    elif isinstance(what, tuple):
        os.symlink(what[1], path)
    else:
        os.mkfifo(path)
    _mark(path, modes)
    if modes.random() < 0.3 and len(os.path.basename(path)) < 250 and not os.path.lexists(path + b"+"):
        os.link(path, path + b"+", follow_symlinks=False)


def _mark(path: bytes, modes: Random) -> None:
    os.chown(path, modes.choice([0, 1, 1 << 21, (1 << 32) - 2]), modes.randrange((1 << 32) - 1), follow_symlinks=False)
    if not os.path.islink(path):
        os.chmod(path, modes.randrange(0o10000))
    if os.path.isfile(path) and not os.path.islink(path) and modes.random() < 0.3:
        os.setxattr(path, b"user." + modes.choice([b"a", b"a=b", b"%3D", b"a\nb", b"\xff"]), modes.randbytes(20))
    os.utime(path, ns=(0, modes.randrange(-(1 << 60), 1 << 61)), follow_symlinks=False)


@pytest.mark.parametrize("leads", ["a", "/etc/hosts", "../../x", "gone"])
def test_a_hard_link_to_a_symlink_is_one_more_name_of_it(tree: Path, tmp_path: Path, leads: str) -> None:
    """As `ln -P` and `cp -al` make them."""
    (tree / "a").write_bytes(b"content")
    os.symlink(leads, tree / "l")
    os.link(tree / "l", tree / "l2", follow_symlinks=False)
    subprocess.run(["cp", "-al", tree / "l", tree / "l3"], check=True)
    before = snapshot(tree)
    staged = round_trip(tree, tmp_path)
    assert snapshot(staged) == before
    assert len({(staged / name).lstat().st_ino for name in ("l", "l2", "l3")}) == 1


def test_all_names_of_a_pipe_come_back(tree: Path, tmp_path: Path) -> None:
    os.mkfifo(tree / "a")
    os.link(tree / "a", tree / "b")
    before = snapshot(tree)
    assert snapshot(round_trip(tree, tmp_path)) == before


def test_names_that_differ_by_case_or_normal_form_alone_are_kept(tree: Path, tmp_path: Path) -> None:
    for name in ("a", "A", "\u00e9", "e\u0301", "\u212b", "\u00c5", "x.", "x ", "x", "CON"):
        (tree / name).write_text(name)
    before = snapshot(tree)
    assert snapshot(round_trip(tree, tmp_path)) == before
