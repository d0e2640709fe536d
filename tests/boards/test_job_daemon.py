"""Jobs of the whole daemon on a booted board: through its API, with homed killed, upgraded, and the board gone."""

from pathlib import Path
from typing import Any

import pytest

from .homed import STATE, UNIT, Homed, build_wheel
from .rig.board import Board
from .rig.install import LOCKS, dependencies
from .rig.process import until
from .rig.rack import Rack

# The first test of a cold run builds the root and the layer of the dependencies as well.
pytestmark = pytest.mark.timeout(300)

CONFIG = """\
[api]
host = "0.0.0.0"
[api.limits]
enabled = false
[jobs]
slots = 200
"""
ENDED = ("completed", "failed", "canceled")
SECRET = "the-state-is-closed"


@pytest.fixture(scope="module")
def installed(module_boards: Rack, board_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Homed:
    board = module_boards("jobs", layers=[dependencies(board_root, *LOCKS)])
    homed = Homed(board, build_wheel(tmp_path_factory.mktemp("wheel")))
    homed.configure(CONFIG)
    homed.restart()
    return homed


@pytest.fixture
def homed(installed: Homed) -> Homed:
    until("homed to be ready", lambda: installed.call("GET", "/health/ready").status == 200, timeout=30)
    return installed


def submit(homed: Homed, line: str, **fields: Any) -> str:
    answer = homed.call("POST", "/api/v1/jobs", {"command": line, "server_id": "local", **fields})
    assert answer.status == 201, answer
    return str(answer.body["id"])


def details(homed: Homed, id: str) -> Any:
    return homed.call("GET", f"/api/v1/jobs/{id}").body


def ended(homed: Homed, id: str, timeout: float = 60) -> Any:
    until("the job to end", lambda: details(homed, id)["status"] in ENDED, timeout)
    return details(homed, id)


def running(homed: Homed, id: str) -> None:
    until("the job to run", lambda: details(homed, id)["status"] == "running", timeout=30)


def units(board: Board) -> list[str]:
    listed = board.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "homed-job-*.service").stdout
    return [line.split()[0] for line in listed.splitlines()]


def kill(homed: Homed) -> None:
    pid = homed.pid()
    homed.board.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
    homed.wait_for_successor(pid)


def test_a_job_is_a_unit_of_systemds(homed: Homed) -> None:
    id = submit(homed, "echo out; echo err >&2; sleep 3; exit 3")
    running(homed, id)
    unit = f"homed-job-{id}.service"
    assert "active (running)" in homed.board.run("systemctl", "status", unit, check=False).stdout

    job = ended(homed, id)

    assert (job["status"], job["exit_code"], job["error_code"]) == ("failed", 3, "EXIT")
    assert (job["stdout"], job["stderr"]) == ("out\n", "err\n")
    assert any("Started" in str(entry["MESSAGE"]) for entry in homed.board.journal(unit))
    until("the unit to go", lambda: units(homed.board) == [], timeout=10)


def test_a_job_neither_reads_the_state_nor_reaches_systemd(homed: Homed) -> None:
    homed.board.write(f"{STATE}/secret", SECRET, 0o600)
    line = f"cat {STATE}/secret; ls {STATE}; systemctl stop {UNIT}; kill {homed.pid()}"
    job = ended(homed, submit(homed, line))

    assert (job["status"], job["stdout"]) == ("failed", "")
    assert homed.state() == "active"


def test_a_cancelled_job_is_gone_with_all_that_it_started(homed: Homed) -> None:
    line = "setsid sh -c \"trap '' TERM; while :; do sleep 0.1; done\" & trap '' TERM; while :; do sleep 0.1; done"
    id = submit(homed, line)
    running(homed, id)

    assert homed.call("POST", f"/api/v1/jobs/{id}/cancel").status in (200, 202)

    assert ended(homed, id, timeout=10)["status"] == "canceled"
    until("the unit to go", lambda: units(homed.board) == [], timeout=10)


def test_a_job_that_takes_too_long_is_ended(homed: Homed) -> None:
    job = ended(homed, submit(homed, "sleep 1000", timeout=1))

    assert (job["exit_code"], job["error_code"]) == (124, "TIMEOUT")


def test_a_restart_of_homed_costs_no_job(homed: Homed) -> None:
    going, short = submit(homed, "echo begin; sleep 8; echo end"), submit(homed, "sleep 3; exit 7")
    running(homed, going)
    running(homed, short)
    homed.board.run("systemctl", "stop", UNIT)
    until("the short one to end", lambda: _failed(homed.board, short), timeout=20)
    homed.board.run("systemctl", "start", UNIT)

    assert ended(homed, going)["stdout"] == "begin\nend\n"
    assert ended(homed, short)["exit_code"] == 7


def _failed(board: Board, id: str) -> bool:
    return board.run("systemctl", "is-failed", f"homed-job-{id}.service", check=False).stdout.strip() == "failed"


def test_each_of_200_jobs_runs_once_though_homed_is_killed(homed: Homed) -> None:
    line = "seq {0} {1}; sleep 4; seq {1} {2}; exit {3}"
    ids = [submit(homed, line.format(n, n + 1000, n + 2000, n % 2)) for n in range(200)]
    assert units(homed.board)
    kill(homed)

    for number, id in enumerate(ids):
        job = ended(homed, id, timeout=120)
        assert job["exit_code"] == number % 2, job
        printed = [*range(number, number + 1001), *range(number + 1000, number + 2001)]
        assert job["stdout"] == "".join(f"{line}\n" for line in printed)
    until("the units to go", lambda: units(homed.board) == [], timeout=20)


def test_a_unit_whose_result_was_kept_is_let_go_by_the_next_homed(homed: Homed) -> None:
    homed.board.run("systemd-run", "--unit=homed-job-left", "--remain-after-exit", "true")
    until("it to be there", lambda: units(homed.board) == ["homed-job-left.service"], timeout=10)
    homed.restart()

    until("it to go", lambda: units(homed.board) == [], timeout=20)


def test_after_a_restart_of_the_board_the_truth_is_told(homed: Homed) -> None:
    interrupted, again = submit(homed, "echo begin; sleep 1000"), submit(homed, "echo try; sleep 5", max_retries=1)
    for id in (interrupted, again):
        running(homed, id)

    homed.board.cut_power()
    homed.board.start()

    lost = ended(homed, interrupted)
    assert (lost["status"], lost["error_code"]) == ("failed", "JOB_LOST")
    assert lost["stdout"] in ("", "begin\n")
    job = ended(homed, again)
    assert (job["status"], job["attempt"], job["stdout"]) == ("completed", 2, "try\n")


def test_an_orderly_reboot_is_not_taken_for_the_jobs_own_end(homed: Homed) -> None:
    id = submit(homed, "trap 'exit 0' TERM; echo begin; sleep 1000 & wait")
    running(homed, id)
    homed.board.reboot()

    job = ended(homed, id)
    assert (job["status"], job["error_code"], job["stdout"]) == ("failed", "JOB_LOST", "begin\n")
