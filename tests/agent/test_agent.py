"""`homed worker` as a process against a homed as a process: run, stream, cancel, and every way of being killed."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.executor import AgentProcess, board, ended, execute, status, submit, zipped
from tests.support.homed import Homed
from tests.support.wait import until

Start = Callable[..., AgentProcess]


@pytest.fixture
def homed(tmp_path: Path) -> Iterator[Homed]:
    with board(tmp_path / "board", offline_after=3) as made:
        yield made


@pytest.fixture
def api(homed: Homed) -> Api:
    return homed.api


@pytest.fixture
def start(tmp_path: Path, homed: Homed) -> Iterator[Start]:
    """Start one of a name, with options."""
    with ExitStack() as stack:

        def run(name: str = "agent", *options: str) -> AgentProcess:
            return stack.enter_context(AgentProcess(tmp_path / name, homed.api.url, *options))

        yield run


def waits_for(path: Path) -> str:
    return f"while [ ! -e {path} ]; do sleep 0.05; done"


def is_running(api: Api, job: str) -> None:
    until(f"{job} to run", lambda: status(api, job)["status"] == "running")


def prints(api: Api, job: str, text: str) -> None:
    until(f"{job} to print {text!r}", lambda: text in status(api, job)["stdout"])


def processes(mark: str) -> list[str]:
    """Those with this in their command line."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if mark in line and "pytest" not in line:
            found.append(line)
    return found


def test_a_job_is_fetched_run_and_reported(api: Api, start: Start) -> None:
    agent = start("agent", "--id", "my-agent")
    job = submit(
        api, "cat a/b.txt\nsh run.sh\necho $HOMED_JOB_ID", {"a/b.txt": "héllo\n", "run.sh": "echo error >&2\n"}
    )
    found = ended(api, job)
    assert (found["status"], found["exitCode"], found["workerId"]) == ("completed", 0, "my-agent")
    assert (found["stdout"], found["stderr"]) == (f"héllo\n{job}\n", "error\n")
    (worker,) = api.get("/api/workers/list").json["workers"]
    assert worker["workerId"] == "my-agent" and worker["os"] == "linux" and worker["cpuCount"] >= 1
    until("a heartbeat", lambda: api.get("/api/workers/list").json["workers"][0]["ramTotalMb"])
    until("its folder to be gone", lambda: os.listdir(agent.work / "jobs") == [])


@pytest.mark.parametrize(
    ("commands", "code"), [("exit 3", 3), ("false\necho not reached", 1), ("kill -9 $$", 137), ("no-such-thing", 127)]
)
def test_how_it_ends_is_told(api: Api, start: Start, commands: str, code: int) -> None:
    start()
    found = ended(api, submit(api, commands))
    assert (found["status"], found["exitCode"]) == ("completed", code)
    assert "not reached" not in found["stdout"]


def test_output_is_seen_while_it_comes(api: Api, start: Start, tmp_path: Path) -> None:
    start()
    job = submit(api, f"echo one\n{waits_for(tmp_path / 'go')}\necho two")
    prints(api, job, "one\n")
    assert status(api, job)["status"] == "running"
    (tmp_path / "go").touch()
    assert ended(api, job)["stdout"] == "one\ntwo\n"


def test_much_output_is_whole_and_in_order(api: Api, start: Start) -> None:
    start()
    found = ended(api, submit(api, "seq 1 100000\nprintf 'no newline: \\303'"))
    lines = "".join(f"{number}\n" for number in range(1, 100_001)) + "no newline: \ufffd"
    assert found["stdout"] == lines


def test_a_cancelled_job_is_ended_with_all_that_it_started(api: Api, start: Start) -> None:
    agent = start()
    mark = f"77{os.getpid()}"
    job = submit(api, f"trap '' TERM\nsetsid sleep {mark} &\nsleep {mark} &\necho up\nsleep {mark}")
    prints(api, job, "up")
    assert len(processes(f"sleep {mark}")) >= 3
    api.post("/api/jobs/cancel", {"jobId": job})
    found = ended(api, job)
    assert (found["status"], found["exitCode"], found["stdout"]) == ("failed", 130, "up\n")
    assert processes(f"sleep {mark}") == []
    assert ended(api, submit(api, "echo next"))["stdout"] == "next\n"
    assert agent.process is not None and agent.process.poll() is None


def test_what_a_job_leaves_running_is_ended_with_it(api: Api, start: Start) -> None:
    start()
    mark = f"78{os.getpid()}"
    found = ended(api, submit(api, f"setsid sleep {mark} &\nsleep {mark} &\necho done"))
    assert (found["exitCode"], found["stdout"]) == (0, "done\n")
    assert processes(f"sleep {mark}") == []


def test_as_many_run_at_once_as_it_has_slots(api: Api, start: Start, tmp_path: Path) -> None:
    start("agent", "--slots", "3")
    go = tmp_path / "go"
    jobs = [submit(api, waits_for(go)) for _ in range(4)]
    until("three to run", lambda: sum(status(api, job)["status"] == "running" for job in jobs) == 3)
    assert status(api, jobs[3])["status"] == "pending"
    go.touch()
    assert [ended(api, job)["exitCode"] for job in jobs] == [0] * 4


def test_several_agents_share_the_work(api: Api, start: Start) -> None:
    for name in ("one", "two"):
        start(name, "--id", name)
    jobs = [submit(api, "sleep 0.3") for _ in range(6)]
    found = [ended(api, job) for job in jobs]
    assert {one["status"] for one in found} == {"completed"}
    assert {one["workerId"] for one in found} == {"one", "two"}


def test_an_archive_that_is_not_safe_is_a_failure(api: Api, start: Start, tmp_path: Path) -> None:
    start()
    answer = execute(api, zipped({"../../../escaped": "x"}), "echo ran", "distributed")
    found = ended(api, answer.json["jobId"])
    assert found["status"] == "failed" and "not safe" in found["errorMessage"] and found["stdout"] == ""
    answer = execute(api, b"no archive at all", "echo ran", "distributed")
    assert ended(api, answer.json["jobId"])["status"] == "failed"
    assert list(tmp_path.rglob("escaped")) == []


def test_an_archive_that_is_not_there_is_a_failure(api: Api, start: Start) -> None:
    start()
    body = {"command": "ls", "fileUrl": "/uploads/1-gone.zip", "filename": "gone.zip"}
    found = ended(api, api.post("/api/jobs/create", body).json["jobId"])
    assert found["status"] == "failed" and found["errorMessage"].startswith("File download failed")


def test_a_job_of_an_agent_that_is_killed_is_run_by_another(api: Api, start: Start, tmp_path: Path) -> None:
    first = start("first", "--id", "first")
    mark = f"79{os.getpid()}"
    job = submit(api, f"echo begun\n[ -e {tmp_path / 'go'} ] || sleep {mark}\necho $HOMED_JOB_ID done")
    prints(api, job, "begun")
    first.kill()
    (tmp_path / "go").touch()
    second = start("second", "--id", "second")
    found = ended(api, job)
    assert (found["status"], found["workerId"], found["stdout"]) == ("completed", "second", f"begun\n{job} done\n")
    assert second.log.count(f"Job {job}: ") == 1
    # What the first left running is ended when it comes again.
    assert processes(f"sleep {mark}")
    first.started()
    until("nothing to be left of it", lambda: processes(f"sleep {mark}") == [])


def test_an_agent_that_comes_again_soon_has_its_lost_job_given_away_at_once(tmp_path: Path) -> None:
    with board(tmp_path / "board", offline_after=600) as homed:
        agent = AgentProcess(tmp_path / "agent", homed.api.url)
        with agent:
            job = submit(homed.api, f"[ -e {tmp_path / 'go'} ] || sleep 600\necho done")
            is_running(homed.api, job)
            agent.kill()
            (tmp_path / "go").touch()
            agent.started()
            assert ended(homed.api, job)["stdout"] == "done\n"


def test_a_job_goes_on_while_homed_is_killed_and_is_reported_to_the_next(
    homed: Homed, api: Api, start: Start, tmp_path: Path
) -> None:
    start()
    job = submit(api, f"echo one\n{waits_for(tmp_path / 'go')}\necho two\ntouch {tmp_path / 'done'}")
    prints(api, job, "one")
    homed.kill()
    (tmp_path / "go").touch()
    until("the job to end", lambda: (tmp_path / "done").exists())
    time.sleep(1)
    homed.start()
    found = ended(api, job)
    assert (found["status"], found["exitCode"], found["stdout"]) == ("completed", 0, "one\ntwo\n")
    assert ended(api, submit(api, "echo next"))["stdout"] == "next\n"


def test_a_result_survives_the_agent_while_homed_is_away(tmp_path: Path) -> None:
    made = board(tmp_path / "board", offline_after=600)
    with made as homed, AgentProcess(tmp_path / "agent", homed.api.url) as agent:
        job = submit(homed.api, f"echo one\n{waits_for(tmp_path / 'go')}\nseq 1 30000")
        prints(homed.api, job, "one")
        homed.kill()
        (tmp_path / "go").touch()
        until("the result to be kept", lambda: list(agent.work.glob("jobs/*/report.json")))
        agent.kill()
        homed.start()
        agent.started()
        found = ended(homed.api, job)
        assert found["exitCode"] == 0
        assert found["stdout"] == "one\n" + "".join(f"{number}\n" for number in range(1, 30_001))
        until("its folder to be gone", lambda: os.listdir(agent.work / "jobs") == [])


def test_on_sigterm_it_finishes_what_it_has_and_takes_nothing_new(api: Api, start: Start, tmp_path: Path) -> None:
    agent = start()
    job = submit(api, f"echo up\n{waits_for(tmp_path / 'go')}\necho done")
    prints(api, job, "up")
    agent.send(signal.SIGTERM)
    until("it to hear", lambda: "nothing more is taken" in agent.log)
    other = submit(api, "echo other")
    (tmp_path / "go").touch()
    assert agent.wait() == 0
    assert status(api, job)["stdout"] == "up\ndone\n" and status(api, job)["exitCode"] == 0
    assert status(api, other)["status"] == "pending"
    agent.started()
    assert ended(api, other)["stdout"] == "other\n"


def test_a_second_sigterm_ends_it_at_once(api: Api, start: Start) -> None:
    agent = start()
    mark = f"80{os.getpid()}"
    job = submit(api, f"echo up\nsleep {mark}")
    prints(api, job, "up")
    agent.send(signal.SIGTERM)
    until("it to hear", lambda: "nothing more is taken" in agent.log)
    agent.send(signal.SIGTERM)
    assert agent.wait() == 143
    assert processes(f"sleep {mark}") == []


def test_an_idle_agent_ends_at_once_on_sigterm(start: Start) -> None:
    agent = start()
    agent.send(signal.SIGTERM)
    assert agent.wait(20) == 0


def test_it_waits_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    made = board(tmp_path / "board")
    agent = AgentProcess(tmp_path / "agent", made.api.url)
    try:
        agent.start()
        until("it to say so", lambda: "The server is away" in agent.log)
        with made as homed:
            assert ended(homed.api, submit(homed.api, "echo here"))["stdout"] == "here\n"
    finally:
        agent.kill()


def test_it_needs_a_key_where_the_server_does(tmp_path: Path) -> None:
    made = board(tmp_path / "board")
    made.tables["api"]["require_key"] = True
    made.write_config()
    with made as homed:
        homed.api = Api(homed.port).with_key(homed.make_key("operator", "operate")[0])
        refused = AgentProcess(tmp_path / "refused", homed.api.url).start()
        assert refused.wait() == 77
        assert "the server does not take this worker" in refused.log
        key = tmp_path / "key"
        key.write_text(homed.make_key("worker", "operate")[0] + "\n")
        with AgentProcess(tmp_path / "agent", homed.api.url, "--key-file", str(key)):
            assert ended(homed.api, submit(homed.api, "echo in"))["stdout"] == "in\n"


@pytest.mark.parametrize(
    ("options", "code"),
    [(["--server", "ftp://x"], 78), (["--key-file", "/nonexistent"], 78), (["--ca", "/nonexistent"], 78),
     (["--slots", "0"], 2), (["--id", "a b"], 78)],
)  # fmt: skip
def test_a_wrong_call_is_told_by_its_exit_code(tmp_path: Path, options: list[str], code: int) -> None:
    agent = AgentProcess(tmp_path, "http://127.0.0.1:9", *options).start()
    assert agent.wait() == code, agent.log


def test_one_folder_is_one_workers(tmp_path: Path, start: Start) -> None:
    first = start()
    second = AgentProcess(tmp_path / "other", "http://127.0.0.1:9", "--work", str(first.work)).start()
    assert second.wait() == 78
    assert "another worker works there" in second.log


def test_it_keeps_its_id(start: Start, api: Api) -> None:
    agent = start()
    known = agent.id
    agent.kill()
    agent.started()
    assert agent.id == known
    assert [one["workerId"] for one in api.get("/api/workers/register").json["workers"]] == [known]
