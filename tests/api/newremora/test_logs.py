"""What a job has printed: whole, in order, cut where it is too long, and while it still comes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.newremora.test_jobs import found_once
from tests.support.api import Api
from tests.support.homed import Homed
from tests.support.job_api import JOBS, await_running, ended, run, submit
from tests.support.wait import until

_LIMIT = 2_000_000


@pytest.fixture(scope="module")
def homed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homed]:
    """One that keeps two million bytes of each stream."""
    folder: Path = tmp_path_factory.mktemp("homed")
    with Homed(folder, f"unix://{folder}/no-engine.sock", {"jobs": {"output_limit": _LIMIT}}) as homed:
        yield homed
        homed.stop()


def logs(api: Api, id: str) -> Any:
    answer = api.get(f"{JOBS}/{id}/logs")
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/json"
    return answer.json


def test_both_streams_come_in_order_with_the_metadata(api: Api) -> None:
    done = run(api, "echo one; sleep 1.2; echo two >&2; sleep 1.2; echo three")
    body = logs(api, done["id"])
    assert body["success"] is True and body["error"] is None and body["timestamp"]
    assert body["logs"] == "one\ntwo\nthree\n"
    assert (body["stdout"], body["stderr"]) == ("one\nthree\n", "two\n")
    assert (body["job_id"], body["status"]) == (done["id"], "completed")
    assert body["data"] == {name: body[name] for name in body.keys() - {"success", "data", "error", "timestamp"}}
    assert body["output"] == body["logs"]
    for name in ("command", "args", "exit_code", "timeout", "created_at", "updated_at", "started_at", "finished_at"):
        assert body[name] == done[name], name
    assert body["duration"] == done["duration"] > 2_400_000_000
    metadata = body["metadata"]
    assert metadata["job"]["id"] == done["id"] and metadata["job"]["exit_code"] == 0
    assert (metadata["stdout_bytes"], metadata["stderr_bytes"]) == (10, 4)
    assert (metadata["stdout_length"], metadata["stderr_length"]) == (10, 4)
    assert (metadata["has_output"], metadata["has_errors"]) == (True, True)
    assert (metadata["stdout_dropped"], metadata["stderr_dropped"], metadata["truncated"]) == (0, 0, False)
    assert done["output"] == "one\ntwo\nthree\n"


def test_each_stream_is_plain_text_byte_for_byte(api: Api) -> None:
    done = run(api, r"printf 'a\0\377\303\251\n'; printf 'to err' >&2")
    out, err = (api.get(f"{JOBS}/{done['id']}/{name}") for name in ("stdout", "stderr"))
    assert (out.body, err.body) == (b"a\0\xff\xc3\xa9\n", b"to err")
    for answer in (out, err):
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "x-output-dropped" not in answer.headers
    assert done["stdout"] == "a\0�é\n"
    assert logs(api, done["id"])["stdout"] == "a\0�é\n"


def test_what_json_must_escape_is_escaped(api: Api) -> None:
    done = run(api, r"""printf '"quoted" \\ back\tslash \033[0m </script>'""")
    assert logs(api, done["id"])["logs"] == '"quoted" \\ back\tslash \x1b[0m </script>' == done["stdout"]


def test_a_job_that_printed_nothing_has_empty_logs(api: Api) -> None:
    done = run(api, "true")
    body = logs(api, done["id"])
    assert (body["logs"], body["output"], body["stdout"], body["stderr"]) == ("", "", "", "")
    assert (body["metadata"]["has_output"], body["metadata"]["has_errors"]) == (False, False)
    assert found_once(api.get(f"{JOBS}/{done['id']}/logs")) == {"job_id": [done["id"]], "status": ["completed"]}
    assert api.get(f"{JOBS}/{done['id']}/stdout").body == b""
    assert (done["output"], done["stdout"], done["stderr"]) == ("", "", "")


def test_output_longer_than_an_excerpt_is_whole_in_the_logs(api: Api) -> None:
    """Long enough for several pieces, with characters of several bytes at every place where it could be split."""
    id = submit(api, "yes äöü€𝄞 | head -c 1500000")["id"]
    done = ended(api, id)
    whole = api.get(f"{JOBS}/{id}/stdout").body
    assert len(whole) == 1_500_000
    text = whole.decode(errors="replace")
    body = logs(api, id)
    assert body["stdout"] == text and body["data"]["stdout"] == text
    assert body["logs"].replace("\ufffd", "") == text.replace("\ufffd", "")
    assert not body["metadata"]["truncated"]
    assert done["stdout_truncated"] and done["output_truncated"] and not done["stderr_truncated"]
    assert len(done["stdout"].encode()) < 600_000
    assert done["stdout"].startswith("äöü€𝄞\n")
    assert "bytes are not shown here" in done["stdout"] and "bytes are not shown here" in done["output"]


def test_output_that_was_cut_says_so_everywhere(api: Api) -> None:
    id = submit(api, "head -c 5000000 /dev/zero | tr '\\0' x")["id"]
    done = ended(api, id)
    assert done["stdout_truncated"]
    assert "bytes of stdout were dropped" in done["stdout"]
    answer = api.get(f"{JOBS}/{id}/stdout")
    assert len(answer.body) == _LIMIT
    assert int(answer.headers["x-output-dropped"]) > 0
    body = logs(api, id)
    assert body["metadata"]["truncated"] and body["metadata"]["stdout_dropped"] > 0
    assert body["metadata"]["stdout_bytes"] == _LIMIT
    assert "bytes of stdout were dropped" in body["logs"]


def test_what_a_running_job_has_printed_can_be_read(api: Api) -> None:
    id = submit(api, "echo begun; sleep 600")["id"]
    await_running(api, id)
    until("its output", lambda: api.get(f"{JOBS}/{id}/stdout").body == b"begun\n")
    until("it in the logs", lambda: logs(api, id)["logs"] == "begun\n")
    body = logs(api, id)
    assert (body["status"], body["metadata"]["job"]["exit_code"]) == ("running", None)
    assert api.post(f"{JOBS}/{id}/cancel").status == 200
    assert logs(api, id)["logs"] == "begun\n"


def test_a_job_that_never_stops_printing_does_not_keep_its_reader(api: Api) -> None:
    id = submit(api, "yes")["id"]
    await_running(api, id)
    for name in ("stdout", "logs"):
        assert api.get(f"{JOBS}/{id}/{name}", timeout=60).status == 200
    assert api.post(f"{JOBS}/{id}/cancel").status == 200


def test_the_memory_of_homed_does_not_grow_with_what_is_read(homed: Homed, api: Api) -> None:
    id = submit(api, "yes | head -c 1900000; yes | head -c 1900000 >&2")["id"]
    ended(api, id)
    for _ in range(3):
        logs(api, id)
    before = homed.memory()
    for _ in range(10):
        logs(api, id)
    assert homed.memory() - before < 32 * 1024 * 1024, "150 MB went through it"
