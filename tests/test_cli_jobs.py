"""`homed job` and `homed host`: what is asked of homed, what is shown of the answer, and with which code it ends."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homed import cli
from tests.support.control import Answers

Run = Callable[..., int]
JOB = {
    "id": "j-1", "status": "completed", "created_at": "2026-11-21T02:00:00.000Z", "exit_code": 0, "command": "echo",
    "args": "a\nb", "server_id": "local", "server": None,
}  # fmt: skip


@pytest.fixture
def homed(tmp_path: Path) -> Iterator[Answers]:
    with Answers(tmp_path) as answers:
        yield answers


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """On the state directory of the test; the exit code."""
    return lambda *arguments: cli.main([*arguments[:2], "--state", str(tmp_path), *arguments[2:]])


def events(*told: tuple[str, str, object]) -> tuple[int, bytes]:
    """As the stream of a job: (id, event, data) each."""
    text = ": keep-alive\n\n" + "".join(
        f"id: {id}\nevent: {kind}\ndata: {json.dumps(data)}\n\n" for id, kind, data in told
    )
    return 200, text.encode()


def output(id: str, content: str, kind: str = "stdout") -> tuple[str, str, object]:
    return id, "output", {"type": kind, "content": content}


def test_a_command_is_run_and_its_output_and_exit_code_are_its_own(
    homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    homed.on("POST", "jobs", (201, JOB))
    done = ("1-4-3", "complete", {"status": "failed", "exit_code": 3, "error": "it ended with 3"})
    homed.on("GET", "jobs/j-1/stream", events(output("1-2-2", "a\n"), output("1-4-2", "é", "stderr"), done))
    assert run("job", "run", "--timeout", "5", "--priority", "8", "--", "ls", "-l") == 3
    assert homed.bodies("jobs") == [{"server_id": "local", "timeout": 5.0, "priority": 8, "command": "ls -l"}]
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("a\n", "éhomed: it ended with 3\n")


def test_a_stream_that_breaks_off_is_taken_up_where_it_was(
    homed: Answers, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homed.cli_jobs._LOST_PAUSE", 0.01)
    done = ("1-2-3", "complete", {"status": "completed", "exit_code": 0})
    homed.on("GET", "jobs/j-1/stream", events(output("1-1-2", "a")), events(output("1-2-2", "b"), done))
    assert run("job", "logs", "j-1") == 0
    assert capsys.readouterr().out == "ab"
    assert [asked.method for asked in homed.asked] == ["GET", "GET"]


def test_a_script_is_read_from_its_file(homed: Answers, run: Run, tmp_path: Path) -> None:
    homed.on("POST", "jobs/script", (201, JOB))
    script = tmp_path / "backup.sh"
    script.write_text("echo é\n", encoding="utf-8")
    assert run("job", "run", "--script", str(script), "--shell", "/bin/sh", "--host", "h", "--no-wait") == 0
    assert homed.bodies("jobs/script") == [{"server_id": "h", "script": "echo é\n", "shell": "/bin/sh"}]


@pytest.mark.parametrize(
    ("words", "line"), [(["echo *.c | wc"], "echo *.c | wc"), (["printf", "%s\\n", "a b"], "printf '%s\\n' 'a b'")]
)
def test_one_word_is_a_line_for_the_shell_and_several_are_a_program(
    homed: Answers, run: Run, words: list[str], line: str
) -> None:
    homed.on("POST", "jobs", (201, JOB))
    assert run("job", "run", "--no-wait", "--", *words) == 0
    assert homed.bodies("jobs") == [{"server_id": "local", "command": line}]


@pytest.mark.parametrize(
    "arguments", [["job", "run", "--script", "none.sh"], ["host", "add", "web", "a@b", "--key-file", "none"]]
)
def test_a_file_that_is_not_there_is_said(
    homed: Answers, run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(*arguments) == 1
    assert capsys.readouterr().err.startswith(f"homed: cannot read {arguments[-1]}: ")
    assert homed.asked == []


def test_a_password_is_asked_for_at_a_terminal_only(
    homed: Answers, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
    assert run("host", "add", "web", "me@10.0.0.1") == 1
    assert capsys.readouterr().err == "homed: there is no terminal to ask for it at\n"
    assert homed.asked == []


@pytest.mark.parametrize("arguments", [[], ["--script", "x", "ls"]])
def test_either_a_command_or_a_script_is_needed(homed: Answers, run: Run, arguments: list[str]) -> None:
    assert run("job", "run", *arguments) == 2
    assert homed.asked == []


def test_jobs_are_listed_a_line_each(homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    homed.on("GET", "jobs?limit=20&status=completed&search=a%2Fb", (200, {"jobs": [JOB]}))
    assert run("job", "list", "--status", "completed", "--search", "a/b") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["j-1", "completed", "2026-11-21", "02:00:00", "0", "local", "echo", "a", "b"]


def test_a_refusal_says_why(homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    refusal = {"success": False, "error": "Job not found", "code": "JOB_NOT_FOUND", "request_id": "r"}
    homed.on("POST", "jobs/x/cancel", (404, refusal))
    assert run("job", "cancel", "x") == 1
    assert capsys.readouterr().err == "homed: Job not found\n"


def test_a_host_is_added_with_its_key(
    homed: Answers, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    homed.on("POST", "servers", (201, {"id": "h-1"}))
    (tmp_path / "key").write_text("PRIVATE", encoding="utf-8")
    assert run("host", "add", "web", "me@10.0.0.1", "--port", "2222", "--key-file", str(tmp_path / "key")) == 0
    asked = {"name": "web", "hostname": "10.0.0.1", "port": 2222, "user": "me", "auth_type": "key"}
    assert homed.bodies("servers") == [asked | {"private_key": "PRIVATE"}]
    assert capsys.readouterr().out == "h-1\n"


def test_an_address_needs_a_user(homed: Answers, run: Run) -> None:
    assert run("host", "add", "web", "10.0.0.1") == 2
    assert homed.asked == []


def test_a_host_that_does_not_answer_is_told_by_the_exit_code(
    homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"success": False, "error": "it does not answer", "status": "disconnected", "test_command": "echo 'test'"}
    failed = (503, {**said, "message": "it does not answer"})
    homed.on("POST", "servers/h/test", failed, failed)
    assert run("host", "test", "h") == 1
    assert capsys.readouterr().err == "homed: it does not answer\n"
    assert run("host", "test", "h", "--json") == 1
    assert json.loads(capsys.readouterr().out)["status"] == "disconnected"


def test_a_host_with_history_says_how_it_can_be_removed(
    homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "Server has associated job history: 1 job is of it: force deletes it all the same."
    said = {"success": False, "error": "Server has associated job history", "code": "HOST_BUSY", "details": sentence}
    homed.on("DELETE", "servers/h", (409, said))
    assert run("host", "remove", "h") == 1
    assert capsys.readouterr().err == f"homed: {sentence}\n"


def test_a_host_may_be_named(homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    missing = (404, {"success": False, "error": "Server not found", "code": "HOST_NOT_FOUND", "request_id": "r"})
    servers = [{"id": "h-1", "name": "web"}, {"id": "h-2", "name": "twice"}, {"id": "h-3", "name": "twice"}]
    homed.on("POST", "jobs", missing, (201, JOB), missing)
    homed.on("GET", "servers", (200, {"servers": servers}))
    assert run("job", "run", "--host", "web", "--no-wait", "ls") == 0
    assert [body["server_id"] for body in homed.bodies("jobs")] == ["web", "h-1"]
    assert run("job", "run", "--host", "twice", "--no-wait", "ls") == 1
    assert capsys.readouterr().err == "homed: Server not found\n"


def test_a_host_is_removed_by_force(homed: Answers, run: Run) -> None:
    homed.on("DELETE", "servers/h?force=true", (200, {}))
    assert run("host", "remove", "h", "--force") == 0


def test_a_reader_that_has_ended_is_no_error(homed: Answers, run: Run, tmp_path: Path) -> None:
    done = ("1-9-3", "complete", {"status": "completed", "exit_code": 0})
    homed.on("GET", "jobs/j-1/stream", events(output("1-1-2", "a\n" * 100_000), output("1-2-2", "b"), done))
    command = f"{sys.executable} -m homed job logs --state {tmp_path} j-1 | head -n 1; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (141, "a\n", "")


@pytest.mark.parametrize(("command", "cancels"), [("run", True), ("logs", False)])
def test_an_interrupt_cancels_the_job_of_run_and_says_so_and_ends_logs_alone(
    homed: Answers, tmp_path: Path, command: str, cancels: bool
) -> None:
    homed.on("POST", "jobs", (201, JOB))
    homed.on("GET", "jobs/j-1/stream", events(output("1-2-2", "a\n")))  # it breaks off, and is asked for again
    homed.on("POST", "jobs/j-1/cancel", (200, {}))
    homed.on("GET", "jobs/j-1", (200, JOB | {"status": "running"}), (200, JOB | {"status": "canceled"}))
    argument = "sleep 9" if command == "run" else "j-1"
    process = subprocess.Popen(
        [sys.executable, "-m", "homed", "job", command, "--state", str(tmp_path), argument],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline() == "a\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert (("POST", "jobs/j-1/cancel") in {(asked.method, asked.path) for asked in homed.asked}) == cancels
    assert ("homed: job j-1 is canceled" in said) == cancels


def test_a_list_of_hosts_shows_what_the_last_check_found(
    homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    host = {
        "id": "h-1", "name": "pi", "user": "root", "hostname": "pi.local", "port": 22, "auth_type": "key",
        "is_active": True, "status": "disconnected", "last_checked_at": "2026-11-21T02:00:00.000Z",
    }  # fmt: skip
    homed.on("GET", "servers", (200, {"servers": [host, host | {"is_active": False, "last_checked_at": None}]}))
    assert run("host", "list") == 0
    _, failed, inactive = capsys.readouterr().out.splitlines()
    assert failed.split() == ["h-1", "pi", "root@pi.local:22", "key", "disconnected", "2026-11-21", "02:00:00"]
    assert inactive.split()[-2:] == ["inactive", "-"]
