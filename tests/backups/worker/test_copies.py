"""Copies are tried again with longer and longer waits, and what is told of a failure holds no secret."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from homed.backups.records import Backup
from homed.backups.worker.context import Stopped, Watch
from homed.backups.worker.delivery import TryAgainError, backoff, deliver, shown
from homed.errors import RemoteError
from tests.backups.worker.copying import Copying

SETTINGS = {
    "name": "vault",
    "tries": "4",
    "key": "-----BEGIN KEY-----\nc2VjcmV0IG9uZQ\n",
    "secret_access_key": "hush/hush",
}


class Scripted:
    """A target on which each try ends as it was told."""

    def __init__(self, ends: Sequence[Exception | None]):
        self.ends = list(ends)

    def put(self, path: Path, record: Backup, watch: Watch) -> None:
        end = self.ends.pop(0)
        if end is not None:
            raise end


@pytest.fixture
def copying(tmp_path: Path) -> Copying:
    return Copying(tmp_path, b"an archive")


def run(copying: Copying, target: Scripted, waits: list[int]) -> None:
    def wait(attempt: int) -> float:
        waits.append(attempt)
        return 0.0

    deliver(copying.archive, copying.record, target, SETTINGS, copying.watch, wait=wait)


def test_it_is_tried_until_it_works(copying: Copying) -> None:
    target, waits = Scripted([TryAgainError("no"), TryAgainError("not yet"), None, None]), list[int]()

    run(copying, target, waits)

    assert waits == [1, 2]
    assert len(target.ends) == 1
    assert [each.split(": ")[1:] for each in copying.warned] == [
        ["try 1 of 4 failed", "no"],
        ["try 2 of 4 failed", "not yet"],
    ]


def test_it_is_tried_as_often_as_the_settings_say(copying: Copying) -> None:
    target, waits = Scripted([TryAgainError("no")] * 9), list[int]()

    with pytest.raises(RemoteError, match=r"'vault' failed: no \(tried 4 times\)"):
        run(copying, target, waits)

    assert len(target.ends) == 5
    assert waits == [1, 2, 3]


def test_what_will_never_work_is_tried_once(copying: Copying) -> None:
    target, waits = Scripted([RemoteError("the key hush/hush is none"), None]), list[int]()

    with pytest.raises(RemoteError) as caught:
        run(copying, target, waits)

    assert waits == []
    assert "hush" not in str(caught.value)
    assert caught.value.details == {"target": "vault"}


def test_a_cancellation_is_heard_while_it_waits(copying: Copying) -> None:
    def wait(attempt: int) -> float:
        copying.watch.stop()
        return 3600.0

    with pytest.raises(Stopped):
        deliver(
            copying.archive, copying.record, Scripted([TryAgainError("no")]), SETTINGS, copying.watch, wait=wait
        )  # fmt: skip


def test_waits_grow_and_are_bounded() -> None:
    for attempt in range(1, 20):
        longest = min(120.0, 2.0 * 2 ** (attempt - 1))
        drawn = {backoff(attempt) for _ in range(50)}
        assert len(drawn) > 1
        assert longest / 2 <= min(drawn) <= max(drawn) <= longest


def test_words_of_a_target_are_one_line_without_secrets_and_not_endless() -> None:
    assert shown("bad hush/hush\n\tat\x1b[1m line", SETTINGS) == "bad *** at [1m line"
    assert "c2VjcmV0" not in shown("it said c2VjcmV0IG9uZQ", SETTINGS)
    assert len(shown("word " * 1000, SETTINGS)) == 600
