"""Copies over SFTP, to Debian's own sshd: whole under their name or not there at all, whatever the link does."""

import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from homed.backups.records import Backup
from homed.backups.worker.context import Stopped
from homed.errors import RemoteError
from tests.backups.worker.copying import CONTENT, MIB, NAME, Copying, children
from tests.support.faulty_proxy import FaultyProxy, faulty_proxy
from tests.support.sshd import Sshd, keypair, sshd
from tests.support.wait import until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def copying(tmp_path: Path) -> Copying:
    return Copying(tmp_path)


@pytest.fixture
def proxy(server: Sshd) -> Iterator[FaultyProxy]:
    with faulty_proxy(server.port) as running:
        yield running


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The folder on the server; it is made by the first copy."""
    return tmp_path / "there" / "of this board"


def settings(server: Sshd, there: Path, *, port: int | None = None, tries: int = 3) -> dict[str, str]:
    return {
        "name": "vault",
        "kind": "sftp",
        "tries": str(tries),
        "host": "127.0.0.1",
        "port": str(port or server.port),
        "user": server.user,
        "path": str(there),
        "key": server.key,
        "known_hosts": server.known_hosts(port or server.port),
    }


def names(there: Path) -> list[str]:
    return sorted(each.name for each in there.iterdir()) if there.exists() else []


def test_the_archive_and_its_record_are_there(copying: Copying, server: Sshd, there: Path) -> None:
    copying.run(settings(server, there))

    assert names(there) == [NAME, f"{NAME}.json"]
    assert (there / NAME).read_bytes() == CONTENT
    assert msgspec.json.decode((there / f"{NAME}.json").read_bytes(), type=Backup) == copying.record
    assert copying.warned == []
    assert copying.told[-1].bytes_total == len(CONTENT)


def test_a_copy_that_is_there_is_not_sent_again(
    copying: Copying, server: Sshd, proxy: FaultyProxy, there: Path
) -> None:
    copying.run(settings(server, there))

    copying.run(settings(server, there, port=proxy.port))

    assert 0 < proxy.passed < MIB


def test_one_that_was_sent_but_has_not_its_name_yet_is_not_sent_again(
    copying: Copying, server: Sshd, proxy: FaultyProxy, there: Path
) -> None:
    there.mkdir(parents=True)
    (there / f".{NAME}.partial").write_bytes(CONTENT)

    copying.run(settings(server, there, port=proxy.port))

    assert names(there) == [NAME, f"{NAME}.json"]
    assert 0 < proxy.passed < MIB


@pytest.mark.parametrize("other", [CONTENT[:-1], CONTENT[:-1] + b"?"])
def test_another_file_of_that_name_is_left_as_it_is(copying: Copying, server: Sshd, there: Path, other: bytes) -> None:
    there.mkdir(parents=True)
    (there / NAME).write_bytes(other)

    with pytest.raises(RemoteError, match="left as it is"):
        copying.run(settings(server, there))

    assert names(there) == [NAME]
    assert (there / NAME).read_bytes() == other


def test_where_the_server_has_no_shell_it_is_read_back(copying: Copying, tmp_path: Path, there: Path) -> None:
    folder = tmp_path / "sshd"
    folder.mkdir()
    with sshd(folder, shell=False) as server:
        copying.run(settings(server, there))
        assert (there / NAME).read_bytes() == CONTENT

        (there / NAME).write_bytes(CONTENT[:-1] + b"?")
        with pytest.raises(RemoteError, match="another content"):
            copying.run(settings(server, there))


def test_a_connection_that_is_cut_is_tried_again(
    copying: Copying, server: Sshd, proxy: FaultyProxy, there: Path
) -> None:
    proxy.passes, proxy.cuts = 2 * MIB, 1

    copying.run(settings(server, there, port=proxy.port))

    assert proxy.cuts == 0
    assert names(there) == [NAME, f"{NAME}.json"]
    assert (there / NAME).read_bytes() == CONTENT


def test_a_connection_that_is_cut_each_time_gives_up_and_leaves_no_archive(
    copying: Copying, server: Sshd, proxy: FaultyProxy, there: Path
) -> None:
    proxy.passes, proxy.cuts = 2 * MIB, 1000

    with pytest.raises(RemoteError, match="tried 2 times") as caught:
        copying.run(settings(server, there, port=proxy.port, tries=2))

    assert caught.value.code == "BACKUP_REMOTE"
    assert len(copying.warned) == 1
    assert NAME not in names(there)


def test_a_server_that_hangs_is_given_up(copying: Copying, server: Sshd, proxy: FaultyProxy, there: Path) -> None:
    proxy.passes, proxy.holds = MIB, 1

    copying.run(settings(server, there, port=proxy.port), stall=3.0)

    assert copying.warned  # by homed or, where the machine is slow, by rclone's own timer
    assert (there / NAME).read_bytes() == CONTENT


def test_a_server_of_another_key_is_refused_at_once(
    copying: Copying, server: Sshd, there: Path, tmp_path: Path
) -> None:
    _, other = keypair(tmp_path, "other")

    for known in (f"[127.0.0.1]:{server.port} {other}\n", f"elsewhere.example {server.public}\n"):
        with pytest.raises(RemoteError, match="knownhosts"):
            copying.run(settings(server, there) | {"known_hosts": known})

    assert copying.warned == []
    assert names(there) == []


def test_without_known_hosts_nobody_is_talked_to(
    copying: Copying, server: Sshd, proxy: FaultyProxy, there: Path
) -> None:
    with pytest.raises(RemoteError, match="known_hosts_file"):
        copying.run(settings(server, there, port=proxy.port) | {"known_hosts": "\n"})

    assert proxy.passed == 0


def test_a_key_that_may_not_log_in_is_refused_at_once(
    copying: Copying, server: Sshd, there: Path, tmp_path: Path
) -> None:
    private, _ = keypair(tmp_path, "other")

    with pytest.raises(RemoteError, match="unable to authenticate"):
        copying.run(settings(server, there) | {"key": private})

    assert copying.warned == []


def test_where_nothing_listens_it_is_tried_again_and_says_so(copying: Copying, server: Sshd, there: Path) -> None:
    with pytest.raises(RemoteError, match=r"refused .*tried 2 times"):
        copying.run(settings(server, there, port=1, tries=2))


def test_a_full_disk_is_told_and_left_as_it_was(copying: Copying, server: Sshd, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", small], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(RemoteError):
            copying.run(settings(server, small, tries=1))
        assert names(small) == [f"{NAME}.json"]
    finally:
        subprocess.run(["umount", small], check=True)


def test_it_can_be_cancelled_in_the_middle(copying: Copying, server: Sshd, proxy: FaultyProxy, there: Path) -> None:
    proxy.rate = MIB
    ended: list[BaseException] = []
    thread = threading.Thread(target=attempt, args=(copying, settings(server, there, port=proxy.port), ended))
    thread.start()
    until("the archive to be on its way", lambda: proxy.passed > MIB or ended)

    copying.watch.stop()
    thread.join(30)

    assert [type(each) for each in ended] == [Stopped]
    assert children() == []
    assert NAME not in names(there)
    assert copying.warned == []


def test_a_server_that_hangs_does_not_keep_it_from_being_cancelled(
    copying: Copying, server: Sshd, proxy: FaultyProxy, there: Path
) -> None:
    proxy.passes, proxy.holds = MIB, 1
    ended: list[BaseException] = []
    thread = threading.Thread(target=attempt, args=(copying, settings(server, there, port=proxy.port), ended))
    thread.start()
    until("the server to hang", lambda: proxy.holds == 0 or ended)

    copying.watch.stop()
    thread.join(30)

    assert [type(each) for each in ended] == [Stopped]
    assert children() == []


def attempt(copying: Copying, target: Mapping[str, str], ended: list[BaseException]) -> None:
    try:
        copying.run(target, stall=60.0)
    except (Stopped, RemoteError) as error:
        ended.append(error)


def test_no_secret_stands_in_a_command_line(copying: Copying, server: Sshd, proxy: FaultyProxy, there: Path) -> None:
    proxy.rate = MIB
    ended: list[BaseException] = []
    thread = threading.Thread(target=attempt, args=(copying, settings(server, there, port=proxy.port), ended))
    thread.start()
    until("the archive to be on its way", lambda: proxy.passed > MIB or ended)
    (child,) = children()
    shown = " ".join(child.cmdline())
    copying.watch.stop()
    thread.join(30)

    assert "copyto" in shown
    assert not any(line in shown for line in server.key.splitlines() if line)
