"""Tells what a job prints from what the host's login shell says before it (pure)."""

from typing import Final

from homed.jobs.output.order import Stream
from homed.jobs.ssh.remote import BEGUN

# A start-up file may print much more than anybody wants to read in an error.
_MAX_NOISE: Final = 512
_MAX_WORD: Final = 16


class Listener:
    """Waits on each stream for `homed KEY begun`. `refused` is the word with which a job was refused, if it was."""

    def __init__(self, key: str):
        self._begin = f"homed {key} ".encode()
        self._waiting: dict[Stream, bytes] = {Stream.STDOUT: b"", Stream.STDERR: b""}
        self._noise: dict[Stream, bytes] = {Stream.STDOUT: b"", Stream.STDERR: b""}
        self.refused = ""

    @property
    def begun(self) -> bool:
        """Whether it began: said on one stream at least, since the other may be closed by the login shell."""
        return len(self._waiting) < len(Stream) and not self.refused

    @property
    def noise(self) -> str:
        """The first words of the login shell and its start-up files, as one line that can be shown."""
        said = [self._noise[stream] + self._waiting.get(stream, b"") for stream in (Stream.STDERR, Stream.STDOUT)]
        text = b"\n".join(said)[: 2 * _MAX_NOISE].decode(errors="replace")
        text = "".join(letter if letter.isprintable() else " " for letter in text)
        return " ".join(text.split())[:_MAX_NOISE]

    def hear(self, stream: Stream, data: bytes) -> bytes:
        """Return the part of `data` that is output of the job."""
        if stream not in self._waiting:
            return data
        heard = self._waiting[stream] + data
        before, begin, after = heard.partition(self._begin)
        word, end, rest = after.partition(b"\n")
        if begin and not end and len(after) <= _MAX_WORD:
            self._keep(stream, before, begin + after)
            return b""
        if not begin:
            # Half of the line may have come.
            kept = len(self._begin) - 1
            self._keep(stream, heard[:-kept], heard[-kept:])
            return b""
        self._keep(stream, before, b"")
        del self._waiting[stream]
        if word.rstrip(b"\r") != BEGUN:
            self.refused = word.decode(errors="replace")[:_MAX_WORD]
            return b""
        return rest

    def _keep(self, stream: Stream, noise: bytes, waiting: bytes) -> None:
        self._noise[stream] = (self._noise[stream] + noise)[:_MAX_NOISE]
        self._waiting[stream] = waiting
