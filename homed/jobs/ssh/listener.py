"""Separate a job's output from the login shell's output before it (pure)."""

import re
from typing import Final

from homed.jobs.output.order import Stream
from homed.jobs.ssh.remote import BEGUN

# A start-up file may print much more than anybody wants to read in an error.
_MAX_NOISE: Final = 512


class Listener:
    """Waits on each stream for `homed KEY begun`. `refused` is the word with which a job was refused, if it was."""

    def __init__(self, key: str):
        # The whole line alone: a start-up file that reads our text may print it.
        self._line = re.compile(b"homed " + key.encode() + b" (begun|shell|space|cut)\r?\n")
        self._longest = len(f"homed {key} begun") + 1
        self._waiting: dict[Stream, bytes] = {Stream.STDOUT: b"", Stream.STDERR: b""}
        self._noise: dict[Stream, bytes] = {Stream.STDOUT: b"", Stream.STDERR: b""}
        self.refused = ""

    @property
    def begun(self) -> bool:
        """True if the job began: seen on at least one stream, because the login shell may close the other."""
        return len(self._waiting) < len(Stream) and not self.refused

    @property
    def noise(self) -> str:
        """The first words of the login shell and its start-up files, as one line that can be shown."""
        said = [self._noise[stream] + self._waiting.get(stream, b"") for stream in (Stream.STDERR, Stream.STDOUT)]
        text = b"\n".join(said)[: 2 * _MAX_NOISE].decode(errors="replace")
        text = "".join(letter if letter.isprintable() else " " for letter in text)
        return " ".join(text.split())[:_MAX_NOISE]

    def hear(self, stream: Stream, data: bytes) -> bytes:
        """Return the part of `data` that is the job's output."""
        if stream not in self._waiting:
            return data
        heard = self._waiting[stream] + data
        found = self._line.search(heard)
        if found is None:
            # Half of the line may have come.
            at = max(0, len(heard) - self._longest)
            self._keep(stream, heard[:at], heard[at:])
            return b""
        self._keep(stream, heard[: found.start()], b"")
        del self._waiting[stream]
        if found[1] != BEGUN:
            self.refused = found[1].decode()
            return b""
        return heard[found.end() :]

    def _keep(self, stream: Stream, noise: bytes, waiting: bytes) -> None:
        self._noise[stream] = (self._noise[stream] + noise)[:_MAX_NOISE]
        self._waiting[stream] = waiting
