import subprocess
import threading
from collections.abc import Iterator

import pytest

from homed.backups.records import Progress
from homed.backups.worker.context import Context, Stopped


@pytest.fixture
def told() -> list[Progress]:
    return []


@pytest.fixture
def context(told: list[Progress]) -> Context:
    return Context(told.append, lambda text: None)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_phase_begins_anew_and_goes_on_under_its_own_name(context: Context, told: list[Progress]) -> None:
    context.phase("capturing", total=100, service="a")
    context.advance(bytes=40, files=2)
    context.phase("capturing", service="b")
    assert (told[-1].bytes, told[-1].percent, told[-1].service) == (40, 40.0, "b")
    context.phase("verifying")
    assert (told[-1].bytes, told[-1].bytes_total, told[-1].percent) == (0, None, None)


def test_progress_is_not_told_with_each_piece(context: Context, told: list[Progress]) -> None:
    context.phase("capturing")
    for _ in range(10_000):
        context.advance(bytes=1)

    assert len(told) < 10


def test_more_than_was_expected_is_all_and_no_more(context: Context, told: list[Progress]) -> None:
    context.phase("capturing", total=10)
    context.advance(bytes=50)
    context.phase("capturing")

    assert told[-1].percent == 100.0


def test_a_stop_ends_the_children_and_is_heard_at_the_next_check(
    context: Context, sleeper: "subprocess.Popen[bytes]"
) -> None:
    with context.run(sleeper):
        threading.Timer(0.05, context.stop).start()
        assert sleeper.wait(10) == -9
        with pytest.raises(Stopped):
            context.check()


def test_a_child_begun_after_the_stop_does_not_outlive_it(context: Context, sleeper: "subprocess.Popen[bytes]") -> None:
    context.stop()
    with pytest.raises(Stopped), context.run(sleeper):
        pytest.fail("it was stopped before")
    assert sleeper.returncode == -9


def test_a_child_is_ended_when_its_block_is_left(context: Context, sleeper: "subprocess.Popen[bytes]") -> None:
    with pytest.raises(ZeroDivisionError), context.run(sleeper):
        raise ZeroDivisionError
    assert sleeper.returncode == -9


def test_what_is_shielded_hears_of_a_stop_afterwards(context: Context, sleeper: "subprocess.Popen[bytes]") -> None:
    with context.shielded(), context.run(sleeper):
        context.stop()
        context.check()
        assert sleeper.poll() is None
    with pytest.raises(Stopped):
        context.check()


def test_nothing_is_shielded_that_was_stopped_before(context: Context) -> None:
    context.stop()
    with pytest.raises(Stopped), context.shielded():
        pytest.fail("it was stopped before")
