"""Archives that no packer makes: each is refused, and before anything of it is unpacked."""

from collections.abc import Callable
from pathlib import Path

import pytest

from homed.backups.records import Section
from homed.errors import ArchiveError
from tests.support.archives import BLOCK, VOLUME, Forged, check, draft, header, packed, padded, pax, summed, unpacked

Add = Callable[[Forged], object]


def refused(path: Path, code: str = "BACKUP_UNSAFE", **options: object) -> str:
    with pytest.raises(ArchiveError) as caught:
        check(path, **options)
    assert caught.value.code == code, caught.value
    return str(caught.value)


def in_volume(path: Path, add: Add) -> Path:
    forged = Forged()
    with forged.section():
        add(forged)
    return forged.write(path)


def test_what_is_forged_well_is_taken(tmp_path: Path) -> None:
    """So that what the others are refused for is what they do wrong."""
    forged = Forged()
    with forged.section():
        forged.add(b"volumes/data/file", b"content")
        forged.add(b"volumes/data/hard", kind="hardlink", link=b"volumes/data/file")
        forged.add(b"volumes/data/out", kind="symlink", link=b"/etc/passwd")
        forged.add(b"volumes/data/d", kind="dir")
        forged.add(b"volumes/data/d/file", records={b"path": b"volumes/data/d/file"})
        forged.add(b"volumes/data", kind="dir")
        forged.add(b"volumes/data/file", b"again")
    with forged.section(Section(kind="path", name="/etc/x", prefix="paths/0", single=True), root=False):
        forged.add(b"paths/0/file", b"x")
    assert check(forged.write(tmp_path / "b.tar.gz")).members == 10


@pytest.mark.parametrize(
    "name",
    [
        b"volumes/data/../../etc/passwd",
        b"volumes/data/..",
        b"volumes/data/.",
        b"volumes/data/./x",
        b"volumes/data//x",
        b"volumes/data/x/",
        b"/etc/passwd",
        b"../x",
        b"etc/passwd",
        b"volumes/other/x",
        b"volumes/datax",
        b"volumes/x",
        b"volumes",
        b"paths/../x",
        b"paths/00/file",
        b"README/x",
    ],
)
def test_names_that_lead_elsewhere(tmp_path: Path, name: bytes) -> None:
    refused(in_volume(tmp_path / "b.tar.gz", lambda forged: forged.add(name, b"x")))
    refused(
        in_volume(
            tmp_path / "b.tar.gz",
            lambda forged: forged.add(b"volumes/data/ok", b"x", records={b"path": name}, listed=name),
        )
    )


def test_no_name(tmp_path: Path) -> None:
    refused(in_volume(tmp_path / "b.tar.gz", lambda forged: forged.add(b"", b"x")), "BACKUP_DAMAGED")
    refused(in_volume(tmp_path / "b.tar.gz", lambda forged: forged.add(b"x", records={b"path": b""}, listed=b"")))


def test_a_name_with_a_nul(tmp_path: Path) -> None:
    refused(
        in_volume(
            tmp_path / "b.tar.gz",
            lambda forged: forged.add(b"volumes/data/ok", records={b"path": b"volumes/data/a\0b"}, listed=b"x"),
        )
    )


def test_a_name_that_is_too_long_to_be_made(tmp_path: Path) -> None:
    name = b"volumes/data/" + b"x" * 5000
    refused(in_volume(tmp_path / "b.tar.gz", lambda forged: forged.add(b"x", records={b"path": name}, listed=name)))


@pytest.mark.parametrize("target", [b"/tmp", b"elsewhere", b"../.."])
def test_nothing_may_stand_below_a_link(tmp_path: Path, target: bytes) -> None:
    def add(forged: Forged) -> None:
        forged.add(b"volumes/data/link/file", b"x")

    refused(in_volume(tmp_path / "b.tar.gz", add))


def test_a_folder_that_becomes_a_link(tmp_path: Path) -> None:
    def add(forged: Forged) -> None:
        forged.add(b"volumes/data/d", kind="dir")
        forged.add(b"volumes/data/d", kind="symlink", link=b"/tmp")
        forged.add(b"volumes/data/d/file", b"x")

    refused(in_volume(tmp_path / "b.tar.gz", add))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("file", "symlink"),
        ("symlink", "file"),
        ("symlink", "symlink"),
        ("dir", "file"),
        ("file", "dir"),
        ("dir", "symlink"),
    ],
)
def test_two_kinds_of_thing_under_one_name(tmp_path: Path, first: str, second: str) -> None:
    def add(forged: Forged) -> None:
        for kind in (first, second):
            forged.add(b"volumes/data/x", kind=kind, link=b"/tmp" if kind == "symlink" else b"")

    assert "twice" in refused(in_volume(tmp_path / "b.tar.gz", add))


@pytest.mark.parametrize(
    "target",
    [
        b"/etc/shadow",
        b"../../etc/shadow",
        b"volumes/data/../../x",
        b"volumes/other/x",
        b"volumes/data/none",
        b"",
        b"state/x",
        b"volumes/data/later",
        b"volumes/data/self",
        b"volumes/data",
        b"volumes/data/link/passwd",
    ],
)
def test_a_hard_link_to_nothing_before_it_or_to_a_folder_is_refused(tmp_path: Path, target: bytes) -> None:
    def add(forged: Forged) -> None:
        forged.add(b"volumes/data/self", kind="hardlink", link=target)
        forged.add(b"volumes/data/later", b"x")

    refused(in_volume(tmp_path / "b.tar.gz", add))


@pytest.mark.parametrize("kind", ["char", "block"])
def test_device_nodes(tmp_path: Path, kind: str) -> None:
    assert "device" in refused(
        in_volume(tmp_path / "b.tar.gz", lambda forged: forged.add(b"volumes/data/sda", kind=kind))
    )


@pytest.mark.parametrize("flag", [b"g", b"L", b"K", b"S", b"M", b"V", b"D", b"N", b"7", b"\0", b"A"])
def test_kinds_of_members_that_tar_does_not_write(tmp_path: Path, flag: bytes) -> None:
    refused(in_volume(tmp_path / "b.tar.gz", lambda forged: forged.add(b"volumes/data/x", flag=flag)))


@pytest.mark.parametrize(
    "records",
    [
        {b"GNU.sparse.map": b"0,1"},
        {b"GNU.sparse.name": b"volumes/data/y"},
        {b"GNU.sparse.major": b"0", b"GNU.sparse.minor": b"1", b"GNU.sparse.realsize": b"1"},
        {b"GNU.sparse.size": b"1"},
        {b"hdrcharset": b"BINARY"},
        {b"uname": b"root"},
        {b"comment": b"x"},
        {b"GNU.dumpdir": b"Yx\0"},
        {b"GNU.volume.label": b"x"},
    ],
)
def test_pax_headers_that_tar_does_not_write(tmp_path: Path, records: dict[bytes, bytes]) -> None:
    refused(in_volume(tmp_path / "b.tar.gz", lambda forged: forged.add(b"volumes/data/x", records=records)))


def test_a_sparse_file_has_the_name_that_tar_gives_it(tmp_path: Path) -> None:
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"0"}
    for name in (b"volumes/data/../../x", b"/x"):
        refused(
            in_volume(
                tmp_path / "b.tar.gz",
                lambda forged, name=name: forged.add(  # type: ignore[misc]
                    b"volumes/data/ok",
                    b"0\n",
                    records={b"path": b"volumes/data/ok", b"GNU.sparse.name": name, **records},
                ),
            )
        )


def test_a_size_that_a_pax_header_overrides_is_the_size(tmp_path: Path) -> None:
    """Whoever reads the header's finds a member in the content."""
    inner = header(b"/etc/evil", 0)
    forged = Forged()
    with forged.section():
        forged.add(b"volumes/data/x", inner)
    honest = forged.data
    lying = honest.replace(
        header(b"volumes/data/x", len(inner)),
        pax({b"size": b"%d" % len(inner)}) + header(b"volumes/data/x", 0),
    )
    shift = len(lying) - len(honest)
    forged.data = lying
    section = forged.sections.pop()
    forged.sections.append(
        Section(
            kind="volume",
            name="data",
            prefix="volumes/data",
            members=2,
            size=BLOCK,
            offset=section.offset,
            length=section.length + shift,
        )
    )
    assert check(forged.write(tmp_path / "b.tar.gz")).members == 3


@pytest.mark.parametrize(
    "body", [b"5 a=b\n", b"99999999999 path=x\n", b"path=x\n", b"12 path=xyz\n8 path=\n", b" =\n", b"0 \n", b"6 x=y"]
)
def test_pax_headers_that_cannot_be_read(tmp_path: Path, body: bytes) -> None:
    forged = Forged()
    with forged.section():
        forged.data += header(b"pax", len(body), b"x") + padded(body)
        forged.add(b"volumes/data/x")
    with pytest.raises(ArchiveError):
        check(forged.write(tmp_path / "b.tar.gz"))


def test_a_pax_header_without_end(tmp_path: Path) -> None:
    forged = Forged()
    with forged.section():
        forged.data += header(b"pax", 7 << 30, b"x") + bytes(1 << 20)
    refused(forged.write(tmp_path / "b.tar.gz"))


@pytest.mark.parametrize("size", [b"-0000000001\0", b"1_000000000\0", b"99999999999\0", b"           \0", b"\xff" * 12])
def test_sizes_that_are_none(tmp_path: Path, size: bytes) -> None:
    forged = Forged()
    with forged.section():
        block = header(b"volumes/data/x")
        forged.data += summed(block[:124] + size + block[136:])
    refused(forged.write(tmp_path / "b.tar.gz"), "BACKUP_DAMAGED")


def test_a_folder_or_link_that_holds_bytes(tmp_path: Path) -> None:
    for kind in ("dir", "symlink", "hardlink"):
        refused(
            in_volume(
                tmp_path / "b.tar.gz",
                lambda forged, kind=kind: forged.add(b"volumes/data/x", b"data", kind, link=b"volumes/data/y"),  # type: ignore[misc]
            )
        )


def test_a_section_in_two_pieces(tmp_path: Path) -> None:
    forged = Forged()
    other = Section(kind="volume", name="other", prefix="volumes/other")
    with forged.section():
        pass
    with forged.section(other):
        pass
    forged.add(b"volumes/data", kind="dir")
    assert "one piece" in refused(forged.write(tmp_path / "b.tar.gz"))


def test_a_section_that_does_not_begin_with_its_folder(tmp_path: Path) -> None:
    forged = Forged()
    with forged.section(root=False):
        forged.add(b"volumes/data/x", b"x")
    refused(forged.write(tmp_path / "b.tar.gz"))


def test_a_section_that_is_a_link(tmp_path: Path) -> None:
    forged = Forged()
    with forged.section(root=False):
        forged.add(b"volumes/data", kind="symlink", link=b"/etc")
    refused(forged.write(tmp_path / "b.tar.gz"))


def test_something_beside_a_single_file(tmp_path: Path) -> None:
    for extra in (b"paths/0/other", b"paths/0/file/x"):
        forged = Forged()
        with forged.section(Section(kind="path", name="/etc/x", prefix="paths/0", single=True), root=False):
            forged.add(b"paths/0/file", b"x")
            forged.add(extra, b"x")
        refused(forged.write(tmp_path / "b.tar.gz"))


@pytest.mark.parametrize(
    "section",
    [
        Section(kind="volume", name="../..", prefix="volumes/data"),
        Section(kind="volume", name="other", prefix="volumes/data"),
        Section(kind="path", name="/etc", prefix="volumes/data"),
        Section(kind="state", name="state", prefix="volumes/data"),
        Section(kind="other", name="data", prefix="volumes/data"),
        Section(kind="volume", name="data", prefix="volumes/data/.."),
        Section(kind="volume", name="data", prefix="volumes"),
        Section(kind="volume", name="data", prefix=""),
        Section(kind="path", name="relative", prefix="paths/0"),
        Section(kind="path", name="/a/../etc", prefix="paths/0"),
        Section(kind="path", name="//etc", prefix="paths/0"),
        Section(kind="path", name="/etc", prefix="paths/../volumes"),
    ],
)
def test_a_manifest_whose_sections_are_none(tmp_path: Path, section: Section) -> None:
    forged = Forged()
    with forged.section():
        pass
    real = forged.sections.pop()
    forged.sections.append(
        Section(
            kind=section.kind,
            name=section.name,
            prefix=section.prefix,
            members=real.members,
            size=real.size,
            offset=real.offset,
            length=real.length,
        )
    )
    refused(forged.write(tmp_path / "b.tar.gz"))


def test_a_manifest_that_lies_about_where_sections_are(tmp_path: Path) -> None:
    for field in ("offset", "length", "members", "size"):
        forged = Forged()
        with forged.section():
            pass
        section = forged.sections.pop()
        values = {one: getattr(section, one) for one in section.__struct_fields__}
        forged.sections.append(Section(**{**values, field: values[field] + 512}))
        refused(forged.write(tmp_path / "b.tar.gz"), "BACKUP_DAMAGED")


def test_a_section_that_is_not_declared_or_declared_twice_or_missing(tmp_path: Path) -> None:
    forged = Forged()
    with forged.section():
        pass
    (section,) = forged.sections
    forged.sections = []
    refused(forged.write(tmp_path / "b.tar.gz"))
    forged.sections = [section, section]
    refused(forged.write(tmp_path / "b.tar.gz"))
    forged.sections = [section, Section(kind="volume", name="b", prefix="volumes/b", members=1)]
    refused(forged.write(tmp_path / "b.tar.gz"), "BACKUP_DAMAGED")


def test_a_newer_format(tmp_path: Path) -> None:
    path = Forged().write(tmp_path / "b.tar.gz", fields={"format": 2, "type": "of the future"})
    assert "newer" in refused(path, "BACKUP_VERSION")


def test_a_manifest_that_is_no_backups(tmp_path: Path) -> None:
    for fields in ({"created_at": 5}, {"sections": "none"}, {"format": "x"}, {"type": "other"}):
        refused(Forged().write(tmp_path / "b.tar.gz", fields=fields), "BACKUP_DAMAGED")


def test_no_manifest(tmp_path: Path) -> None:
    data = Forged().data
    assert "manifest" in refused(packed(tmp_path / "b.tar.gz", data + bytes(2 * BLOCK)), "BACKUP_DAMAGED")
    refused(packed(tmp_path / "b.tar.gz", data), "BACKUP_DAMAGED")
    refused(packed(tmp_path / "b.tar.gz", bytes(10240)), "BACKUP_DAMAGED")
    refused(packed(tmp_path / "b.tar.gz", b""), "BACKUP_DAMAGED")


def test_a_manifest_that_is_a_folder_or_a_link(tmp_path: Path) -> None:
    for flag in (b"5", b"2"):
        data = Forged().data + header(b"manifest.jsonl", 0, flag, b"x") + bytes(2 * BLOCK)
        refused(packed(tmp_path / "b.tar.gz", data), "BACKUP_DAMAGED")


def test_something_after_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    forged = Forged()
    assert check(forged.write(path, after=bytes(10240))).members == 1
    refused(forged.write(path, after=b"x"))
    refused(forged.write(path, after=header(b"/etc/passwd")))
    whole = forged.write(path).read_bytes()
    path.write_bytes(whole + b"garbage")
    refused(path, "BACKUP_DAMAGED")
    path.write_bytes(whole + whole)
    refused(path)


def test_a_member_between_the_manifest_and_the_end(tmp_path: Path) -> None:
    path = Forged().write(tmp_path / "b.tar.gz")
    data = unpacked(path)
    packed(path, data[: -2 * BLOCK] + header(b"volumes/data/late") + bytes(2 * BLOCK))
    refused(path)


def test_what_does_not_begin_with_its_readme(tmp_path: Path) -> None:
    data = unpacked(Forged().write(tmp_path / "b.tar.gz"))
    refused(packed(tmp_path / "b.tar.gz", header(b"first") + data))
    refused(
        packed(tmp_path / "b.tar.gz", data.replace(header(b"README", 6), header(b"README", 0, b"2", b"/etc/passwd"), 1))
    )


def test_a_bomb(tmp_path: Path) -> None:
    forged = Forged()
    with forged.section():
        forged.add(b"volumes/data/zeros", bytes(8 << 20))
    path = forged.write(tmp_path / "b.tar.gz")
    assert path.stat().st_size < 100_000
    assert "more than" in refused(path, limit=1 << 20)
    assert check(path, limit=16 << 20).data_size == (8 << 20) + 6


def test_a_size_that_is_only_declared(tmp_path: Path) -> None:
    """Nothing is set aside for it; the archive just ends too early."""
    data = Forged().data
    big = header(b"volumes/data/x", 0)
    big = summed(big[:124] + b"\x80" + (1 << 60).to_bytes(11, "big") + big[136:])
    refused(
        packed(tmp_path / "b.tar.gz", data + header(b"volumes/data/", 0, b"5") + big + bytes(4096)), "BACKUP_DAMAGED"
    )


def test_what_is_no_archive_at_all(tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    for content in (b"", b"x", b"\x1f\x8b", b"PK\x03\x04" + bytes(100), bytes(1000)):
        path.write_bytes(content)
        refused(path, "BACKUP_DAMAGED")
    packed(path, b"not a tar at all" * 1000)
    refused(path, "BACKUP_DAMAGED")


def test_a_stranger_does_not_matter_to_who_made_it(tmp_path: Path) -> None:
    """Another board, another architecture: it is what the manifest says, for others to judge."""
    fields = {"architecture": "riscv64", "board": "elsewhere", "homed": "99.0", "schema": 999}
    backup = check(Forged().write(tmp_path / "b.tar.gz", fields=fields))
    assert (backup.architecture, backup.board, backup.homed, backup.schema) == ("riscv64", "elsewhere", "99.0", 999)
    assert backup.created_at == draft().created_at
    assert VOLUME not in backup.sections
