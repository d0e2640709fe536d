"""Copies to S3: signed, in parts, and there as a whole or not at all."""

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from homed.backups.records import Backup
from homed.backups.worker.context import Stopped
from homed.errors import RemoteError
from tests.backups.worker.copying import CONTENT, MIB, NAME, Copying, children
from tests.support.faulty_proxy import FaultyProxy, faulty_proxy
from tests.support.s3 import ACCESS, BUCKET, REGION, SECRET, Store, Stored, s3
from tests.support.wait import until

KEY = f"boards/one/{NAME}"


@pytest.fixture
def store() -> Iterator[Store]:
    with s3() as running:
        yield running


@pytest.fixture
def proxy(store: Store) -> Iterator[FaultyProxy]:
    with faulty_proxy(store.port) as running:
        yield running


@pytest.fixture
def copying(tmp_path: Path) -> Copying:
    return Copying(tmp_path)


def settings(port: int, *, tries: int = 3) -> dict[str, str]:
    return {
        "name": "cloud",
        "kind": "s3",
        "tries": str(tries),
        "bucket": BUCKET,
        "path": "boards/one",
        "endpoint": f"http://127.0.0.1:{port}",
        "region": REGION,
        "access_key_id": ACCESS,
        "secret_access_key": SECRET,
    }


def test_the_archive_and_its_record_are_there(copying: Copying, store: Store) -> None:
    copying.run(settings(store.port))

    assert sorted(store.objects) == [KEY, f"{KEY}.json"]
    assert store.objects[KEY].data == CONTENT
    assert msgspec.json.decode(store.objects[f"{KEY}.json"].data, type=Backup) == copying.record
    assert copying.warned == []


def test_a_large_one_goes_in_parts(tmp_path: Path, store: Store) -> None:
    content = CONTENT * 4

    Copying(tmp_path, content).run(settings(store.port), stall=60.0)

    assert store.objects[KEY].data == content
    assert store.objects[KEY].etag.endswith(f"-{-(-len(content) // (5 * MIB))}")


def test_a_part_that_is_cut_is_sent_again_alone(tmp_path: Path, store: Store, proxy: FaultyProxy) -> None:
    copying = Copying(tmp_path, CONTENT * 4)
    proxy.passes, proxy.cuts = 7 * MIB, 1

    copying.run(settings(proxy.port))

    assert proxy.cuts == 0
    assert store.objects[KEY].data == CONTENT * 4
    assert copying.warned == []  # no whole try was lost
    assert sum("uploads" in each for each in store.asked) == 1


def test_a_copy_that_is_there_is_not_sent_again(copying: Copying, store: Store, proxy: FaultyProxy) -> None:
    copying.run(settings(store.port))

    copying.run(settings(proxy.port))

    assert 0 < proxy.passed < MIB


@pytest.mark.parametrize("other", [CONTENT[:-1], CONTENT[:-1] + b"?"])
def test_another_object_of_that_name_is_left_as_it_is(copying: Copying, store: Store, other: bytes) -> None:
    store.objects[KEY] = Stored(other, "d41d8cd98f00b204e9800998ecf8427e", {})

    with pytest.raises(RemoteError, match="left as it is"):
        copying.run(settings(store.port))

    assert store.objects[KEY].data == other
    assert len(store.objects) == 1


def test_a_connection_that_is_cut_is_tried_again(copying: Copying, store: Store, proxy: FaultyProxy) -> None:
    proxy.passes, proxy.cuts = 2 * MIB, 2

    copying.run(settings(proxy.port))

    assert proxy.cuts == 0
    assert store.objects[KEY].data == CONTENT


def test_a_server_that_is_too_busy_is_asked_again(copying: Copying, store: Store) -> None:
    store.refusals = 2

    copying.run(settings(store.port))

    assert store.objects[KEY].data == CONTENT


def test_a_server_that_hangs_is_given_up(copying: Copying, store: Store, proxy: FaultyProxy) -> None:
    proxy.passes, proxy.holds = MIB, 1

    copying.run(settings(proxy.port), stall=3.0)

    assert proxy.holds == 0
    assert store.objects[KEY].data == CONTENT


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"secret_access_key": "not the secret at all"}, "SignatureDoesNotMatch|403|Forbidden"),
        ({"access_key_id": "nobody"}, "InvalidAccessKeyId|403|Forbidden"),
    ],
)
def test_wrong_credentials_are_refused_and_not_shown(
    copying: Copying, store: Store, wrong: dict[str, str], said: str
) -> None:
    with pytest.raises(RemoteError, match=said) as caught:
        copying.run(settings(store.port, tries=2) | wrong)

    assert store.objects == {}
    assert not any(secret in str(caught.value) for secret in (SECRET, *wrong.values()))


def test_a_bucket_that_is_not_there_is_told(copying: Copying, store: Store) -> None:
    with pytest.raises(RemoteError):
        copying.run(settings(store.port, tries=1) | {"bucket": "elsewhere"})

    assert store.objects == {}


def test_where_there_is_no_room_it_says_so(copying: Copying, store: Store) -> None:
    store.room = 2 * MIB

    with pytest.raises(RemoteError, match="QuotaExceeded"):
        copying.run(settings(store.port, tries=1))

    assert sorted(store.objects) == [f"{KEY}.json"]


def test_what_lies_there_otherwise_than_it_was_sent_is_no_copy(copying: Copying, store: Store) -> None:
    store.damages = True

    with pytest.raises(RemoteError, match=r"another content.*tried 2 times"):
        copying.run(settings(store.port, tries=2))

    assert KEY not in store.objects


def test_it_can_be_cancelled_in_the_middle(copying: Copying, store: Store, proxy: FaultyProxy) -> None:
    proxy.rate = MIB
    ended: list[BaseException] = []

    def attempt() -> None:
        try:
            copying.run(settings(proxy.port), stall=60.0)
        except (Stopped, RemoteError) as error:
            ended.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    until("the archive to be on its way", lambda: proxy.passed > MIB or ended)

    copying.watch.stop()
    thread.join(30)

    assert [type(each) for each in ended] == [Stopped]
    assert children() == []
    assert KEY not in store.objects
