"""A shell client of NewRemora: curl, and grep over the bytes of the answers."""

import subprocess

from tests.support.api import Api

# Compact JSON is searched for `"name":"value"`; what is found twice breaks the line that uses it.
_HEAD = r"""
set -euo pipefail
api=$1
one() {  # the only value of a field: it fails if there is none, or more than one
    found=$(grep -o "\"$1\":\"[^\"]*\"" | cut -d '"' -f 4)
    [ "$(printf '%s\n' "$found" | wc -l)" = 1 ] || { echo "$1 was found as: $found" >&2; exit 9; }
    printf '%s' "$found"
}
post() { curl -sS --fail-with-body -X POST -H 'Content-Type: application/json' "$@"; }
"""
_SUBMIT = r"""
id=$(post "$api/api/v1/jobs" -d '{"command": "printf", "args": "shell-client", "server_id": "local"}' | one id)
for try in $(seq 300); do
    status=$(curl -sS "$api/api/v1/jobs/$id" | one status)
    [ "$status" = queued ] || [ "$status" = running ] || break
    sleep 0.1
done
[ "$status" = completed ]
[ "$(curl -sS "$api/api/v1/jobs/$id" | grep -o '"exit_code":[0-9]*')" = '"exit_code":0' ]
[ "$(curl -sS "$api/api/v1/jobs/$id" | one stdout)" = shell-client ]
[ "$(curl -sS "$api/api/v1/jobs/$id/logs" | one job_id)" = "$id" ]
[ "$(curl -sS "$api/api/v1/jobs/$id/logs" | one output)" = shell-client ]
copy=$(post "$api/api/v1/jobs/$id/duplicate" | grep -o '"id":"[^"]*"' | tail -n 1 | cut -d '"' -f 4)
[ "$copy" != "$id" ]
sleeper=$(post "$api/api/v1/jobs/script" -d '{"script": "sleep 600", "server_id": "local"}' | one id)
[ "$(post "$api/api/v1/jobs/$sleeper/cancel" | one id)" = "$sleeper" ]
listed=$(curl -sS "$api/api/v1/jobs?limit=100" | grep -o '"id":"[^"]*"' | sort)
[ "$listed" = "$(printf '"id":"%s"\n' "$id" "$copy" "$sleeper" | sort)" ]
echo "$id"
"""
_SERVERS = r"""
body='{"name": "s", "hostname": "127.0.0.1", "port": 9, "user": "u", "auth_type": "password", "password": "p"}'
id=$(post "$api/api/v1/servers" -d "$body" | one id)
[ "$(curl -sS "$api/api/v1/servers/$id/status" | one status)" = disconnected ]
[ "$(curl -sS "$api/api/v1/servers/status/all?active=true" | one server_id)" = "$id" ]
[ "$(curl -sS -o /dev/null -w '%{http_code}' -X POST "$api/api/v1/servers/$id/test")" = 503 ]
[ "$(curl -sS "$api/api/v1/servers" | one id)" = "$id" ]
[ "$(curl -sS "$api/api/v1/servers/$id" | grep -o '"port":[0-9]*')" = '"port":9' ]
curl -sS -X DELETE "$api/api/v1/servers/$id" | grep -q '"deleted_jobs":0'
"""


def run(api: Api, script: str) -> str:
    ran = subprocess.run(
        ["bash", "-c", _HEAD + script, "client", api.url], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, f"{ran.returncode}: {ran.stderr}{ran.stdout}"
    return ran.stdout.strip()


def test_jobs_are_submitted_polled_copied_cancelled_and_listed(api: Api) -> None:
    id = run(api, _SUBMIT)
    assert api.get(f"/api/v1/jobs/{id}").json["status"] == "completed"


def test_servers_are_added_checked_and_deleted(api: Api) -> None:
    run(api, _SERVERS)
    assert api.get("/api/v1/servers").json["servers"] == []
