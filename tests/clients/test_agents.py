"""Agents of the original executor: they poll without their id, stream, ask only for cancelRequested, submit it all."""

import subprocess
import tempfile
import threading
import time
from typing import Any

from tests.support.api import Api
from tests.support.executor import ended, submit
from tests.support.wait import until


class Agent:
    """As the originals do it, with shorter pauses."""

    def __init__(self, api: Api, id: str):
        self.api, self.id = api, id
        self.codes: list[int] = []
        self.taken: list[str] = []
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=id, daemon=True)

    def __enter__(self) -> "Agent":
        body = {"workerId": self.id, "hostname": self.id, "os": "linux", "cpuCount": 2, "version": "1.0.0"}
        assert self.api.post("/api/workers/register", body).status == 200
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self.stopping.wait(0.05):
            self._post("/api/workers/heartbeat", {"workerId": self.id})
            answer = self.api.get("/api/jobs/get-job")  # without its id
            if answer.status == 200:
                self._work(answer.json["job"])

    def _work(self, job: Any) -> None:
        id = job["jobId"]
        self.taken.append(id)
        archive = self.api.get(job["fileUrl"])
        self.codes.append(archive.status)
        whole = ""
        for command in job["command"].split("\n"):
            text, code = self._command(id, command)
            # Each command's output once more as a whole, as newer ones do.
            self._post("/api/jobs/stream-output", {"jobId": id, "type": "stdout", "data": text})
            whole += text
            if code < 0:
                body = {"jobId": id, "workerId": self.id, "errorMessage": "cancelled by request"}
                self.codes.append(self.api.put("/api/jobs/submit-result", body).status)
                return
        self._post("/api/jobs/submit-result",
                   {"jobId": id, "workerId": self.id, "stdout": whole, "stderr": "", "exitCode": 0})  # fmt: skip

    def _command(self, id: str, command: str) -> tuple[str, int]:
        text = ""
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, text=True, cwd=folder)
            assert process.stdout is not None
            asking = threading.Thread(target=self._ask, args=(id, process))
            asking.start()
            for line in process.stdout:
                text += line
                self._post("/api/jobs/stream-output", {"jobId": id, "type": "stdout", "data": line})
            process.wait()
            process.stdout.close()
            asking.join()
        return text, process.returncode

    def _ask(self, id: str, process: "subprocess.Popen[str]") -> None:
        while process.poll() is None:
            if self.api.get(f"/api/jobs/check-cancel?jobId={id}").json["cancelRequested"]:
                process.terminate()
                return
            time.sleep(0.05)

    def _post(self, path: str, body: Any) -> None:
        self.codes.append(self.api.post(path, body).status)


def test_agents_that_never_give_an_id_do_each_job_once_and_its_output_is_theirs(api: Api) -> None:
    jobs = [submit(api, f"echo begin {number}\necho end {number}") for number in range(6)]
    with Agent(api, "first") as first, Agent(api, "second") as second:
        found = [ended(api, job) for job in jobs]
    for number, job in enumerate(found):
        assert (job["status"], job["exitCode"]) == ("completed", 0)
        assert job["stdout"] == f"begin {number}\nend {number}\n"
        assert job["jobId"] in (first.taken if job["workerId"] == "first" else second.taken)
    assert sorted(first.taken + second.taken) == sorted(jobs)
    assert set(first.codes + second.codes) == {200}


def test_a_job_that_is_cancelled_ends_at_its_agent(api: Api) -> None:
    job = submit(api, "echo begun; exec sleep 600")
    with Agent(api, "third") as agent:
        until("it to run", lambda: api.get(f"/api/jobs/status?jobId={job}").json["stdout"] == "begun\n", 60)
        assert api.post("/api/jobs/cancel", {"jobId": job}).status == 200
        found = ended(api, job)
        assert api.post("/api/jobs/cancel", {"jobId": job}).status == 200
    assert (found["status"], found["errorMessage"]) == ("failed", "Job cancelled by user")
    assert (found["exitCode"], found["workerId"]) == (130, "third")
    assert set(agent.codes) == {200}
