"""Sealed archives: Debian's `tar` and `age` open them, nothing else does, and no damage passes for a backup."""

import base64
import contextlib
import errno
import hashlib
import os
import random
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import BinaryIO, NamedTuple

import psutil
import pytest

from homed.backups.archive import age, seal
from homed.backups.worker.messages import Seal, Unlock
from homed.errors import ArchiveError, BackupError
from tests.backups.archive import age_program

PASSPHRASE = "correct horse battery"
CONTENT = random.Random(7).randbytes(300_001)
KIB, MIB = 1024, 1024 * 1024


class Key(NamedTuple):
    recipient: str
    identity: str
    wrapped: str

    @property
    def unlock(self) -> Unlock:
        return Unlock(identity=self.identity)


@pytest.fixture(scope="module")
def key() -> Key:
    recipient, identity = age.generate()
    return Key(recipient, identity, age.wrap(identity, PASSPHRASE))


def sealed(path: Path, key: Key, content: bytes = CONTENT, *, wrapped: bool = False) -> Path:
    with seal.create(path, Seal((key.recipient,), key.wrapped if wrapped else None)) as file:
        file.write(content)
    return path


def content_of(path: Path, unlock: Unlock | None) -> bytes:
    with seal.opened(path, unlock) as file:
        return file.read()


def refused(path: Path, unlock: Unlock | None) -> str:
    """The code of the error that opening it and reading it to its end gives."""
    with pytest.raises(ArchiveError) as caught:
        content_of(path, unlock)
    return caught.value.code


@pytest.mark.parametrize("size", [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 5 * MIB + 3])
def test_what_was_sealed_comes_back(tmp_path: Path, key: Key, size: int) -> None:
    content = random.Random(size).randbytes(size)

    path = sealed(tmp_path / "one.age.tar", key, content)

    assert content_of(path, key.unlock) == content
    assert seal.is_sealed(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_passphrase_opens_it_by_the_identity_that_it_carries(tmp_path: Path, key: Key) -> None:
    path = sealed(tmp_path / "one.age.tar", key, wrapped=True)

    assert content_of(path, Unlock(passphrase=PASSPHRASE)) == CONTENT
    assert content_of(path, key.unlock) == CONTENT


def test_each_of_several_recipients_opens_it(tmp_path: Path, key: Key) -> None:
    other, other_identity = age.generate()
    path = tmp_path / "one.age.tar"
    with seal.create(path, Seal((key.recipient, other))) as file:
        file.write(CONTENT)

    assert content_of(path, key.unlock) == content_of(path, Unlock(identity=other_identity)) == CONTENT


def test_tar_and_age_open_it_with_the_identity_of_a_recipient(tmp_path: Path) -> None:
    recipient, text = age_program.new_key()
    path = sealed(tmp_path / "one.age.tar", Key(recipient, "", ""))
    (tmp_path / "identity.txt").write_text(text)

    subprocess.run(["tar", "xf", str(path)], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "README", "backup.tar.gz.age", "identity.txt", "one.age.tar"
    ]  # fmt: skip
    assert age_program.decrypt(tmp_path / "backup.tar.gz.age", tmp_path / "identity.txt") == CONTENT
    assert content_of(path, Unlock(identity=text)) == CONTENT


def test_age_asks_for_the_passphrase_and_opens_it(tmp_path: Path, key: Key) -> None:
    path = sealed(tmp_path / "one.age.tar", key, wrapped=True)
    subprocess.run(["tar", "xf", str(path)], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    identity, archive = tmp_path / "identity.age", tmp_path / "backup.tar.gz.age"

    assert age_program.at_a_terminal(["-d", str(identity)], PASSPHRASE, tmp_path / "plain") == 0
    assert key.identity in (tmp_path / "plain").read_text()
    assert age_program.at_a_terminal(["-d", "-i", str(identity), str(archive)], PASSPHRASE, tmp_path / "out") == 0
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert age_program.at_a_terminal(["-d", str(identity)], PASSPHRASE + "!", tmp_path / "wrong") != 0


def test_tar_says_nothing_of_the_headers(tmp_path: Path, key: Key) -> None:
    path = sealed(tmp_path / "one.age.tar", key, wrapped=True)

    listed = subprocess.run(["tar", "tvf", str(path)], check=True, capture_output=True, text=True, timeout=60)

    assert listed.stderr == ""
    assert [line.split()[-1] for line in listed.stdout.splitlines()] == ["README", "identity.age", "backup.tar.gz.age"]


@pytest.mark.parametrize("unlock", [None, Unlock(), Unlock(passphrase="", identity="")])
def test_without_a_key_it_says_so(tmp_path: Path, key: Key, unlock: Unlock | None) -> None:
    assert refused(sealed(tmp_path / "with", key, wrapped=True), unlock) == "BACKUP_KEY_MISSING"
    assert refused(sealed(tmp_path / "without", key), unlock) == "BACKUP_KEY_MISSING"


def test_a_passphrase_does_not_open_what_was_sealed_for_recipients(tmp_path: Path, key: Key) -> None:
    assert refused(sealed(tmp_path / "one", key), Unlock(passphrase=PASSPHRASE)) == "BACKUP_KEY_MISSING"


def test_a_wrong_key_is_told_when_it_is_opened(tmp_path: Path, key: Key) -> None:
    path = sealed(tmp_path / "one", key, wrapped=True)

    for wrong in (
        Unlock(identity=age.generate()[1]),
        Unlock(passphrase="another one"),
        Unlock(identity="no key at all"),
    ):
        with pytest.raises(ArchiveError) as caught:
            seal.opened(path, wrong)
        assert caught.value.code == "BACKUP_KEY_WRONG"


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path, key: Key) -> None:
    path = sealed(tmp_path / "one", key, CONTENT[:2000], wrapped=True)
    whole = path.read_bytes()
    flipped = tmp_path / "flipped"
    # All of what stands before age's stream by steps that meet each field; the stream is age's own to guard.
    outer = set(range(0, len(whole), 7)) | set(range(0, 600)) | set(range(len(whole) - 1100, len(whole)))
    stream = whole.index(b"age-encryption.org/v1\n-> X25519")
    tail = len(whole) - 1024
    inside = {stream + offset for offset in range(0, tail - stream, 97)}
    unseen = []
    for place in sorted(outer - set(range(stream + 500, tail))):
        flipped.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            seal.opened(flipped, None).close()
        except ArchiveError as error:
            if error.code != "BACKUP_DAMAGED":
                unseen.append((place, error.code))
    # Age's header ends within 500 bytes or some more: what follows is seen by the one that reads.
    assert [place for place, _ in unseen if place < stream] == []
    for place in sorted(inside | {place for place, _ in unseen if place < tail}):
        flipped.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert refused(flipped, key.unlock) == "BACKUP_DAMAGED", place


def test_a_flipped_bit_in_a_later_part_is_noticed_before_the_end(tmp_path: Path, key: Key) -> None:
    path = sealed(tmp_path / "one", key, random.Random(1).randbytes(3 * MIB))
    data = bytearray(path.read_bytes())
    data[2 * MIB] ^= 0x10
    path.write_bytes(data)

    with seal.opened(path, key.unlock) as file:
        for _ in range(24):  # 1.5 MiB that are whole
            assert len(file.read(64 * KIB)) == 64 * KIB
        with pytest.raises(ArchiveError) as caught:
            file.read()

    assert caught.value.code == "BACKUP_DAMAGED"
    assert seal.is_sealed(path)  # its outer form is whole


def test_once_damage_was_seen_reading_on_does_not_look_like_the_end(tmp_path: Path, key: Key) -> None:
    path = sealed(tmp_path / "one", key, CONTENT)
    data = bytearray(path.read_bytes())
    data[-2000] ^= 1
    path.write_bytes(data)

    with seal.opened(path, key.unlock) as file:
        for _ in range(3):
            with pytest.raises(ArchiveError):
                file.read()


def test_a_truncated_one_is_damaged_wherever_it_ends(tmp_path: Path, key: Key) -> None:
    whole = sealed(tmp_path / "one", key, CONTENT[:3000], wrapped=True).read_bytes()
    short = tmp_path / "short"

    for length in [*range(0, len(whole), 311), *range(len(whole) - 1030, len(whole), 103), len(whole) - 1]:
        short.write_bytes(whole[:length])
        assert refused(short, key.unlock) == "BACKUP_DAMAGED", length
        assert not seal.is_sealed(short)


def test_one_whose_first_bytes_are_damaged_is_still_known_for_what_it_was(tmp_path: Path, key: Key) -> None:
    whole = sealed(tmp_path / "one", key).read_bytes()
    damaged = tmp_path / "damaged"

    for place in range(0, 1536):
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert seal.begins_sealed(damaged), place
    for other in (b"", b"\x1f\x8b" + CONTENT, CONTENT):
        damaged.write_bytes(other)
        assert not seal.begins_sealed(damaged)


@pytest.mark.parametrize("more", [b"\0", b"x", bytes(512), bytes(1024), b"\0" * 9 * KIB])
def test_data_behind_the_end_is_damage(tmp_path: Path, key: Key, more: bytes) -> None:
    path = sealed(tmp_path / "one", key)
    with path.open("ab") as file:
        file.write(more)

    assert refused(path, key.unlock) == "BACKUP_DAMAGED"


def member(name: str, content: bytes, *, claimed: int | None = None, form: int = 1, kind: bytes = b"0") -> bytes:
    """A member as homed writes it, or nearly so."""
    start = content[: content.find(b"\n", content.find(b"\n--- ") + 1) + 1] if name.endswith("gz.age") else None
    digest = hashlib.sha256(start if start is not None else f"{form}\n".encode() + content).hexdigest()
    record = f"91 comment=homed sealed {form} {digest}\n".encode()
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content) if claimed is None else claimed, 0o600
    info.type = kind
    extended = tarfile.TarInfo(f"{name}.pax")
    extended.size, extended.mode, extended.type = len(record), 0o600, b"x"
    data = content + bytes(-len(content) % 512)
    return header(extended) + record.ljust(512, b"\0") + header(info) + data


def header(info: tarfile.TarInfo) -> bytes:
    """As ustar, also where only GNU's tar has a size so large."""
    return summed(info.tobuf(tarfile.GNU_FORMAT).replace(b"ustar  \0", b"ustar\x0000"))


def summed(data: bytes) -> bytes:
    """A header with its checksum made right."""
    blank = data[:148] + b" " * 8 + data[156:512]
    return data[:148] + f"{sum(blank):06o}\0 ".encode() + data[156:512]


def parts(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {each.name: file.read() for each in archive if (file := archive.extractfile(each)) is not None}


def test_an_outer_tar_that_homed_did_not_write_is_refused(tmp_path: Path, key: Key) -> None:
    of = parts(sealed(tmp_path / "one", key, wrapped=True))
    readme, identity, payload = of["README"], of["identity.age"], of["backup.tar.gz.age"]
    good = [member("README", readme), member("identity.age", identity), member("backup.tar.gz.age", payload)]
    end = bytes(1024)
    hostile = {
        "nothing": b"",
        "only its end": end,
        "random": random.Random(5).randbytes(20_000),
        "no payload": good[0] + good[1] + end,
        "payload first": good[2] + good[0] + end,
        "payload twice": good[0] + good[2] + good[2] + end,
        "an absolute name": member("/README", readme) + good[2] + end,
        "a name that leads out": member("../README", readme) + good[2] + end,
        "a link": member("README", b"", kind=b"2") + good[2] + end,
        "a negative size": good[0] + negative(good[2]) + end,
        "a size beyond the end": good[0] + member("backup.tar.gz.age", payload, claimed=len(payload) + 4096) + end,
        "a size beyond all": good[0] + member("backup.tar.gz.age", payload, claimed=1 << 60) + end,
        "a size that is too small": good[0] + member("backup.tar.gz.age", payload, claimed=len(payload) - 600) + end,
        "a large README": member("README", b"x" * 100_000) + good[2] + end,
        "a plain payload": good[0] + member("backup.tar.gz.age", b"\x1f\x8b" + CONTENT) + end,
        "a header of age without an end": good[0] + member("backup.tar.gz.age", b"age-encryption.org/v1\n" * 99) + end,
    }
    path = tmp_path / "two"
    path.write_bytes(b"".join(good) + end)
    assert content_of(path, key.unlock) == CONTENT  # so it is what is wrong with the others that is refused
    for what, data in hostile.items():
        path.write_bytes(data)
        assert refused(path, key.unlock) == "BACKUP_DAMAGED", what
        assert not seal.is_sealed(path), what


def negative(data: bytes) -> bytes:
    """The size of the member in `data` made a negative one, in base 256, with a header that is right otherwise."""
    wrong = data[1024:1148] + b"\xff" * 12 + data[1160:1536]
    return data[:1024] + summed(wrong) + data[1536:]


def test_one_of_a_newer_homed_is_named_as_such(tmp_path: Path, key: Key) -> None:
    of = parts(sealed(tmp_path / "one", key))
    path = tmp_path / "two"
    path.write_bytes(member("README", of["README"], form=2) + b"whatever that version has")

    assert refused(path, key.unlock) == "BACKUP_VERSION"
    assert seal.begins_sealed(path)
    assert not seal.is_sealed(path)


@pytest.mark.parametrize("work", [23, 60, 999])
def test_a_sealed_identity_that_asks_for_all_memory_is_refused(tmp_path: Path, key: Key, work: int) -> None:
    lines = key.wrapped.splitlines()
    inner = base64.b64decode("".join(lines[1:-1]))
    head, _, rest = inner.partition(b"\n-> scrypt ")
    salt, _, after = rest.partition(b" ")
    changed = head + b"\n-> scrypt " + salt + b" " + str(work).encode() + b"\n" + after.partition(b"\n")[2]
    text = base64.encodebytes(changed).replace(b"\n", b"").decode()
    body = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    hostile = key._replace(wrapped=f"{lines[0]}\n{body}\n{lines[-1]}\n")

    path = sealed(tmp_path / "one", hostile, wrapped=True)

    assert refused(path, Unlock(passphrase=PASSPHRASE)) == "BACKUP_DAMAGED"
    assert content_of(path, key.unlock) == CONTENT


def test_a_file_of_more_than_8_gib_has_a_size_that_tar_reads(tmp_path: Path) -> None:
    size = (9 << 30) + 5
    head = seal._head(seal._Member("backup.tar.gz.age", size, 1, "0" * 64))

    assert tarfile.TarInfo.frombuf(head[1024:], "utf-8", "strict").size == size
    assert seal._read_head(head).size == size


def test_left_by_an_exception_it_is_no_archive(tmp_path: Path, key: Key) -> None:
    path = tmp_path / "one"

    with contextlib.suppress(ZeroDivisionError), seal.create(path, Seal((key.recipient,))) as file:
        file.write(CONTENT)
        raise ZeroDivisionError

    assert not seal.is_sealed(path)
    assert refused(path, key.unlock) == "BACKUP_DAMAGED"


def test_one_that_nobody_closed_is_no_archive(tmp_path: Path, key: Key) -> None:
    path = tmp_path / "one"
    file = seal.create(path, Seal((key.recipient,)))
    file.write(CONTENT)
    del file

    assert not seal.is_sealed(path)
    assert children() == []


def test_where_a_file_stands_none_is_sealed_over_it(tmp_path: Path, key: Key) -> None:
    path = tmp_path / "one"
    path.write_text("something")

    with pytest.raises(FileExistsError):
        seal.create(path, Seal((key.recipient,)))
    assert path.read_text() == "something"


def test_there_must_be_someone_to_seal_for(tmp_path: Path) -> None:
    with pytest.raises(BackupError):
        seal.create(tmp_path / "one", Seal(()))
    file = seal.create(tmp_path / "two", Seal(("age1nobody",)))
    with pytest.raises(BackupError):
        write_much(file)
    with pytest.raises(BackupError):
        file.close()
    assert not seal.is_sealed(tmp_path / "two")


def test_a_full_disk_is_told_by_its_own_number(tmp_path: Path, key: Key) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        file = seal.create(folder / "one", Seal((key.recipient,)))
        with pytest.raises(OSError) as caught:
            write_much(file)
        with pytest.raises(OSError):
            file.close()
        assert caught.value.errno == errno.ENOSPC
        assert not seal.is_sealed(folder / "one")
    finally:
        subprocess.run(["umount", folder], check=True)


def test_where_its_program_is_killed_writing_and_closing_fail(tmp_path: Path, key: Key) -> None:
    file = seal.create(tmp_path / "one", Seal((key.recipient,)))
    (child,) = children()
    child.kill()

    with pytest.raises(BackupError, match="signal 9"):
        write_much(file)
    with pytest.raises(BackupError, match="signal 9"):
        file.close()
    assert file.closed
    assert not seal.is_sealed(tmp_path / "one")


def test_where_its_program_is_killed_at_the_end_closing_fails(tmp_path: Path, key: Key) -> None:
    file = seal.create(tmp_path / "one", Seal((key.recipient,)))
    file.write(CONTENT)
    (child,) = children()
    child.kill()

    with pytest.raises(BackupError, match="signal 9"):
        file.close()
    assert not seal.is_sealed(tmp_path / "one")


def test_where_its_program_is_killed_reading_fails(tmp_path: Path, key: Key) -> None:
    path = sealed(tmp_path / "one", key, bytes(8 * MIB))

    with seal.opened(path, key.unlock) as file:
        (child,) = children()
        child.kill()
        with pytest.raises(BackupError, match="signal 9"):
            file.read()


def test_one_whose_writer_was_killed_is_no_archive(tmp_path: Path, key: Key) -> None:
    path = tmp_path / "one"
    program = (
        "import os, pathlib, sys; from homed.backups.archive import seal;"
        "file = seal.create(pathlib.Path(sys.argv[1]), seal.Seal((sys.argv[2],)));"
        "file.write(bytes(1 << 20)); os.kill(os.getpid(), 9)"
    )

    # It returns once the program that seals has closed stdout too: so it has ended.
    done = subprocess.run([sys.executable, "-c", program, str(path), key.recipient], capture_output=True, timeout=60)

    assert done.returncode == -9
    assert not seal.is_sealed(path)
    assert refused(path, key.unlock) == "BACKUP_DAMAGED"


def test_a_reader_may_stop_where_it_likes(tmp_path: Path, key: Key) -> None:
    path = sealed(tmp_path / "one", key, bytes(8 * MIB))

    with seal.opened(path, key.unlock) as file:
        assert file.read(10) == bytes(10)

    assert children() == []


def test_it_can_be_written_on_another_thread(tmp_path: Path, key: Key) -> None:
    with seal.create(tmp_path / "one", Seal((key.recipient,))) as file:
        thread = threading.Thread(target=lambda: [file.write(CONTENT) for _ in range(8)])
        thread.start()
        thread.join()

    assert content_of(tmp_path / "one", key.unlock) == CONTENT * 8


def test_no_secret_stands_in_a_command_line(tmp_path: Path, key: Key) -> None:
    path = sealed(tmp_path / "one", key, bytes(8 * MIB))

    with seal.opened(path, key.unlock):
        (child,) = children()
        shown = " ".join(child.cmdline()) + str(child.environ())

    assert key.identity not in shown


def write_much(file: BinaryIO) -> None:
    for _ in range(200):
        file.write(bytes(64 * KIB))


def children() -> list[psutil.Process]:
    return psutil.Process(os.getpid()).children()
