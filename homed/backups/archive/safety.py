"""Safety checks of an archive: its members are validated as a stream, whatever program made them.

- The first member is README; all others stand below a prefix that the manifest declares, each section in one piece.
- A name has no empty part, no `.` or `..`. The folder that a member stands in is a folder member before it, and the
  last ones seen lead to it (tar writes a tree so): so nothing can stand below a link.
- A link of a volume may point anywhere, as it did; it is never followed. A hard link's target is a member before it in
  the same section, and no folder: a link to a link (`ln -P`, `cp -al`) is one more name of it, and leads nowhere else.
- There are no device nodes. A container's root can make them, but not use them; put back by the board's root they would
  open the board's disks to whoever gets at them there. The packer leaves them out, so none is refused here for nothing.
- A name stands there twice only where a file was read again, or a folder on the way to one.
- Of homed's own state, the files that a restore reads are plain files of a size that homed can read.

What cannot be told from one member is looked up in the manifest's lines, many at once, so that memory does not grow
with the archive: a table of bits says which names may have come twice.
"""

from collections.abc import Iterator
from typing import Final

from homed.backups.archive import manifest, prefixes, state
from homed.backups.archive.follow import Entry, real_size, show, unsafe
from homed.backups.archive.spool import Spool
from homed.backups.records import Backup, Section
from homed.errors import ArchiveError

_FILES: Final = ("file", "sparse")
_BITS: Final = 1 << 26
_AT_ONCE: Final = 50_000
_DEEPEST: Final = 50_000
_MOST_SECTIONS: Final = 10_000
_LONGEST_README: Final = 1 << 20


class _Run:
    """The members of one prefix. `single`: it is one file. Its lines begin at `spooled`, with number `first`."""

    def __init__(self, prefix: bytes, offset: int, *, single: bool, spooled: int, first: int):
        self.prefix = prefix
        self.below = prefix + b"/"
        self.single = single
        self.is_state = prefix == state.PREFIX
        self.spooled = spooled
        self.first = first
        self.offset = self.end = offset
        self.members = self.size = 0
        self.folders: list[bytes] = []
        self.seen = bytearray(_BITS >> 3)


class Checks:
    """`see` each member before its line is spooled, then `finish`.

    ArchiveError: BACKUP_UNSAFE; BACKUP_DAMAGED where the manifest says that the archive is another one.
    """

    def __init__(self, lines: Spool):
        self._lines = lines
        self._runs: dict[bytes, _Run] = {}
        self._run = _Run(b"", 0, single=False, spooled=0, first=0)
        self._index = -1
        self._links: list[tuple[int, bytes]] = []
        self._perhaps_twice: set[bytes] = set()
        self._has_records = False

    def see(self, entry: Entry) -> None:
        self._index += 1
        name, kind = entry.name, entry.kind
        run = self._run
        if not name.startswith(run.below) and name != run.prefix:
            if not self._index:
                return _check_readme(entry)
            run = self._begin(entry)
        framed = b"/%b/" % name
        dotted = b"//" in framed or b"/./" in framed or b"/../" in framed
        if dotted or b"\0" in framed or len(name) > prefixes.LONGEST:
            raise unsafe(f"it holds the name '{show(name)}'")
        run.members += 1
        run.size += entry.size
        run.end = entry.end
        folders = run.folders
        if not folders or folders[-1] != name[: name.rfind(b"/")]:
            _climb(run, name, kind)
        if kind == "dir":
            folders.append(name)
            if len(folders) > _DEEPEST:
                raise unsafe(f"it goes too deep at '{show(name)}'")
        elif kind != "file":
            self._check_other(run, entry)
        if run.is_state:
            self._check_state(run, entry)
        at = hash(name) % _BITS
        bit = 1 << (at & 7)
        if run.seen[at >> 3] & bit:
            self._perhaps_twice.add(name)
            if len(self._perhaps_twice) >= _AT_ONCE:
                self._settle(entry)
        else:
            run.seen[at >> 3] |= bit
        return None

    def finish(self, backup: Backup) -> None:
        """Whether it is what its manifest's sections say."""
        self._settle(None)
        declared: dict[bytes, Section] = {}
        for section in backup.sections:
            fault = prefixes.fault(section)
            if fault is None and section.prefix.encode() in declared:
                fault = f"'{section.prefix}' is declared twice"
            if fault is not None:
                raise unsafe(fault)
            if section.members:
                declared[section.prefix.encode()] = section
        for prefix, run in self._runs.items():
            if prefix not in declared:
                raise unsafe(f"'{show(prefix)}' is not in its manifest")
            section = declared[prefix]
            if run.is_state and not self._has_records:
                raise ArchiveError(f"the backup's state holds no {state.RECORDS}")
            said = section.members, section.size, section.offset, section.length, section.single
            if said != (run.members, run.size, run.offset, run.end - run.offset, run.single):
                raise ArchiveError(f"the archive is damaged: its manifest says otherwise of '{section.prefix}'")
        missing = [section.prefix for prefix, section in declared.items() if prefix not in self._runs]
        if missing:
            raise ArchiveError(f"the archive is damaged: '{missing[0]}' is missing")

    def _begin(self, entry: Entry) -> _Run:
        """Another section."""
        self._settle(None)
        name = entry.name
        prefix = prefixes.prefix_of(name)
        if prefix is None:
            raise unsafe(f"'{show(name)}' stands where no member may")
        if prefix in self._runs or len(self._runs) >= _MOST_SECTIONS:
            raise unsafe(f"'{show(prefix)}' is not in one piece")
        single = prefix.startswith(b"paths/") and name == prefix + prefixes.SINGLE and entry.kind in _FILES
        if not single and (name != prefix or entry.kind != "dir"):
            raise unsafe(f"'{show(prefix)}' does not begin with its folder")
        self._run.seen = bytearray()
        run = _Run(prefix, entry.start, single=single, spooled=self._lines.length, first=self._index)
        self._run = self._runs[prefix] = run
        return run

    def _check_state(self, run: _Run, entry: Entry) -> None:
        name = entry.name[len(run.below) :].decode("utf-8", "replace")
        fault = state.fault(name, entry.kind, real_size(entry) if entry.kind == "sparse" else entry.size)
        if fault is not None:
            raise unsafe(fault)
        self._has_records |= name == state.RECORDS

    def _check_other(self, run: _Run, entry: Entry) -> None:
        if entry.kind in ("char", "block"):
            raise unsafe(f"'{show(entry.name)}' is a device node")
        link = entry.link
        if entry.kind == "symlink" and (not link or b"\0" in link):
            raise unsafe(f"the link '{show(entry.name)}' leads nowhere")
        if entry.kind == "hardlink":
            if not link.startswith(run.below):
                raise unsafe(f"the link '{show(entry.name)}' leads out, to '{show(link)}'")
            self._links.append((self._index, link))
            if len(self._links) >= _AT_ONCE:
                self._settle(entry)

    def _settle(self, now: Entry | None) -> None:
        """Look up what hard links lead to and what is there twice. `now` is the member that has no line yet."""
        if not self._links and not self._perhaps_twice:
            return
        run = self._run
        found: dict[bytes, tuple[int, str]] = {}
        targets = {link for _, link in self._links}
        for index, name, kind in self._of_these(run, targets | self._perhaps_twice, now):
            first, before = found.setdefault(name, (index, kind))
            both_files = before in _FILES and kind in _FILES
            if first != index and not both_files and not before == kind == "dir":
                raise unsafe(f"'{show(name)}' is there twice")
        for index, link in self._links:
            first, kind = found.get(link, (index, ""))
            if first >= index or kind == "dir":
                raise unsafe(f"a hard link leads to '{show(link)}', which is no file before it")
        self._links.clear()
        self._perhaps_twice.clear()

    def _of_these(self, run: _Run, names: set[bytes], now: Entry | None) -> Iterator[tuple[int, bytes, str]]:
        for index, name, kind in manifest.kinds(self._lines.lines(run.spooled), names):
            yield run.first + index, name, kind
        if now is not None and now.name in names:
            yield self._index, now.name, now.kind


def _check_readme(entry: Entry) -> None:
    if entry.name != manifest.README or entry.kind != "file" or entry.size > _LONGEST_README:
        raise unsafe(f"it begins with '{show(entry.name)}' and not with {manifest.README.decode()}")


def _climb(run: _Run, name: bytes, kind: str) -> None:
    """Out of the folders that were left, to that which the member stands in."""
    if run.single:
        if name != run.prefix + prefixes.SINGLE or kind not in _FILES:
            raise unsafe(f"'{show(name)}' stands beside a single file")
        return
    folders = run.folders
    if name == run.prefix:
        if kind != "dir":
            raise unsafe(f"'{show(name)}' is no folder")
        folders.clear()
        return
    parent = name[: name.rfind(b"/")]
    while folders and folders[-1] != parent:
        folders.pop()
    if not folders:
        raise unsafe(f"'{show(name)}' stands in no folder that the archive holds")
