"""Lays sections of an archive out in folders: a tar each, and one pass over the archive."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from homed.backups.archive import state, tar
from homed.backups.archive.blocks import END
from homed.backups.archive.follow import Entry, Follower, show
from homed.backups.archive.stream import Stream, explained
from homed.backups.records import Section
from homed.backups.worker.context import Watch
from homed.backups.worker.messages import Unlock
from homed.errors import ArchiveError, BackupError

_REMARKS: Final = 20


def unpack(path: Path, unlock: Unlock | None, pieces: Sequence[tuple[Section, Path]], watch: Watch) -> None:
    """Unpack each section into its folder, which is there and empty; a single file becomes `file` in it.

    The archive must have been verified: where a section stands in it is taken from the section. What is in the folders
    where this fails is for the caller to remove. BackupSpaceError, ArchiveError, BackupError.
    """
    wanted = sorted((piece for piece in pieces if piece[0].members), key=lambda piece: piece[0].offset)
    if not wanted:
        return
    _unpack(path, unlock, wanted, watch)


def unpack_state(path: Path, unlock: Unlock | None, section: Section, folder: Path, watch: Watch) -> None:
    """Unpack the files of homed's own state that a restore reads, and nothing else of it, as `unpack` does."""
    below = section.prefix.encode() + b"/"
    read = {below + name.encode() for name in state.MAX_BYTES}
    _unpack(path, unlock, [(section, folder)], watch, lambda entry: entry.name in read)


def _unpack(
    path: Path,
    unlock: Unlock | None,
    pieces: Sequence[tuple[Section, Path]],
    watch: Watch,
    wanted: Callable[[Entry], bool] | None = None,
) -> None:
    tar.check()
    with explained("unpack"), Stream(path, unlock, watch, counted=False) as stream:
        source = _Source(stream, watch)
        for section, folder in pieces:
            source.skip(section.offset)
            _section(source, section, folder, watch, wanted)


class _Source:
    """The stream, and how far it was read."""

    def __init__(self, stream: Stream, watch: Watch):
        self._stream = stream
        self._watch = watch
        self._rest = memoryview(b"")
        self._offset = 0

    def skip(self, to: int) -> None:
        for _ in self.pieces(to - self._offset):
            pass

    def pieces(self, length: int) -> Iterator[memoryview]:
        if length < 0:
            raise BackupError("sections overlap")
        while length:
            if not self._rest:
                self._rest = memoryview(self._stream.read())
                if not self._rest:
                    raise ArchiveError("the archive is cut off")
            piece, self._rest = self._rest[:length], self._rest[length:]
            length -= len(piece)
            self._offset += len(piece)
            yield piece


def _section(
    source: _Source, section: Section, folder: Path, watch: Watch, wanted: Callable[[Entry], bool] | None
) -> None:
    what = f"{section.name} cannot be unpacked"
    with tempfile.TemporaryFile() as log:
        process = tar.start(tar.extract(folder, section.prefix), log, stdin=-1)
        with watch.run(process):
            pipe = process.stdin
            assert pipe is not None
            write = pipe.write if wanted is None else _only(wanted, pipe.write)
            broken = False
            try:
                for piece in source.pieces(section.length):
                    write(piece)
                    watch.advance(bytes=len(piece))
                pipe.write(END)
                pipe.close()
            except BrokenPipeError:
                broken = True  # tar says why
            status = process.wait()
        watch.check()
        _judge(log, status, what, watch, broken=broken)
    watch.advance(files=section.members)


def _only(wanted: Callable[[Entry], bool], write: Callable[[memoryview], object]) -> Callable[[memoryview], object]:
    """Return a `write` that passes on the wanted members alone."""
    follower = Follower(lambda entry: None, emit=write, wanted=wanted, digest=False)
    return lambda piece: follower.feed(bytes(piece))


def _judge(log: IO[bytes], status: int, what: str, watch: Watch, *, broken: bool) -> None:
    if status or broken:
        said = list(tar.messages(log))
        if not said:
            tar.check_kept(log)
        raise tar.failure(said, what, status)
    for i, one in enumerate(tar.messages(log)):
        if i >= _REMARKS:
            break
        watch.warn(f"{show(one.name)}: {one.text}" if one.name else one.text)
