"""What tar says, and what it means."""

import os
import subprocess
from pathlib import Path

import pytest

from homed.backups.archive import tar
from homed.backups.archive.tar import Meaning
from homed.errors import BackupError, BackupSpaceError


@pytest.mark.parametrize(
    ("text", "name", "meaning"),
    [
        (b"tar: ./a: file changed as we read it", b"./a", Meaning.CHANGED),
        (b"tar: ./a: File shrank by 314502674 bytes; padding with zeros", b"./a", Meaning.CHANGED),
        (b"tar: ./a: File removed before we read it", b"./a", Meaning.GONE),
        (b"tar: ./a: Cannot stat: No such file or directory", b"./a", Meaning.GONE),
        (b"tar: ./a: Cannot open: Permission denied", b"./a", Meaning.ERROR),
        (b"tar: ./a: Read error at byte 0, while reading 512 bytes: Input/output error", b"./a", Meaning.ERROR),
        (b"tar: ./a\\:b\\n\\303\\274\\\\: socket ignored", "./a:b\nü\\".encode(), Meaning.SKIPPED),
        (
            b"tar: ./a\\: file changed as we read it: socket ignored",
            b"./a: file changed as we read it",
            Meaning.SKIPPED,
        ),
        (b"/usr/bin/tar: ./a: file changed as we read it", b"./a", Meaning.CHANGED),
        (b"tar: ./a: Cannot write: No space left on device", b"./a", Meaning.FULL),
        (b"tar: ./a: Cannot mkdir: Disk quota exceeded", b"./a", Meaning.FULL),
        (b"tar: ./a: Wrote only 3072 of 10240 bytes", b"./a", Meaning.FULL),
        (b"tar: ./a: time stamp 2030-01-01 00:00:00 is 1 s in the future", b"./a", Meaning.REMARK),
        (b"something else went wrong", b"", Meaning.ERROR),
    ],
)
def test_messages_are_understood(text: bytes, name: bytes, meaning: Meaning) -> None:
    found = tar.understand(text)
    assert found is not None
    assert (found.name, found.meaning) == (name, meaning)


def test_what_only_repeats_is_nothing() -> None:
    assert tar.understand(b"tar: Exiting with failure status due to previous errors") is None
    assert tar.understand(b"tar: Error is not recoverable: exiting now") is None


def test_the_failure_is_the_first_that_was_wrong() -> None:
    said = [tar.understand(b"tar: ./a: socket ignored"), tar.understand(b"tar: ./b: Cannot open: Permission denied")]
    error = tar.failure([one for one in said if one], "reading", 2)
    assert error.message == "reading: ./b: Cannot open: Permission denied"
    full = tar.understand(b"tar: ./a: Cannot write: No space left on device")
    assert isinstance(tar.failure([one for one in (*said, full) if one], "reading", 2), BackupSpaceError)
    assert tar.failure([], "reading", -9).message == "reading: tar ended with signal 9"


def test_another_tar_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar.check()
    other = tmp_path / "tar"
    other.write_text("#!/bin/sh\necho 'bsdtar 3.7.4 - libarchive 3.7.4'\n")
    other.chmod(0o755)
    monkeypatch.setattr(tar, "PROGRAM", str(other))
    with pytest.raises(BackupError, match="GNU"):
        tar.check()
    monkeypatch.setattr(tar, "PROGRAM", str(tmp_path / "none"))
    with pytest.raises(BackupError):
        tar.check()


def test_names_are_told_as_they_are(tmp_path: Path) -> None:
    """By the real one: of any name comes back what it was."""
    names = [b"a:b", b"new\nline", b"\xff\x01", b"back\\slash", b"\\n", b"tab\t", "ü".encode(), b" x ", b"'\"?"]
    given = b"".join(b"./" + name + b"\0" for name in names)
    command, environment = tar.create(tmp_path, "volumes/x", named=True), {**os.environ, "LC_ALL": "C"}
    ran = subprocess.run(command, input=given, capture_output=True, env=environment)
    found = [tar.understand(line) for line in ran.stderr.splitlines()]
    assert [(one.name, one.meaning) for one in found if one] == [(b"./" + name, Meaning.GONE) for name in names]
