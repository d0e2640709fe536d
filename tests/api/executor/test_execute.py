"""Forms that are wrong, too large, broken off or slow, and direct mode where its client goes away."""

import http.client
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.executor import board, ended, execute, form, status, zipped
from tests.support.homed import Homed
from tests.support.wait import until

LIMIT = 256 * 1024
ARCHIVE = zipped({"a.txt": "a"})
FILE = ("file", ARCHIVE, "a.zip")


@pytest.fixture
def homed(tmp_path: Path) -> Iterator[Homed]:
    with board(tmp_path, upload_limit=LIMIT) as made:
        yield made


@pytest.fixture
def api(homed: Homed) -> Api:
    return homed.api


def uploads(homed: Homed) -> list[str]:
    folder = homed.state / "uploads"
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def send(api: Api, *parts: Any) -> Any:
    data, headers = form(*parts)
    return api.call("POST", "/api/execute", data=data, headers=headers)


@pytest.mark.parametrize(
    ("parts", "code", "said"),
    [
        ([("commands", "ls")], 400, "file and commands are required"),
        ([FILE], 400, "file and commands are required"),
        ([FILE, ("commands", "  \n")], 400, "file and commands are required"),
        ([], 400, "file and commands are required"),
        ([FILE, ("commands", "ls"), ("mode", "else")], 400, "mode: must be distributed or direct"),
        ([FILE, ("commands", "ls"), ("file", ARCHIVE, "b.zip")], 400, "file: may be given once"),
        ([FILE, ("commands", "ls"), ("commands", "rm")], 400, "commands: may be given once"),
        ([FILE, ("commands", b"\xff")], 400, "commands: must be UTF-8"),
        ([FILE, ("commands", "ls"), ("timeout", "x")], 400, "timeout: must be a number of seconds"),
        ([FILE, ("commands", "ls"), ("timeout", "nan")], 400, "timeout: must be"),
        ([FILE, ("commands", "ls\0")], 400, "command: must not have a null character"),
        ([("file", b"x" * (LIMIT + 1), "a.zip"), ("commands", "ls")], 413, "an upload may have"),
        ([FILE, ("commands", "l" * 300_000)], 413, "the field 'commands' may have"),
        ([FILE, *[("other", "x")] * 40], 400, "the form has more than"),
    ],
)  # fmt: skip
def test_a_form_that_is_wrong_leaves_nothing(homed: Homed, parts: list[Any], code: int, said: str) -> None:
    answer = send(homed.api, *parts)
    assert answer.status == code
    assert answer.json["error"].startswith(said) and answer.json["statusCode"] == code
    assert uploads(homed) == []
    assert homed.api.get("/api/jobs/create").json["count"] == 0


@pytest.mark.parametrize(
    "head", [b'Content-Disposition: form-data; name="\x03a"', b"no head", b"X: " + b"a" * 100_000, b"A: b\r\n" * 1000]
)
def test_a_part_whose_head_is_none_is_refused(homed: Homed, head: bytes) -> None:
    body = b"--B\r\n" + head + b"\r\n\r\nx\r\n--B--\r\n"
    answer = homed.api.call(
        "POST", "/api/execute", data=body, headers={"Content-Type": "multipart/form-data; boundary=B"}
    )
    assert answer.status == 400, answer
    assert "Traceback" not in homed.log


def test_what_is_no_form_is_refused(homed: Homed) -> None:
    api = homed.api
    assert api.call("POST", "/api/execute", data=b"{}", headers={"Content-Type": "application/json"}).status == 415
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        assert api.call("POST", "/api/execute", data=b"rubbish", headers={"Content-Type": kind}).status == 400
    data, headers = form(("file", ARCHIVE, "a.zip"), ("commands", "ls"))
    assert api.call("POST", "/api/execute", data=data[:-60], headers=headers).status == 400
    assert uploads(homed) == []


@pytest.mark.parametrize(
    ("filename", "kept"),
    [
        ("../../etc/cron.d/x", "x"), ("my file.zip", "my_file.zip"), (".bashrc", "bashrc"), ("…", "archive"),
        ("a" * 300 + ".tar.gz", "a" * 97 + ".gz"), ("-rf", "rf"), ("", "archive.zip"),
    ],
)  # fmt: skip
def test_a_file_gets_a_name_that_leads_nowhere(homed: Homed, filename: str, kept: str) -> None:
    answer = send(homed.api, ("file", ARCHIVE, filename), ("commands", "ls"), ("mode", "distributed"))
    assert answer.status == 200
    (name,) = uploads(homed)
    assert name.partition("-")[2] == kept
    assert homed.api.get(f"/uploads/{name}").body == ARCHIVE


def test_uploads_are_the_only_files_that_are_served(homed: Homed) -> None:
    execute(homed.api, ARCHIVE, "ls", "distributed")
    (homed.state / "uploads" / "secret").write_text("x")
    os.symlink("/etc/passwd", homed.state / "uploads" / "1-link")
    for path in ("secret", "1-link", "..%2fhomed.db", "%2e%2e/homed.db", "1-x%00"):
        assert homed.api.get(f"/uploads/{path}").status == 404, path


def test_a_client_that_goes_away_in_its_upload_leaves_nothing(homed: Homed) -> None:
    data, headers = form(("file", b"x" * 100_000, "a.zip"), ("commands", "ls"))
    with socket.create_connection(("127.0.0.1", homed.port)) as client:
        head = f"POST /api/execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        client.sendall(f"{head}Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + data[:60_000])
        until("a half to be there", lambda: any(name.startswith(".part-") for name in uploads(homed)))
    until("it to be gone", lambda: uploads(homed) == [])


def test_a_half_upload_of_a_homed_that_was_killed_is_swept(homed: Homed) -> None:
    execute(homed.api, ARCHIVE, "ls", "distributed")
    (whole,) = uploads(homed)
    homed.kill()
    (homed.state / "uploads" / ".part-0123").write_bytes(b"half")
    homed.start()
    until("it to be swept", lambda: uploads(homed) == [whole])


def test_a_client_that_waits_to_be_asked_for_its_form_is_asked(homed: Homed) -> None:
    data, headers = form(("file", ARCHIVE, "a.zip"), ("commands", "ls"), ("mode", "distributed"))
    answer = homed.api.call("POST", "/api/execute", data=data, headers={**headers, "Expect": "100-continue"})
    assert answer.status == 200


def direct(homed: Homed, commands: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse, str]:
    """A client that looks on."""
    data, headers = form(("file", ARCHIVE, "a.zip"), ("commands", commands))
    connection = http.client.HTTPConnection("127.0.0.1", homed.port, timeout=60)
    connection.request("POST", "/api/execute", body=data, headers=headers)
    response = connection.getresponse()
    return connection, response, str(response.headers["X-Exec-Id"])


def until_line(response: http.client.HTTPResponse, wanted: bytes) -> None:
    while (line := response.readline()) != wanted:
        assert line, "it ended before"


def test_output_comes_while_it_is_printed_and_a_quiet_job_keeps_the_line_open(homed: Homed) -> None:
    connection, response, job = direct(homed, "echo first\nwhile [ ! -e /tmp/never ]; do sleep 0.1; done")
    try:
        until_line(response, b"first\n")
        assert status(homed.api, job)["status"] == "running"
        assert response.readline().startswith(b"> while [") and response.readline() == b"-" * 80 + b"\n"
        assert response.readline() == b"\n"
        assert homed.api.delete("/api/execute", body={"execId": job}).json == {"stopped": True}
        until_line(response, b"Execution stopped!\n")
        assert response.readline() == b""
    finally:
        connection.close()
    found = ended(homed.api, job)
    assert (found["status"], found["exitCode"], found["errorMessage"]) == ("failed", 130, "Job cancelled by user")


def test_a_job_goes_on_where_its_client_goes_away(homed: Homed, tmp_path: Path) -> None:
    go, done = tmp_path / "go", tmp_path / "done"
    connection, response, job = direct(homed, f"echo first\nwhile [ ! -e {go} ]; do sleep 0.05; done\ntouch {done}")
    until_line(response, b"first\n")
    response.close()
    connection.close()
    go.touch()
    assert ended(homed.api, job)["exitCode"] == 0
    assert done.exists()


def test_a_homed_that_stops_waits_for_no_onlooker(homed: Homed) -> None:
    connection, response, _ = direct(homed, "echo first\nsleep 60")
    try:
        until_line(response, b"first\n")
        began = time.monotonic()
        assert homed.stop() == 0, homed.log[-3000:]
        assert time.monotonic() - began < 20
    finally:
        connection.close()
        homed.start()
        for one in homed.api.get("/api/jobs/create").json["jobs"]:
            homed.api.delete("/api/execute", body={"execId": one["jobId"]})


@pytest.mark.parametrize(
    "files", [{"../escape.txt": "x"}, {"/tmp/escape-by-homed.txt": "x"}, {"a/../../escape.txt": "x"}]
)
def test_an_archive_whose_members_escape_is_not_run(homed: Homed, files: dict[str, str]) -> None:
    answer = execute(homed.api, zipped(files), "echo ran")
    text = answer.body.decode()
    assert "ran\n" not in text and "Execution failed" in text
    assert not Path("/tmp/escape-by-homed.txt").exists()


def test_commands_need_a_key_where_the_listener_is_not_loopback_only(tmp_path: Path) -> None:
    made = board(tmp_path)
    made.tables["api"]["require_key"] = True
    made.write_config()
    with made as homed:
        reader, operator = (Api(homed.port).with_key(homed.make_key(s, s)[0]) for s in ("read", "operate"))
        calls = [
            ("POST", "/api/workers/register"), ("GET", "/api/workers/register"), ("GET", "/api/jobs/get-job"),
            ("POST", "/api/jobs/create"), ("POST", "/api/execute"), ("GET", "/uploads/1-a.zip"),
            ("POST", "/api/jobs/submit-result"), ("DELETE", "/api/execute"), ("GET", "/api/jobs/create"),
        ]  # fmt: skip
        for method, path in calls:
            answer = homed.api.call(method, path, {} if method in ("POST", "DELETE") else None)
            assert answer.status == 401 and answer.json["statusCode"] == 401, path
            assert reader.call(method, path, {} if method in ("POST", "DELETE") else None).status == 403, path
        assert operator.get("/api/jobs/create").status == 200
