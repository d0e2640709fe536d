"""A list of the executor's jobs is bounded, however long it is asked for and whatever the jobs hold."""

from datetime import UTC, datetime

import msgspec

from homed.api.executor.answers import in_list, shown
from homed.jobs import contents
from homed.jobs.records import Archive, Job, Origin, Result, State

AT = datetime(2026, 1, 1, tzinfo=UTC)


def job(command: str, error: str = "") -> Job:
    result = Result(code="WORKER_FAILED", error=error)
    return Job(
        id="j", origin=Origin.EXECUTOR, work=Archive(command, "/uploads/1-a.zip", "a.zip"), state=State.FAILED,
        attempt=1, created_at=AT, updated_at=AT, finished_at=AT, result=result,
    )  # fmt: skip


def test_long_commands_and_messages_are_shortened_and_say_so() -> None:
    listed = in_list(job("x" * 3000, "e" * 3000), None, None, 128)
    assert listed.command == "x" * 128 + "\n[2872 more]"
    assert listed.error_message == "e" * 128 + "\n[2872 more]"
    assert len(msgspec.json.encode(listed)) < 1000


def test_what_is_short_is_shown_as_it_is() -> None:
    one = job("make all", "it broke")
    assert in_list(one, None, None, 128) == shown(one, None, None, 128)


def test_of_a_large_command_the_beginning_is_shown_without_reading_it() -> None:
    light = contents.split(job("é" * 60_000)).job
    assert in_list(light, None, None, 2048).command == "é" * 1024 + "\n[58976 more]"
