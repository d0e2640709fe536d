"""homed on a booted board: started by systemd, driven from outside, killed, hung, filled up, rebooted, unplugged."""

import re
import ssl
import threading
from http.client import HTTPException
from pathlib import Path

import pytest

from homed.api.certificates import make_self_signed

from .homed import CONFIG, STATE, UNIT, Homed, build_wheel, names, service
from .rig.board import Board
from .rig.images import busybox_image, load_image
from .rig.install import LOCKS, dependencies
from .rig.process import until
from .rig.rack import Rack

# The first test of a cold run builds the root and the layer of the dependencies as well.
pytestmark = pytest.mark.timeout(300)

LOCAL = "http://127.0.0.1:8080"
HIGHEST_EXPOSURE = 4.0


@pytest.fixture(scope="module")
def board(module_boards: Rack, board_root: Path) -> Board:
    """A booted board with Docker Engine, an image, and what homed needs."""
    board = module_boards("board", layers=[dependencies(board_root, *LOCKS)])
    load_image(board, busybox_image(board_root))
    return board


@pytest.fixture(scope="module")
def installed(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Homed:
    return Homed(board, build_wheel(tmp_path_factory.mktemp("wheel")))


@pytest.fixture
def homed(installed: Homed) -> Homed:
    """homed as usual: running, reachable from outside, without services."""
    if not installed.board.on:
        installed.board.start()
    installed.as_usual()
    return installed


def test_is_ready_only_when_it_answers(homed: Homed) -> None:
    for _ in range(3):
        said = homed.board.run("sh", "-euc", f"systemctl restart {UNIT}; curl -sf {LOCAL}/health/live").stdout
        assert "alive" in said


def test_serves_who_has_a_key_from_outside(homed: Homed) -> None:
    assert homed.call("GET", "/health", key=None).status == 200
    assert homed.call("GET", "/api/v1/services", key=None).status == 401
    reader = homed.make_key("reader", "read")
    until("the key to be seen", lambda: homed.call("GET", "/api/v1/services", key=reader).status == 200, timeout=10)
    assert homed.call("POST", "/api/v1/services", {"name": "no", "image": "no"}, key=reader).status == 403

    homed.create("work", ports=["8090:80"], command="httpd -f -h /www", stop_timeout=0)
    homed.wait_for("work")

    url = "http://127.0.0.1:8090/"
    until("the container's web server", lambda: homed.curl(url, check=False) == "busybox\n", timeout=20)


def test_without_a_key_it_refuses_to_be_exposed_and_comes_when_there_is_one(homed: Homed) -> None:
    with homed.other_state():
        here = homed.cursor()
        assert homed.board.run("systemctl", "start", UNIT, check=False).returncode != 0

        homed.wait_for_message(r"homed key create NAME --scope admin", here)
        assert "homed key create" in homed.board.run("systemctl", "status", UNIT, check=False).stdout
        key = homed.make_key("late")
        until("it to start by itself", lambda: homed.state() == "active", timeout=30)
        assert homed.call("GET", "/api/v1/services", key=key).status == 200


def test_begins_without_any_state(homed: Homed) -> None:
    with homed.other_state():
        homed.board.run("rm", CONFIG)
        homed.board.run("systemctl", "start", UNIT)

        assert homed.curl(f"{LOCAL}/api/v1/services") == '{"services":[]}'
        assert homed.board.run("stat", "--format=%U %a", STATE).stdout == "root 700\n"
        assert homed.board.run("stat", "--format=%U %a", f"{STATE}/homed.db").stdout == "root 600\n"


def test_killed_homed_comes_back_and_no_container_notices(homed: Homed) -> None:
    homed.create("work")
    homed.wait_for("work")
    before, pid = homed.container("work"), homed.pid()

    homed.board.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
    homed.wait_for_successor(pid)

    homed.wait_for("work")
    assert homed.container("work") == before


def test_hung_homed_is_replaced_by_the_watchdog_and_tells_where_it_hung(homed: Homed) -> None:
    homed.create("work")
    homed.wait_for("work")
    homed.unusual()
    homed.drop_in("[Service]\nWatchdogSec=2\nTimeoutAbortSec=5\n")
    homed.restart()
    before, pid, here = homed.container("work"), homed.pid(), homed.cursor()

    homed.board.run("kill", "-STOP", str(pid))
    homed.wait_for_successor(pid)

    homed.wait_for_message(r"Watchdog timeout", here)
    homed.wait_for_message(r"Fatal Python error: Aborted", here)
    homed.wait_for("work")
    assert homed.container("work") == before


def test_stop_and_restart_leave_containers(homed: Homed) -> None:
    homed.create("work")
    homed.wait_for("work")
    before = homed.container("work")

    homed.board.run("systemctl", "stop", UNIT)
    assert homed.container("work") == before
    homed.board.run("systemctl", "start", UNIT)

    homed.wait_for("work")
    assert homed.container("work") == before


def test_journal_has_the_fields_of_a_request(homed: Homed) -> None:
    answer = homed.call("DELETE", "/api/v1/services/none", headers={"X-Request-ID": "from-the-test"})
    assert answer.headers["X-Request-ID"] == "from-the-test"

    until("the entry", lambda: bool(homed.board.journal(UNIT, "REQUEST_ID=from-the-test")), timeout=10)
    (entry,) = homed.board.journal(UNIT, "REQUEST_ID=from-the-test", "LOGGER=api.requests")
    assert re.fullmatch(r"DELETE /api/v1/services/none 404 SERVICE_NOT_FOUND [0-9.]+ ms", str(entry["MESSAGE"]))
    assert entry["PRIORITY"] == "6"
    assert entry["SYSLOG_IDENTIFIER"] == "homed"
    assert entry["METHOD"] == "DELETE"
    assert entry["PATH"] == "/api/v1/services/none"
    assert entry["STATUS_CODE"] == "404"
    assert entry["ERROR_CODE"] == "SERVICE_NOT_FOUND"
    assert float(entry["DURATION_MS"]) >= 0


def test_status_line_says_how_many_services_run(homed: Homed) -> None:
    homed.create("work")
    homed.create("other", enabled=False)

    def told() -> bool:
        said = homed.board.run("systemctl", "status", UNIT).stdout
        return re.search(r'Status: "1 of 2 services run; Docker [0-9.]+', said) is not None

    until("the status line", told, timeout=20)


def test_reload_applies_what_changed_and_a_broken_file_changes_nothing(homed: Homed) -> None:
    limited = '[api]\nhost = "0.0.0.0"\n[api.limits]\nhealth = {}\n'
    homed.unusual()
    pid, here = homed.pid(), homed.cursor()
    homed.configure(limited.format(7))
    homed.board.run("systemctl", "reload", UNIT)
    homed.wait_for_message(r"Configuration reloaded", here)
    assert homed.call("GET", "/health").headers["X-RateLimit-Limit"] == "7"

    here = homed.cursor()
    homed.configure(limited.format(-1))
    homed.board.run("systemctl", "reload", UNIT)
    said = homed.wait_for_message(r"was not reloaded", here)
    assert f"{CONFIG}: line 4: api.limits.health" in said
    until("it to be ready again", lambda: homed.show("SubState") == "running", timeout=10)
    assert homed.call("GET", "/health").headers["X-RateLimit-Limit"] == "7"
    assert homed.pid() == pid


def test_start_with_a_broken_file_says_what_is_wrong_and_comes_when_it_is_right(homed: Homed) -> None:
    homed.unusual()
    here = homed.cursor()
    homed.configure("[api]\nprt = 80\n")
    assert homed.board.run("systemctl", "restart", UNIT, check=False).returncode != 0

    said = homed.wait_for_message(r"api\.prt", here)
    assert f"{CONFIG}: line 2" in said
    assert homed.board.journal(UNIT, here, "--priority=err", "SYSLOG_IDENTIFIER=homed")
    homed.configure("")
    until("it to start by itself", lambda: homed.state() == "active", timeout=30)


def test_socket_starts_it_and_stays_when_it_ends(homed: Homed) -> None:
    asked = ("curl", "-sf", "--unix-socket", "/run/homed/api.sock", f"{LOCAL}/api/v1/services")
    homed.unusual()
    homed.configure("")
    homed.board.run("systemctl", "stop", UNIT)
    homed.board.run("systemctl", "start", "homed.socket")
    try:
        for url in (LOCAL, "http://[::1]:8080"):
            homed.board.run("systemctl", "stop", UNIT)
            assert homed.state() == "inactive"
            assert '"services"' in homed.curl(f"{url}/api/v1/services")
            # It answers before it is ready: that comes with the first look at Docker Engine.
            until("homed to be ready", lambda: homed.state() == "active", timeout=30)

        homed.board.run("systemctl", "stop", UNIT)
        member = ("setpriv", "--reuid=nobody", "--regid=homed", "--clear-groups", "--", *asked)
        assert '"services"' in homed.board.run(*member).stdout
        until("homed to be ready", lambda: homed.state() == "active", timeout=30)
        stranger = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--", *asked)
        assert homed.board.run(*stranger, check=False).returncode != 0
    finally:
        homed.board.run("systemctl", "stop", "homed.socket", UNIT)


def test_own_unix_socket_is_the_groups(homed: Homed) -> None:
    homed.unusual()
    homed.configure('[api]\nlisten = ["unix:/run/homed/api.sock"]\n')
    homed.restart()

    assert homed.board.run("stat", "--format=%U:%G %a", "/run/homed/api.sock").stdout == "root:homed 660\n"


def test_credential_of_systemd_is_served_and_may_be_missing(homed: Homed, tmp_path: Path) -> None:
    certificate, key = tmp_path / "homed.tls.crt", tmp_path / "homed.tls.key"
    make_self_signed(certificate, key, "credential")
    homed.unusual()
    homed.configure('[api]\nhost = "0.0.0.0"\n[api.tls]\nenabled = true\n')
    homed.restart()
    own = ssl.get_server_certificate((homed.board.address, 8080))
    assert own == homed.board.read(f"{STATE}/tls/certificate.pem")

    homed.board.push(certificate, "/etc/credstore/homed.tls.crt")
    homed.board.push(key, "/etc/credstore/homed.tls.key")
    homed.restart()
    given = ssl.get_server_certificate((homed.board.address, 8080))

    homed.board.run("rm", "-r", "/etc/credstore/homed.tls.crt", "/etc/credstore/homed.tls.key", f"{STATE}/tls")
    assert given == certificate.read_text()


def test_exposure_is_low_enough(homed: Homed) -> None:
    said = homed.board.run("systemd-analyze", "security", "--no-pager", UNIT).stdout

    found = re.search(r"Overall exposure level for homed\.service: ([0-9.]+)", said)
    assert found, said
    assert float(found[1]) <= HIGHEST_EXPOSURE


def test_hardening_hides_nothing_of_the_board(homed: Homed) -> None:
    info = homed.call("GET", "/api/v1/system/info").body

    assert info["unavailable"] == {}
    assert homed.board.address in str(info["interfaces"])
    assert info["memory"]["total"] > 0
    assert "process_resident_memory_bytes" in homed.call("GET", "/metrics").body


def test_links_in_closed_and_temporary_folders_are_followed(homed: Homed) -> None:
    folders = ("/home/alice/closed", "/root/closed", "/tmp", "/var/tmp", "/run")
    homed.board.run("useradd", "--create-home", "alice")
    for folder in folders:
        homed.board.run("install", "-d", "-m", "700", "-o", "alice", "/home/alice/closed", "/root/closed")
        homed.board.run("ln", "-s", "/etc", f"{folder}/link")
    homed.board.run("mknod", "/dev/some-disk", "b", "7", "200")

    for folder in folders:
        bad = service("bad", volumes=[f"{folder}/link/:/data"])
        assert homed.call("POST", "/api/v1/services", bad).status == 400, folder
    assert homed.call("POST", "/api/v1/services", service("bad", devices=["/dev/some-disk"])).status == 400

    homed.board.run("mkdir", "/srv/data")
    homed.create("good", volumes=["/srv/data:/data"])
    homed.wait_for("good")
    homed.board.run("docker", "exec", "good", "touch", "/data/written")
    homed.board.run("test", "-e", "/srv/data/written")


def test_goes_on_while_docker_is_stopped_and_takes_it_up_again(homed: Homed) -> None:
    homed.create("before")
    homed.wait_for("before")
    pid = homed.pid()

    homed.board.run("systemctl", "stop", "docker.socket", "docker.service")
    try:
        until("homed to notice", lambda: "away" in homed.show("StatusText"), timeout=20)
        assert homed.call("GET", "/health").body["components"]["docker"] == "unhealthy"
        homed.create("meanwhile")
        assert homed.pid() == pid
        homed.restart()
        assert names(homed.call("GET", "/api/v1/services").body["services"]) == {"before", "meanwhile"}
    finally:
        homed.board.run("systemctl", "start", "docker.service")

    homed.wait_for("before")
    homed.wait_for("meanwhile")


def test_owns_no_name_on_the_bus_and_does_without_it(homed: Homed) -> None:
    pid = homed.pid()
    listed = homed.board.run("busctl", "list", "--no-legend", "--no-pager").stdout
    names = [line.split()[0] for line in listed.splitlines() if line.split()[1] == str(pid)]
    assert all(name.startswith(":") for name in names), names

    homed.board.run("systemctl", "stop", "dbus.socket", "dbus.service")
    try:
        homed.create("work", enabled=False)
        assert homed.pid() == pid
        homed.restart()
        homed.wait_for("work", "stopped")
    finally:
        homed.board.run("systemctl", "start", "dbus.socket", "dbus.service")


def test_full_disk_refuses_changes_and_loses_nothing(homed: Homed) -> None:
    with homed.other_state(size="2M"):
        key = homed.make_key("operator")
        homed.board.run("systemctl", "start", UNIT)
        pid = homed.pid()

        acknowledged = fill(homed, key)
        assert homed.call("GET", "/health", key=key).body["components"]["store"] == "unhealthy"
        refused = homed.call("DELETE", "/api/v1/services/fill-0", key=key)
        assert (refused.status, refused.body["error"]["code"]) == (500, "STORE_ERROR")

        homed.board.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
        homed.wait_for_successor(pid)
        assert names(homed.call("GET", "/api/v1/services", key=key).body["services"]) == acknowledged


def test_goes_on_by_itself_when_a_full_disk_has_room_again(homed: Homed) -> None:
    with homed.other_state(size="2M"):
        key = homed.make_key("operator")
        homed.board.run("systemctl", "start", UNIT)
        pid = homed.pid()
        acknowledged = fill(homed, key)

        homed.board.run("rm", f"{STATE}/filler")

        assert homed.call("POST", "/api/v1/services", service("new", enabled=False), key=key).status == 201
        assert names(homed.call("GET", "/api/v1/services", key=key).body["services"]) == {*acknowledged, "new"}
        assert homed.call("GET", "/health", key=key).body["components"]["store"] == "healthy"
        assert homed.pid() == pid


def fill(homed: Homed, key: str) -> set[str]:
    """Fill the disk of the state, and store services until one is refused; the names of those that were not."""
    acknowledged: set[str] = set()
    for number in range(200):
        name = f"fill-{number}"
        sent = service(name, enabled=False, environment={"FILL": "x" * 4000})
        answer = homed.call("POST", "/api/v1/services", sent, key=key)
        if answer.status != 201:
            assert (answer.status, answer.body["error"]["code"]) == (500, "STORE_ERROR")
            return acknowledged
        acknowledged.add(name)
        if number == 0:
            homed.board.run("sh", "-c", f"cat /dev/zero > {STATE}/filler", check=False)
    raise AssertionError("the disk never was full")


def test_reboot_brings_services_back_in_their_order(homed: Homed) -> None:
    homed.create("base")
    homed.create("app", depends_on=["base"])
    homed.create("halted")
    homed.create("off")
    for name in ("base", "app", "halted", "off"):
        homed.wait_for(name)
    assert homed.call("POST", "/api/v1/services/halted/stop").status == 200
    assert homed.call("POST", "/api/v1/services/off/disable").status == 200
    earlier = homed.container("app").id

    homed.board.reboot()

    assert homed.board.failed_units() == ()
    for name in ("base", "app"):
        homed.wait_for(name)
    assert homed.container("base").started < homed.container("app").started
    assert homed.container("app").id == earlier
    for name in ("halted", "off"):
        assert homed.status(name) == "stopped"
        assert homed.container(name).pid == 0


def test_poweroff_is_orderly_and_homed_ends_before_docker(homed: Homed) -> None:
    homed.create("work")
    homed.wait_for("work")
    here = homed.cursor()

    homed.board.stop()
    homed.board.start()

    said = homed.messages("--boot=-1", here)
    assert "Stopping; containers are left as they are" in said
    assert "homed.service: Deactivated successfully." in said
    assert not [message for message in said if re.search(r"Killing|timed out|Failed|failed", message)]
    ends = [
        entry["UNIT"]
        for entry in homed.board.journal(None, "--boot=-1", here)
        if entry.get("UNIT") in (UNIT, "docker.service") and entry.get("JOB_TYPE") == "stop" and "JOB_RESULT" in entry
    ]
    assert ends == [UNIT, "docker.service"]
    homed.wait_for("work")


def test_power_cut_amid_changes_loses_nothing_acknowledged(homed: Homed) -> None:
    acknowledged: dict[str, int] = {}
    enough = threading.Event()

    def change() -> None:
        """Make services and change them, one after the other, until nobody answers."""
        try:
            for number in range(1000):
                name = f"cut-{number % 8}"
                fields = {"environment": {"NUMBER": str(number)}}
                if name not in acknowledged:
                    answer = homed.call("POST", "/api/v1/services", service(name, **fields), timeout=10)
                else:
                    answer = homed.call("PUT", f"/api/v1/services/{name}", fields, timeout=10)
                assert answer.status in (200, 201)
                acknowledged[name] = number
                if number == 20:
                    enough.set()
        except (OSError, HTTPException):
            pass
        finally:
            enough.set()

    client = threading.Thread(target=change)
    client.start()
    enough.wait(60)
    homed.board.cut_power()
    client.join()
    assert max(acknowledged.values()) >= 20
    homed.board.start()

    assert homed.board.failed_units() == ()
    for name, number in acknowledged.items():
        homed.wait_for(name)
        told = homed.call("GET", f"/api/v1/services/{name}").body
        # What was under way at the cut may have been stored without its answer getting through.
        assert int(told["environment"]["NUMBER"]) in (number, number + 8)
