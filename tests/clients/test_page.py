"""A page of NewRemora: it makes its rows of what the events of a job's stream hold."""

import json
import shutil
import subprocess

from tests.support.api import Api

# EventSource as browsers have it: named events, and a new connection with the last id until the server says 204.
_PAGE = r"""
const [base, job] = process.argv.slice(1);
const asked = [], rows = {}, states = [];
async function follow(id, last) {
  asked.push(id);
  const headers = {Accept: 'text/event-stream', ...(last ? {'Last-Event-ID': last} : {})};
  const answer = await fetch(`${base}/api/v1/jobs/${id}/stream`, {headers});
  if (answer.status !== 200) return;
  let text = '', seen = last, row;
  for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    const events = text.split('\n\n');
    text = events.pop();
    for (const event of events) {
      const fields = Object.fromEntries(event.split('\n').map(line => line.split(/: (.*)/s).slice(0, 2)));
      if (!fields.event) continue;
      seen = fields.id;
      const data = JSON.parse(fields.data);
      if (fields.event === 'output') {
        rows[data.job_id].live = (rows[data.job_id].live || '') + data.content;
        continue;
      }
      row = data;
      rows[row.id] = {...rows[row.id], ...row, server: row.server.name};
      states.push(`${fields.event} ${row.status}`);
    }
  }
  if (asked.length < 5) await follow(row.id, seen);
}
await follow(job, '');
console.log(JSON.stringify({asked, rows, states}));
"""


def test_a_page_keeps_the_row_of_the_job_that_it_follows(api: Api) -> None:
    submitted = {"command": "sleep 0.5; echo one; sleep 0.5; echo two; exit 3", "args": "", "server_id": "local"}
    id = api.post("/api/v1/jobs", submitted).json["id"]
    node = shutil.which("node")
    assert node is not None, "nodejs is needed: see tools/"
    ran = subprocess.run(
        [node, "--input-type=module", "--eval", _PAGE, api.url, id], capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert seen["asked"] == [id, id], "once, and once more to hear that it is over"
    assert list(seen["rows"]) == [id]
    row = seen["rows"][id]
    assert (row["status"], row["exit_code"], row["server"], row["priority"]) == ("failed", 3, "local", 5)
    assert row["live"] == row["stdout"] == row["output"] == "one\ntwo\n"
    assert row["command"].startswith("sleep") and row["started_at"] and row["finished_at"] and row["duration"] > 10**9
    assert seen["states"][-1] == "complete failed" and "status running" in seen["states"]


def test_an_empty_page_shows_its_list_and_numbers(api: Api) -> None:
    body = api.get("/api/v1/jobs?status=running&page=1&limit=10").json
    assert body["data"]["jobs"] == body["jobs"] == []
    status = api.get("/api/v1/servers/status/all?active=true").json
    assert (status["servers"], status["total_servers"], status["connected"], status["disconnected"]) == ([], 0, 0, 0)
