"""Takes one tree into an archive: tar reads it, what changed meanwhile is read again, what tar says is judged."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec

from homed.backups.archive import again, manifest, prefixes, tar
from homed.backups.archive.follow import Entry, Follower, heavy, real_size, show
from homed.backups.archive.output import Output
from homed.backups.archive.tar import Meaning, Message
from homed.backups.records import Section
from homed.backups.worker import survey
from homed.backups.worker.context import Watch
from homed.errors import BackupError

_PIECE: Final = 1 << 20
_ROUNDS: Final = 2
# What may be read again, beside as much as the tree holds: a busy large file must not fill the disk with its versions.
_ROOM: Final = 16 << 20
_SHOWN: Final = 100
_REMARKS: Final = 20


class Taking:
    """One section: `run` once."""

    def __init__(self, out: Output, watch: Watch, section: Section, tree: Path, exclude: Sequence[str]):
        self._out = out
        self._watch = watch
        self._section = section
        self._tree = tree
        self._prefix = section.prefix.encode()
        self._base = Path(section.stored) if section.stored else tree
        self._exclude = [path for path in (again.relative(one, (self._base, tree)) for one in exclude) if path]
        self._members = self._size = self._apparent = self._devices = self._deep = self._heavy = 0
        self._lost: set[bytes] = set()
        self._lost_folders: set[bytes] = set()
        self._changed: dict[bytes, None] = {}
        self._uncounted = 0
        self._remarks = 0

    def run(self) -> Section:
        offset = self._out.offset
        spooled = self._out.spool.length
        single = self._capture(spooled)
        if self._devices:
            self._watch.warn(f"{self._section.name}: device nodes are not part of the backup ({self._devices})")
        if self._deep:
            self._watch.warn(
                f"{self._section.name}: what has a path of more than {prefixes.LONGEST} bytes is not part of the backup"
                f" ({self._deep})"
            )
        if self._heavy:
            self._watch.warn(
                f"{self._section.name}: what has more than 8 MiB of extended attributes, or is below it, is not part of"
                f" the backup ({self._heavy})"
            )
        return msgspec.structs.replace(
            self._section,
            single=single,
            members=self._members,
            size=self._size,
            apparent_size=self._apparent,
            offset=offset,
            length=self._out.offset - offset,
            changed=tuple(manifest.encode(name[2:] or b".")[:1000] for name in list(self._changed)[:_SHOWN]),
            changed_count=len(self._changed) + self._uncounted,
        )

    def _capture(self, spooled: int) -> bool:
        """Whether it is a single file."""
        found = survey.locate(self._tree)
        if isinstance(found, str):
            self._watch.warn(f"{self._section.name} {found}")
            return False
        if found.single:
            self._file(found.path)
        else:
            self._folder(found.path, spooled)
        return found.single

    def _folder(self, tree: Path, spooled: int) -> None:
        since = time.time_ns()
        self._read(tar.create(tree, self._section.prefix, exclude=self._exclude), None)
        if not self._members:
            self._watch.warn(f"{self._section.name} is not there (any more): the backup holds nothing of it")
        room = self._size + self._size // 4 + _ROOM
        for _ in range(_ROUNDS):
            if not self._changed:
                return
            self._watch.check()
            changed, self._changed = list(self._changed), {}
            candidates = again.candidates(tree, changed, since, self._exclude)
            known = dict[bytes, str]()
            wanted = candidates.members(self._prefix)
            for _, name, kind in manifest.kinds(self._out.spool.lines(spooled), wanted):
                known[name] = kind
            plan = again.plan(candidates, known, self._prefix, room)
            self._changed.update(dict.fromkeys(plan.given_up))
            self._uncounted += candidates.more
            room -= plan.size
            since = time.time_ns()
            if plan.names:
                names = b"".join(name + b"\0" for name in plan.names)
                check = again.Guard(known, self._prefix)
                self._read(tar.create(tree, self._section.prefix, named=True), names, check.allows)

    def _file(self, tree: Path) -> None:
        command = tar.create(tree.parent, self._section.prefix + "/file", named=True, only=True)
        name = b"./" + os.fsencode(tree.name) + b"\0"
        for _ in range(1 + _ROUNDS):
            self._changed.clear()
            self._read(command, name, lambda entry: entry.kind in ("file", "sparse"))
            if not self._members:
                self._watch.warn(f"{self._section.name} is not there (any more): the backup holds nothing of it")
            if not self._changed:
                return

    def _read(
        self, command: Sequence[str | bytes], names: bytes | None, wanted: Callable[[Entry], bool] | None = None
    ) -> None:
        """Run tar, and pass on what it writes."""

        def allows(entry: Entry) -> bool:
            if not self._keeps(entry):
                return False
            if wanted is None or wanted(entry):
                return True
            self._lost.add(entry.name)  # links to it would be broken
            return False

        follower = Follower(self._take, emit=self._out.write, wanted=allows, digest=False, trusted=True)
        with self._out.spool.scratch() as log, self._out.spool.scratch() as given:
            given.write(names or b"")
            given.seek(0)
            process = tar.start(command, log, stdin=given, stdout=-1)
            with self._watch.run(process):
                self._follow(process.stdout, follower)
                status = process.wait()
            self._watch.check()
            self._judge(tar.messages(log), status, whole=follower.ended or not follower.offset)

    def _follow(self, stream: IO[bytes] | None, follower: Follower) -> None:
        assert stream is not None
        descriptor = stream.fileno()
        before = self._members
        while data := os.read(descriptor, _PIECE):
            self._watch.check()
            if not follower.ended:
                follower.feed(data)
            self._watch.advance(bytes=len(data), files=self._members - before)
            before = self._members

    def _keeps(self, entry: Entry) -> bool:
        device, deep = entry.kind in ("char", "block"), len(entry.name) > prefixes.LONGEST
        large = heavy(entry) or (bool(self._lost_folders) and self._is_below(entry.name))
        if device or deep or large:
            self._devices += device
            self._deep += deep
            self._heavy += large and not deep
            self._lost.add(entry.name)
            if entry.kind == "dir" and large:
                self._lost_folders.add(entry.name)
            return False
        return entry.kind != "hardlink" or not self._lost or self._follows(entry)

    def _is_below(self, name: bytes) -> bool:
        """Return whether it lies in a directory that was left out."""
        return name.rpartition(b"/")[0] in self._lost_folders

    def _follows(self, entry: Entry) -> bool:
        """Whether there is what a hard link leads to."""
        if entry.link in self._lost:
            self._deep += 1
            return False
        return True

    def _take(self, entry: Entry) -> None:
        self._members += 1
        self._size += entry.size
        self._apparent += entry.size if entry.kind != "sparse" else real_size(entry)

    def _judge(self, said: Iterator[Message], status: int, *, whole: bool) -> None:
        wrong: list[Message] = []
        excused = False
        for one in said:
            if one.meaning is Meaning.CHANGED:
                self._note(one.name)
            elif one.meaning is Meaning.GONE:
                excused = True
            elif one.meaning in (Meaning.ERROR, Meaning.FULL):
                wrong.append(one)
                if len(wrong) > _REMARKS:
                    break
            elif one.meaning is Meaning.REMARK:
                self._remark(one)
        if status not in (0, 1) and (wrong or not excused or status != 2):
            raise tar.failure(wrong, f"{self._section.name} cannot be read", status)
        for one in wrong:
            self._remark(one)
        if not whole and not excused:
            raise BackupError(f"{self._section.name} cannot be read: tar broke off")

    def _note(self, name: bytes) -> None:
        if len(self._changed) < again.MOST:
            self._changed[name] = None
        else:
            self._uncounted += 1

    def _remark(self, one: Message) -> None:
        self._remarks += 1
        if self._remarks <= _REMARKS:
            self._watch.warn(f"{self._section.name}: {show(one.name)}: {one.text}")
