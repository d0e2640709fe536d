"""Jobs as transient units on a booted board: what they may, what becomes of them, with homed and without it."""

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .homed import build_wheel
from .rig.board import Board
from .rig.install import HOME, LOCKS, dependencies, install_wheel
from .rig.process import RigError, until
from .rig.rack import Rack

# The first test of a cold run builds the root and the layer of the dependencies as well.
pytestmark = pytest.mark.timeout(300)

DRIVER = "/tmp/unit_driver.py"
CGROUPS = "/sys/fs/cgroup/homed.slice/homed-jobs.slice"
Results = list[dict[str, Any]]
Run = Callable[..., Results]


@pytest.fixture(scope="module")
def board(module_boards: Rack, board_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Board:
    """A booted board with homed's code on it, but no daemon."""
    board = module_boards("board", layers=[dependencies(board_root, *LOCKS)])
    install_wheel(board, build_wheel(tmp_path_factory.mktemp("wheel")))
    board.push(Path(__file__).with_name("unit_driver.py"), DRIVER)
    return board


@pytest.fixture
def run(board: Board) -> Run:
    """Run jobs by a driver of their own, each to its end; afterwards no unit of a job is left."""

    def run(*jobs: dict[str, Any], **orders: Any) -> Results:
        return drive(board, jobs, **orders)

    return run


@pytest.fixture(autouse=True)
def nothing_left(board: Board) -> Any:
    yield
    until("the units to go", lambda: units(board) == [], timeout=10)


def drive(board: Board, jobs: Any, **orders: Any) -> Results:
    text = json.dumps({"jobs": list(jobs), **orders})
    return list(json.loads(board.run(f"{HOME}/bin/python", DRIVER, input=text, timeout=120).stdout))


def units(board: Board) -> list[str]:
    listed = board.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "homed-job-*.service").stdout
    return [line.split()[0] for line in listed.splitlines()]


def command(line: str, **fields: Any) -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "work": {"kind": "command", "command": line}, **fields}


def unit_of(job: dict[str, Any]) -> str:
    return f"homed-job-{job['id']}.service"


def show(board: Board, job: dict[str, Any], *names: str) -> dict[str, str]:
    said = board.run("systemctl", "show", f"--property={','.join(names)}", unit_of(job)).stdout
    return dict(line.split("=", 1) for line in said.splitlines())


def test_an_end_is_told_as_it_was(run: Run) -> None:
    lines = ("true", "exit 3", "exit 203", "kill -TERM $$", "kill -KILL $$", "kill -PIPE $$")
    results = run(*map(command, lines))

    assert [result["exit_code"] for result in results] == [0, 3, 203, None, None, None]
    assert [result["signal"] for result in results] == ["", "", "", "SIGTERM", "SIGKILL", "SIGPIPE"]
    assert [result["code"] for result in results] == ["", "EXIT", "EXIT", "SIGNAL", "SIGNAL", "SIGNAL"]
    assert not any(result["timed_out"] for result in results)


def test_output_is_kept_byte_for_byte_and_apart(run: Run) -> None:
    binary = r"printf '\000\001\377\r\n'; printf '%%s ${HOME} $$\n' >&2"
    (short,) = run(command(binary))
    assert (short["stdout"], short["stderr"]) == ("\0\1\xff\r\n", "%s ${HOME} $$\n")

    (long,) = run(command("seq 1 300000; seq 300000 300001 >&2"))
    assert long["stdout"] == "".join(f"{number}\n" for number in range(1, 300001))
    assert long["stderr"] == "300000\n300001\n"


def test_a_job_sees_its_line_and_not_what_systemd_would_make_of_it(run: Run) -> None:
    (result,) = run(command("""x=1; echo $x ${x} '$x ${x} $$x' %n %% "$HOMED_JOB_ID" $HOMED_JOB_ATTEMPT; pwd; ls -A"""))

    first, *rest = result["stdout"].splitlines()
    assert first.startswith("1 1 $x ${x} $$x %n %% ")
    assert first.endswith(" 1")
    assert rest == ["/var/tmp"]


def test_a_script_is_given_to_its_interpreter_and_reads_nothing(run: Run) -> None:
    text = "import sys\nprint(sys.argv[0].rpartition('/')[2], repr(sys.stdin.read()))\nsys.exit(4)"
    script = {"id": str(uuid.uuid4()), "work": {"kind": "script", "script": text, "shell": "/usr/bin/python3"}}
    (result,) = run(script)

    assert (result["stdout"], result["exit_code"]) == ("script ''\n", 4), result


def test_a_job_has_a_user_of_its_own_and_no_power(board: Board, run: Run) -> None:
    board.run(
        "sh", "-c", "umask 077; mkdir -p /home/alice; echo secret > /home/alice/file; echo secret > /var/lib/homed/key"
    )
    look = command("cat /var/lib/homed/key /home/alice/file /etc/shadow")
    write = command(
        "touch /usr/x /etc/x /var/x /opt/x /run/x /home/x /dev/shm/../x; echo x > /proc/sys/kernel/hostname"
    )
    become = command(
        "id -u; grep -E '^(Cap...|NoNewPrivs):' /proc/self/status; unshare -Ur true; mount -t tmpfs x /tmp"
    )
    here = command("touch /tmp/x /var/tmp/x && stat -f -c %T /var/tmp")
    looked, written, became, wrote = run(look, write, become, here)

    assert looked["stdout"] == ""
    assert looked["stderr"].count("denied") == 3
    assert written["stdout"] == ""
    board.run("sh", "-c", "! ls /usr/x /etc/x /var/x /opt/x /run/x /home/x /x")
    user, *powers = became["stdout"].splitlines()
    assert int(user) >= 61184
    assert {line.split()[1] for line in powers} == {"0" * 16, "1"}
    assert became["stderr"].count("not permitted") + became["stderr"].count("superuser") >= 1
    assert wrote["exit_code"] == 0
    assert wrote["stdout"].strip() != "tmpfs"
    board.run("sh", "-c", "! ls /tmp/x /var/tmp/x")


def test_users_are_those_that_are_configured(board: Board, run: Run) -> None:
    board.run("sh", "-c", "id deploy || useradd --create-home deploy")
    jobs = [command("id -un; touch ~deploy/was-here; grep CapEff /proc/self/status", user=user) for user in
            ("deploy", "root", "missing", "nobody")]  # fmt: skip
    deploy, root, missing, other = run(*jobs, config={"users": ["deploy", "root", "missing"]})

    assert deploy["stdout"].split() == ["deploy", "CapEff:", "0" * 16], deploy
    board.run("test", "-e", "/home/deploy/was-here")
    assert root["stdout"].split()[0] == "root"
    assert (missing["code"], missing["error"]) == ("JOB_NOT_STARTED", "its user is not there")
    assert (other["code"], other["began"]) == ("JOB_NOT_STARTED", [])


def test_what_cannot_be_started_says_why(run: Run) -> None:
    payload = {"command": "true", "cwd": "/none"}
    (result,) = run({"id": "no-folder", "work": {"kind": "task", "type": "command", "payload": payload}})

    assert (result["code"], result["error"]) == ("JOB_NOT_STARTED", "its working directory cannot be entered")


def test_what_was_assigned_in_this_boot_and_never_began_may_be_queued_again(run: Run) -> None:
    (result,) = run(command("true"), resume=True)

    assert result["none"]


def test_a_network_of_its_own_where_asked(run: Run) -> None:
    line = "tail -n +3 /proc/net/dev | cut -d: -f1"
    (shared,) = run(command(line))
    (private,) = run(command(line), config={"private_network": True})

    assert len(shared["stdout"].split()) > 1
    assert private["stdout"].split() == ["lo"]


def test_an_expression_is_evaluated_away_from_everything(board: Board, run: Run) -> None:
    job = {"id": str(uuid.uuid4()), "work": {"kind": "task", "type": "python_eval", "payload": {"expression": "6*7"}}}
    (result,) = run(job)

    assert result["exit_code"] == 0, result
    assert "42" in result["stdout"]


def test_limits_are_the_units(board: Board, run: Run) -> None:
    job = command("sleep 1.5", timeout=60)
    limits = {"memory": 100 << 20, "cpu": 150, "tasks": 77}
    names = ("MemoryMax", "CPUQuotaPerSecUSec", "TasksMax", "RuntimeMaxUSec", "KillMode", "Slice", "DynamicUser")
    seen: dict[str, str] = {}

    def look() -> bool:
        seen.update(show(board, job, *names))
        return seen["MemoryMax"] == str(100 << 20)

    started = board_in_background(board, [job], config={"limits": limits})
    until("the limits", look, timeout=20)
    assert seen == {
        "MemoryMax": "104857600", "CPUQuotaPerSecUSec": "1.500000s", "TasksMax": "77", "RuntimeMaxUSec": "1min",
        "KillMode": "control-group", "Slice": "homed-jobs.slice", "DynamicUser": "yes",
    }  # fmt: skip
    assert unit_of(job) in board.run("systemctl", "status", unit_of(job), check=False).stdout
    assert started()[0]["exit_code"] == 0


def test_a_job_that_takes_too_long_has_timed_out(run: Run) -> None:
    (result,) = run(command("sleep 1000", timeout=0.3))

    assert (result["timed_out"], result["code"], result["exit_code"]) == (True, "TIMEOUT", None)


@pytest.mark.parametrize(
    "line",
    [
        "sleep 1000",
        "trap '' TERM; while :; do sleep 0.1; done",
        "setsid sh -c \"trap '' TERM; sleep 1000\" & setsid sleep 1000 & sleep 1000",
    ],
)
def test_a_cancelled_job_is_gone_with_all_it_started(board: Board, run: Run, line: str) -> None:
    job = command(line, kill_after=0.4)
    (result,) = run(job)

    assert result["signal"] in ("SIGTERM", "SIGKILL")
    assert not result["timed_out"]
    assert board.run("ls", f"{CGROUPS}/{unit_of(job)}", check=False).returncode != 0


def test_a_job_is_cancelled_before_it_began(run: Run) -> None:
    for moment in (0, 0.001, 0.005, 0.01):
        (result,) = run(command("sleep 1000", kill_after=moment))
        assert result["code"] in ("CANCELLED", "SIGNAL"), result


def test_what_a_job_leaves_running_ends_with_it(board: Board, run: Run) -> None:
    job = command("setsid sleep 987654 > /dev/null 2>&1 &")
    (result,) = run(job)

    assert result["exit_code"] == 0
    until("it to go", lambda: board.run("pgrep", "-f", "sleep 987654", check=False).returncode != 0, timeout=10)


def test_jobs_go_on_without_homed_and_each_has_run_once(board: Board) -> None:
    count = 200
    jobs = [command(f"echo begin {number}; sleep 3; echo end; exit {number % 3}") for number in range(count)]
    with pytest.raises(RigError):
        drive(board, jobs, die_after=1.5)
    results = drive(board, jobs, resume=True)

    begun = [number for number, result in enumerate(results) if not result["none"]]
    assert begun
    for number, result in enumerate(results):
        if result["none"]:
            assert result["stdout"] == ""
        else:
            assert result["stdout"] == f"begin {number}\nend\n"
            assert result["exit_code"] == number % 3


def test_a_job_is_not_started_twice(board: Board) -> None:
    job = command("echo once; sleep 1")
    with pytest.raises(RigError):
        drive(board, [job], die_after=0.5)

    (result,) = drive(board, [job])
    assert (result["stdout"], result["exit_code"]) == ("once\n", 0)


def test_neither_bus_nor_systemd_that_comes_back_costs_a_job(board: Board) -> None:
    jobs = [command(f"sleep {2 + number}; exit {number}") for number in range(4)]
    running = board_in_background(board, jobs)
    until("the jobs to run", lambda: len(units(board)) == len(jobs), timeout=20)
    assert "bad-setting" not in show(board, jobs[0], "LoadState")["LoadState"]
    board.run("systemctl", "daemon-reload")
    board.run("systemctl", "daemon-reexec")
    board.run("systemctl", "stop", "dbus.socket", "dbus.service")
    time.sleep(1)
    board.run("systemctl", "start", "dbus.socket", "dbus.service")

    assert [result["exit_code"] for result in running()] == [0, 1, 2, 3]


def test_a_restart_of_the_board_is_told(board: Board) -> None:
    job = command("sleep 1000")
    before = board.read("/proc/sys/kernel/random/boot_id").strip().replace("-", "")
    with pytest.raises(RigError):
        drive(board, [job], die_after=1)
    board.reboot()
    if board.read("/proc/sys/kernel/random/boot_id").strip().replace("-", "") == before:
        # A container has its machine's.
        before = "0" * 32
    board.push(Path(__file__).with_name("unit_driver.py"), DRIVER)

    for unit in ("", unit_of(job)):
        (result,) = drive(board, [{**job, "handle": {"boot": before, "unit": unit}}], resume=True)
        assert result["code"] == "JOB_LOST"


def board_in_background(board: Board, jobs: Any, **orders: Any) -> Callable[[], Results]:
    """Have jobs run; what is returned waits for their results."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    future = pool.submit(drive, board, jobs, **orders)

    def wait() -> Results:
        try:
            return future.result(120)
        finally:
            pool.shutdown()

    return wait
