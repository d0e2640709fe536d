"""A job in two parts, and whole again: nothing is lost, and the part that is held is small."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed.config.jobs import Jobs as Config
from homed.errors import JobError
from homed.jobs import contents
from homed.jobs.launch import Place, launch
from homed.jobs.records import Archive, Beside, Command, Job, Origin, Result, Script, State, Task, Work, decode, encode
from tests.support.stored_jobs import keys, kinds

AT = datetime(2026, 1, 1, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
LONG = st.tuples(TEXT, st.sampled_from([1, 300, 2000])).map(lambda pair: pair[0] * pair[1])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | LONG,
    lambda inside: st.lists(inside, max_size=5) | st.dictionaries(TEXT, inside, max_size=5),
    max_leaves=20,
)
OBJECTS = st.dictionaries(TEXT | st.sampled_from(["command", "expression", "url", "mode"]), VALUES, max_size=6)
WORKS: st.SearchStrategy[Work] = st.one_of(
    st.builds(Command, LONG, LONG),
    st.builds(Script, LONG),
    st.builds(Archive, LONG, st.just("/uploads/1-a.zip"), st.just("a.zip")),
    st.builds(Task, st.just("echo"), OBJECTS),
)
RESULTS = st.none() | st.builds(Result, exit_code=st.none() | st.integers(0, 255), data=VALUES)
# What a record may take that holds no more than it must: the beginning of a text has four bytes a character at most.
MOST = 24_000


def job(work: Work, **more: Any) -> Job:
    return Job(id="j", origin=Origin.RETIRE, work=work, created_at=AT, updated_at=AT, **more)


def plain(job: Job) -> Job:
    """With the data of its result as objects."""
    if job.result is None or not isinstance(job.result.data, msgspec.Raw):
        return job
    data = msgspec.json.decode(job.result.data)
    return msgspec.structs.replace(job, result=msgspec.structs.replace(job.result, data=data))


@settings(max_examples=30, deadline=None)
@given(work=WORKS, metadata=OBJECTS, result=RESULTS)
def test_a_job_that_was_split_is_put_together_as_it_was(work: Work, metadata: dict[str, Any], result: Result) -> None:
    whole = job(work, metadata=metadata, result=result)
    light, content, data = contents.split(whole)
    assert len(encode(light)) <= MOST
    assert plain(contents.join(decode(encode(light)), content, data)) == decode(encode(whole))
    assert (light.beside.work, light.beside.data) == (len(content or b""), len(data or b""))


@settings(max_examples=30, deadline=None)
@given(work=WORKS, metadata=OBJECTS, result=RESULTS)
def test_a_record_of_an_older_homed_is_split_likewise(work: Work, metadata: dict[str, Any], result: Result) -> None:
    whole = job(work, metadata=metadata, result=result)
    record = encode(whole)
    light, content, data = contents.split_record(record)
    read, inside = contents.read(record)
    assert read == light
    assert inside == (content is not None or data is not None)
    assert len(encode(light)) <= MOST
    assert plain(contents.join(light, content, data)) == decode(record)
    # What is written then is read as it is.
    assert contents.read(encode(light)) == (light, False)


@pytest.mark.parametrize(
    "work",
    [
        Command("a" * 1000, "\x01" * 16_000),
        Script("\x01" * 5000),
        Task("echo", dict.fromkeys(("command", "expression", "url"), "\x01" * 3000)),
    ],
)
def test_a_split_record_that_is_large_itself_keeps_its_content(work: Work) -> None:
    result = contents.bounded(Result(exit_code=1, code="EXIT", error="\x01" * 5000, data=["x" * 5000]))
    light = contents.split(job(work, result=result)).job
    assert len(encode(light)) > 16 << 10
    assert light.beside.work and light.beside.data
    assert contents.read(encode(light)) == (light, False)


@pytest.mark.parametrize("number", range(7))
def test_of_a_megabyte_little_is_held(number: int) -> None:
    whole = kinds(100_000)[number](1, AT)
    light, work, data = contents.split(whole)
    assert len(encode(light)) < 3000
    assert len(work or b"") + len(data or b"") > 90_000
    assert contents.read(encode(whole)) == (light, True)


def test_what_is_searched_for_and_placed_by_stays_in_the_record() -> None:
    work = Task("http_request", {"url": "https://a.example/" + "x" * 5000, **keys(50_000)})
    light = contents.split(job(work, metadata={"mode": "distributed", "note": "n" * 5000})).job
    assert light.work == Task("http_request", {"url": ("https://a.example/" + "x" * 5000)[:1024]})
    assert light.metadata == {"mode": "distributed"}


def test_many_small_elements_weigh_more_than_their_text() -> None:
    assert contents.split(job(Task("echo", {"a": [[]] * 100}))).work is not None
    assert contents.split(job(Task("echo", {"a": "x" * 400}))).work is None


def test_a_list_says_how_much_of_a_text_it_does_not_show() -> None:
    light = contents.split(job(Script("é" * 10_000))).job
    assert contents.rest(light) == "\n[8976 more]"
    assert contents.rest(contents.split(job(Command("x" * 3000, "y" * 3000))).job) == "\n[4977 more]"
    assert contents.rest(job(Script("é" * 1500))) == ""


def test_what_somebody_says_of_a_failure_is_bounded() -> None:
    said = contents.bounded(Result(code="C" * 100, error="é" * 100_000))
    assert (len(said.code), len(said.error), said.error[-1]) == (64, 4096, "…")
    short = Result(code="EXIT", error="it ended with 1")
    assert contents.bounded(short) is short


def test_the_work_of_a_job_that_is_not_whole_is_never_run(tmp_path: Any) -> None:
    light = contents.split(job(Script("x" * 10_000), state=State.ASSIGNED)).job
    assert light.beside != Beside()
    with pytest.raises(JobError):
        launch(light, Place(tmp_path, tmp_path, tmp_path), Config())
