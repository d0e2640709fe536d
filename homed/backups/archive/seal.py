"""Archives that are sealed with age: a small tar file around them, so that `tar` and `age` open them by hand.

Its members: `README`; `identity.age`, the key to it, itself sealed by a passphrase, where there is one; and
`backup.tar.gz.age`. age authenticates what it sealed; each member's header holds a digest of what age does not.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from homed.backups.archive.age import Exit, meaning
from homed.backups.worker.messages import Seal, Unlock
from homed.errors import ArchiveError, BackupError

FORMAT = 1
_README, _IDENTITY, _PAYLOAD = "README", "identity.age", "backup.tar.gz.age"
_BLOCK, _HEAD = 512, 3 * 512
_SMALL = 64 << 10
_LONGEST_AGE_HEADER = 1 << 20
_AGE = b"age-encryption.org/v1\n"
_END = bytes(2 * _BLOCK)
_COMMENT = re.compile(rb"[0-9]+ comment=homed sealed ([1-9][0-9]{0,3}) ([0-9a-f]{64})\n\0*")
_TEXT = """\
This is a backup made by homed, sealed with age (https://age-encryption.org).

To open it by hand:

    tar xf THIS-FILE.age.tar
    age -d -i KEY backup.tar.gz.age | tar xz

KEY is identity.age where that file is here: age then asks for the passphrase. Otherwise it is the file with the
identity (AGE-SECRET-KEY-1...) of one of the recipients that it was sealed for.
"""


class _Member(NamedTuple):
    """`digest`: of its content; of the sealed archive, that of age's own header alone, which age does not guard so
    that a wrong key can be told from damage.
    """

    name: str
    size: int
    time: int
    digest: str
    format: int = FORMAT


def create(path: Path, seal: Seal) -> BinaryIO:
    """A new file: what is written becomes the sealed archive once it is closed; then it is on the disk.

    OSError, FileExistsError; BackupError where sealing fails. Left by an exception it stays one that nothing opens.
    """
    if not seal.recipients:
        raise BackupError("There is nobody to seal the backup for")
    return cast(BinaryIO, _Sealing(path, seal))


def opened(path: Path, unlock: Unlock | None) -> BinaryIO:
    """Read the archive that is sealed in there. The end is told only where all of it is as it was sealed.

    ArchiveError: BACKUP_KEY_MISSING, BACKUP_KEY_WRONG, BACKUP_VERSION at once; BACKUP_DAMAGED at once or while it is
    read. BackupError, OSError.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        members = _members(file)
        key = _key(file, members, unlock)
        payload = members[_PAYLOAD]
        arguments = ["decrypt", str(file), str(payload.start), str(payload.member.size)]
        process = _start(arguments, subprocess.PIPE, keep=(file,))
    finally:
        os.close(file)
    reader = io.BufferedReader(_Opened(process, json.dumps(key).encode()), 256 << 10)
    try:
        reader.peek(1)  # a key that does not fit is told now
    except BaseException:
        reader.close()
        raise
    return cast(BinaryIO, reader)


def sealed_identity(path: Path, unlock: Unlock) -> tuple[str, str] | None:
    """Return the passphrase-encrypted identity and the given passphrase; None if none is. Raises: ArchiveError."""
    if unlock.identity or not unlock.passphrase or not begins_sealed(path):
        return None
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        key = _key(file, _members(file), unlock)
    finally:
        os.close(file)
    return key["wrapped"], key["passphrase"]


def is_sealed(path: Path) -> bool:
    """Whether it has the form of a sealed archive, all of its outer parts whole. OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _members(file)
    except ArchiveError:
        return False
    finally:
        os.close(file)
    return True


def begins_sealed(path: Path) -> bool:
    """Whether it begins as a sealed archive does, and no other: it may be damaged, or a newer homed's. OSError."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return head[257:262] == b"ustar" or _COMMENT.fullmatch(head[_BLOCK : 2 * _BLOCK]) is not None


class _Sealing(io.BufferedIOBase):
    def __init__(self, path: Path, seal: Seal):
        self._failure: BaseException | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._file = -1
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._time = int(time.time())
            self._put(_README, _TEXT.encode())
            if seal.wrapped is not None:
                self._put(_IDENTITY, seal.wrapped.encode())
            # The header is written at the end: until then it is no tar file.
            self._at = os.lseek(self._file, 0, os.SEEK_CUR)
            os.lseek(self._file, _HEAD, os.SEEK_CUR)
            self._process = _start(["encrypt", *seal.recipients], self._file)
            self._pipe = _stream(self._process.stdin)
        except BaseException:
            self._abandon()
            raise

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        if self._failure is not None:
            raise self._failure
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                rest = rest[os.write(self._pipe, rest) :]
        except OSError as error:
            self._fail(error)
        return size

    def close(self) -> None:
        """Ends the archive. Where it cannot be ended it raises, as it does after a write that failed."""
        if self.closed:
            return
        try:
            if self._failure is not None:
                raise self._failure
            self._finish()
        finally:
            self._abandon()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._abandon()
        self.close()

    def __del__(self) -> None:
        self._abandon()  # nobody closed it, so it is not whole

    def _finish(self) -> None:
        process = cast("subprocess.Popen[bytes]", self._process)
        cast(BinaryIO, process.stdin).close()
        failure = _ended(process)
        if failure is not None:
            raise failure
        start, end = self._at + _HEAD, os.lseek(self._file, 0, os.SEEK_END)
        _write(self._file, bytes(-end % _BLOCK) + _END, end)
        digest = hashlib.sha256(_age_header(self._file, start, end)).hexdigest()
        _write(self._file, _head(_Member(_PAYLOAD, end - start, self._time, digest)), self._at)
        os.fsync(self._file)

    def _put(self, name: str, content: bytes) -> None:
        member = _Member(name, len(content), self._time, _digest(content, FORMAT))
        data = _head(member) + content + bytes(-len(content) % _BLOCK)
        _write(self._file, data, os.lseek(self._file, 0, os.SEEK_CUR))
        os.lseek(self._file, len(data), os.SEEK_CUR)

    def _fail(self, error: OSError) -> None:
        broken = isinstance(error, BrokenPipeError)  # age reports the cause
        self._failure = (broken and _ended(cast("subprocess.Popen[bytes]", self._process))) or error
        raise self._failure from error

    def _abandon(self) -> None:
        if self.closed:
            return
        super().close()
        if self._process is not None:
            _end(self._process)
        with contextlib.suppress(OSError):
            os.close(self._file)


class _Opened(io.RawIOBase):
    def __init__(self, process: "subprocess.Popen[bytes]", key: bytes):
        self._process = process
        self._failure: BaseException | None = None
        self._whole = False
        stdin = cast(BinaryIO, process.stdin)
        with contextlib.suppress(BrokenPipeError):  # why it ended is told below
            stdin.write(key)
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
        self._pipe = _stream(process.stdout)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        if self._failure is not None:
            raise self._failure
        if self._whole:
            return 0
        count = os.readv(self._pipe, [buffer])
        if count == 0:
            self._failure = _ended(self._process)
            if self._failure is not None:
                raise self._failure
            self._whole = True
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            _end(self._process)


class _Place(NamedTuple):
    member: _Member
    start: int


def _members(file: int) -> dict[str, _Place]:
    """What the outer tar holds. It must be byte for byte as homed writes it: ArchiveError where it is not."""
    total = os.fstat(file).st_size
    found: dict[str, _Place] = {}
    at = 0
    for name in (_README, _IDENTITY, _PAYLOAD):
        member = _read_head(os.pread(file, _HEAD, at))
        if member.name != name and name == _IDENTITY:
            continue
        if member.name != name or (name != _PAYLOAD and member.size > _SMALL):
            raise _damaged(f"'{name}' is not where it should be")
        place = _Place(member, at + _HEAD)
        at = place.start + member.size + -member.size % _BLOCK
        if at > total:
            raise _damaged("it was cut off")
        _check(file, place, at)
        found[name] = place
    if total != at + len(_END) or os.pread(file, len(_END), at) != _END:
        raise _damaged("something follows what was sealed, or its end is missing")
    return found


def _check(file: int, place: _Place, end: int) -> None:
    member, start = place
    if any(os.pread(file, _BLOCK, start + member.size)[: end - start - member.size]):
        raise _damaged(f"'{member.name}' does not end where it should")
    if member.name == _PAYLOAD:
        digest = hashlib.sha256(_age_header(file, start, start + member.size)).hexdigest()
    else:
        digest = _digest(os.pread(file, member.size, start), member.format)
    if digest != member.digest:
        raise _damaged(f"'{member.name}' was changed")
    if member.format > FORMAT:
        raise ArchiveError("The backup was sealed by a newer homed", code="BACKUP_VERSION")


def _key(file: int, members: dict[str, _Place], unlock: Unlock | None) -> dict[str, str]:
    """What the program needs to open it. ArchiveError where that was not given."""
    if unlock is not None and unlock.identity:
        return {"identity": unlock.identity}
    wrapped = members.get(_IDENTITY)
    if wrapped is None:
        raise ArchiveError(
            "The backup is sealed for recipients: the identity of one of them opens it", code="BACKUP_KEY_MISSING"
        )
    if unlock is None or not unlock.passphrase:
        raise ArchiveError("The backup is sealed: its passphrase, or the identity, opens it", code="BACKUP_KEY_MISSING")
    text = os.pread(file, wrapped.member.size, wrapped.start)
    return {"wrapped": text.decode("ascii", "replace"), "passphrase": unlock.passphrase}


def _head(member: _Member) -> bytes:
    """A pax record with the digest, and the header proper: three blocks."""
    record = f" comment=homed sealed {member.format} {member.digest}\n".encode()
    length = len(record) + len(str(len(record) + 3))
    record = str(length).encode() + record
    pax = _ustar(f"{member.name}.pax", len(record), member.time, b"x")
    return pax + record.ljust(_BLOCK, b"\0") + _ustar(member.name, member.size, member.time, b"0")


def _ustar(name: str, size: int, modified: int, kind: bytes) -> bytes:
    """`size` in base 256, as GNU tar does, where eleven octal digits do not hold it."""
    digits = f"{size:011o}\0".encode() if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
    fields = name.encode().ljust(100, b"\0") + b"0000600\0" + b"0000000\0" * 2 + digits
    fields += f"{modified:011o}\0".encode()
    rest = kind + bytes(100) + b"ustar\x0000" + bytes(80) + bytes(167)
    total = sum(fields) + 8 * ord(" ") + sum(rest)
    return fields + f"{total:06o}\0 ".encode() + rest


def _read_head(head: bytes) -> _Member:
    match = _COMMENT.fullmatch(head[_BLOCK : 2 * _BLOCK])
    last = head[2 * _BLOCK :]
    if match is None or len(last) != _BLOCK:
        raise _damaged("it has not the form of one")
    size, modified = last[124:136], last[136:147]
    try:
        length = int.from_bytes(size[1:], "big") if size[0] == 0x80 else int(size[:11], 8)
        name = last[:100].rstrip(b"\0").decode("ascii")
        member = _Member(name, length, int(modified, 8), match[2].decode(), int(match[1]))
    except ValueError as error:
        raise _damaged("a header is none") from error
    if not 0 <= length < 1 << 62 or member.time < 0 or _head(member) != head:
        raise _damaged("a header was changed")
    return member


def _digest(content: bytes, format_: int) -> str:
    # The format is in it, so that a flipped bit does not pass for a newer homed's.
    return hashlib.sha256(f"{format_}\n".encode() + content).hexdigest()


def _age_header(file: int, start: int, end: int) -> bytes:
    """age's own header, up to the nonce."""
    text = os.pread(file, min(_LONGEST_AGE_HEADER, end - start), start)
    last = text.find(b"\n--- ")
    length = text.find(b"\n", last + 1) + 1
    if not text.startswith(_AGE) or last < 0 or not length:
        raise _damaged("what is sealed in it has no header of age")
    return text[:length]


def _damaged(why: str) -> ArchiveError:
    return ArchiveError(f"The sealed backup is damaged: {why}")


def _start(arguments: Sequence[str], out: int, keep: Sequence[int] = ()) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-P", "-m", "homed.backups.archive.age", *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.PIPE, pass_fds=keep, bufsize=0
    )


def _stream(pipe: object) -> int:
    """The pipe's descriptor; the pipe made as large as it may be without asking."""
    number = cast(BinaryIO, pipe).fileno()
    with contextlib.suppress(OSError):
        fcntl.fcntl(number, fcntl.F_SETPIPE_SZ, 1 << 20)
    return number


def _ended(process: "subprocess.Popen[bytes]") -> BackupError | OSError | None:
    """Wait until it has ended by itself; why it failed, if it did."""
    said = cast(BinaryIO, process.stderr).read().decode("utf-8", "replace")
    status = process.wait()
    if status == Exit.GOOD:
        return None
    try:
        message, number = json.loads(said)
    except ValueError:
        how = f"was killed by signal {-status}" if status < 0 else "failed"
        return BackupError(f"age {how}: {said.strip()[-300:]}")
    return meaning(status, message, number)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.kill()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


def _write(file: int, data: bytes, at: int) -> None:
    rest = memoryview(data)
    while rest:
        count = os.pwrite(file, rest, at)
        rest, at = rest[count:], at + count
