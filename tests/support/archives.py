"""Archives of backups: packed from real trees, taken apart, and made by hand for what no packer writes."""

import contextlib
import gzip
import hashlib
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from homed.backups.archive.pack import Packer
from homed.backups.archive.unpack import unpack
from homed.backups.archive.verify import verify
from homed.backups.records import Backup, Section, Type
from homed.backups.worker.context import Context

VOLUME = Section(kind="volume", name="data", prefix="volumes/data")
BLOCK = 512


class Told:
    """A watch, and what was warned of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.progress: list[int] = []
        self.context = Context(lambda progress: self.progress.append(progress.bytes), self.warnings.append)


def draft(**changes: Any) -> Backup:
    backup = Backup(
        name="backup-20260102-030405.tar.gz",
        type=Type.FULL,
        created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        size=0,
    )
    return msgspec.structs.replace(backup, **changes)


def pack(
    path: Path, trees: Iterable[tuple[Section, Path]], told: Told | None = None, *, exclude: Sequence[str] = ()
) -> Backup:
    watch = (told or Told()).context
    with Packer(path, path.with_suffix(".spool"), draft(), level=1, seal=None, watch=watch) as packer:
        for section, tree in trees:
            packer.add(section, tree, exclude=exclude)
        return packer.finish()


def check(path: Path, **options: Any) -> Backup:
    return verify(path, path.with_suffix(".check"), None, Told().context, **options)


def put_back(path: Path, backup: Backup, folder: Path, told: Told | None = None) -> list[Path]:
    """Each section into a folder of its own in `folder`."""
    pieces = []
    for i, section in enumerate(backup.sections):
        staged = folder / str(i)
        staged.mkdir(parents=True)
        pieces.append((section, staged))
    unpack(path, None, pieces, (told or Told()).context)
    return [staged for _, staged in pieces]


def round_trip(tree: Path, work: Path) -> Path:
    """Packed, verified, unpacked: where it is then."""
    path = work / "backup.tar.gz"
    pack(path, [(VOLUME, tree)])
    (staged,) = put_back(path, check(path), work / "staged")
    return staged


def snapshot(tree: Path) -> dict[bytes, tuple[object, ...]]:
    """All that is to be kept of a tree. Names that are one file have one number."""
    found: dict[bytes, tuple[object, ...]] = {}
    numbers: dict[int, int] = {}
    root = os.fsencode(tree)
    pending = [b"."]
    while pending:
        name = pending.pop()
        path = root + b"/" + name
        there = os.lstat(path)
        content: object = None
        if stat.S_ISREG(there.st_mode):
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        elif stat.S_ISLNK(there.st_mode):
            content = os.readlink(path)
        elif stat.S_ISDIR(there.st_mode):
            pending += [name + b"/" + inside for inside in sorted(os.listdir(path), reverse=True)]
        attributes = {
            one: os.getxattr(path, one, follow_symlinks=False)
            for one in sorted(os.listxattr(path, follow_symlinks=False))
        }
        has_names = stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode)  # tar makes two pipes of a pipe's names
        number = numbers.setdefault(there.st_ino, len(numbers)) if has_names else None
        size = there.st_size if stat.S_ISREG(there.st_mode) else None
        found[name] = (
            there.st_mode,
            there.st_uid,
            there.st_gid,
            size,
            there.st_mtime_ns,
            number,
            content,
            tuple(attributes.items()),
        )
    return found


def unpacked(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def packed(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data, 1, mtime=0))
    return path


def header(name: bytes, size: int = 0, flag: bytes = b"0", link: bytes = b"", prefix: bytes = b"") -> bytes:
    """A ustar header with a right sum."""
    fields = name.ljust(100, b"\0") + b"0000755\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"%011o\0" % 1_700_000_000
    rest = flag + link.ljust(100, b"\0") + b"ustar\x0000" + bytes(80) + prefix.ljust(155, b"\0") + bytes(12)
    return summed(fields + bytes(8) + rest)


def summed(block: bytes) -> bytes:
    total = sum(block[:148]) + sum(block[156:]) + 8 * 0x20
    return block[:148] + b"%06o\0 " % total + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def pax(records: Mapping[bytes, bytes], flag: bytes = b"x") -> bytes:
    body = b"".join(record(key, value) for key, value in records.items())
    return header(b"PaxHeaders/x", len(body), flag) + padded(body)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    if len(str(length)) > len(str(len(rest))):
        length = len(rest) + len(str(length))
    return b"%d%b" % (length, rest)


class Forged:
    """An archive made member by member, with a manifest that fits it unless told otherwise."""

    def __init__(self) -> None:
        self.data = b""
        self.lines: list[bytes] = []
        self.total = 0
        self.sections: list[Section] = []
        self._begun: tuple[Section, int, int, int] | None = None
        self.add(b"README", b"hello\n")

    def add(
        self,
        name: bytes,
        content: bytes = b"",
        kind: str = "file",
        *,
        flag: bytes = b"",
        link: bytes = b"",
        records: Mapping[bytes, bytes] | None = None,
        listed: bytes | None = None,
    ) -> "Forged":
        flag = flag or {"file": b"0", "hardlink": b"1", "symlink": b"2", "char": b"3", "block": b"4", "dir": b"5"}[kind]
        if records:
            self.data += pax(records)
        stored = name + b"/" if kind == "dir" else name
        self.data += header(stored, len(content), flag, link) + padded(content)
        digest = hashlib.sha256(content).hexdigest() if kind == "file" else None
        text = (listed or name).decode("utf-8", "backslashreplace")
        self.lines.append(msgspec.json.encode([text, kind, len(content), digest]) + b"\n")
        self.total += len(content)
        return self

    @contextlib.contextmanager
    def section(self, section: Section = VOLUME, *, root: bool = True) -> Iterator["Forged"]:
        offset, members, total = len(self.data), len(self.lines), self.total
        if root:
            self.add(section.prefix.encode(), kind="dir")
        yield self
        self.sections.append(
            msgspec.structs.replace(
                section,
                members=len(self.lines) - members,
                size=self.total - total,
                offset=offset,
                length=len(self.data) - offset,
            )
        )

    def write(self, path: Path, *, fields: Mapping[str, object] | None = None, after: bytes = b"") -> Path:
        backup = draft(members=len(self.lines), data_size=self.total, sections=tuple(self.sections))
        built = {"format": 1, **msgspec.to_builtins(backup), **(fields or {})}
        del built["size"]
        body = b"".join([msgspec.json.encode(built) + b"\n", *self.lines])
        digest = hashlib.sha256(body).hexdigest()
        body += msgspec.json.encode({"members": len(self.lines), "size": self.total, "sha256": digest}) + b"\n"
        end = header(b"manifest.jsonl", len(body)) + padded(body) + bytes(2 * BLOCK)
        return packed(path, self.data + end + after)


def by_hand(path: Path, folder: Path) -> None:
    """As README tells."""
    folder.mkdir()
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpzf", str(path)],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=60,
    )
