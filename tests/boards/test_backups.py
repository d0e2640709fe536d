"""Backups on boards: by systemd's timers, in the worker's sandbox, onto another board, and through power cuts."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any, Final
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from .homed import STATE, UNIT, Homed, build_wheel
from .rig.board import Board
from .rig.images import busybox_image, load_image
from .rig.install import LOCKS, dependencies
from .rig.process import until
from .rig.rack import Rack

# The first test of a cold run builds the root and the layer of the dependencies as well.
pytestmark = pytest.mark.timeout(300)

BACKUPS: Final = "/api/v1/backups"
DATA: Final = "/srv/data"
VOLUMES: Final = "/var/lib/docker/volumes"
_OPEN: Final = build_opener(ProxyHandler({}))
_CONFIG: Final = """\
[api]
host = "0.0.0.0"
[api.limits]
enabled = false
[containers]
settle_time = 0.1
"""
# Without the minute over which timers are spread.
_AT_ONCE: Final = "[Timer]\nRandomizedDelaySec=0\nAccuracySec=100ms\n"

# What a service may have in its volumes, and what it is known by afterwards.
_FILL: Final = """\
import os, socket, stat, sys
os.chdir(sys.argv[1])
os.umask(0)
def put(name, mode=0o644, owner=(0, 0), data=b"x"):
    with open(name, "wb") as file:
        file.write(data)
    os.chown(name, *owner)
    os.chmod(name, mode)
os.mkdir("closed", 0o700)
os.mkdir("shared", 0o2775)
put("closed/secret", 0o600)
os.chown("closed", 999, 998)
os.chown("shared", 0, 4242)
os.chmod("shared", 0o3775)
put("suid", 0o4755, (1234, 1))
put("sgid", 0o2755, (0, 1234))
put("attributes", 0o640, (999, 998))
for name, value in (
    ("user.mine", b"a value\\0with anything"),
    ("trusted.overlay.opaque", b"y"),
    ("security.capability", bytes.fromhex("0100000200040000000000000000000000000000")),
    # user::rw- user:1234:rwx group::r-- mask::rwx other::---
    ("system.posix_acl_access", bytes.fromhex(
        "02000000" "01000600ffffffff" "02000700d2040000" "04000400ffffffff" "10000700ffffffff" "20000000ffffffff")),
):
    os.setxattr("attributes", name, value)
os.link("suid", "linked")
os.symlink("/nowhere/at all", "dangling")
os.lchown("dangling", 7, 8)
os.mkfifo("fifo", 0o622)
os.mknod("device", 0o620 | stat.S_IFCHR, os.makedev(1, 3))
with open("sparse", "wb") as file:
    file.write(b"begin")
    file.seek(64 << 20)
    file.write(b"end")
put("a name\\nwith \\\\ and \\xff".encode("latin-1"))
put("old")
os.utime("old", ns=(10**18, 123456789 * 10**9 + 123456789))
socket.socket(socket.AF_UNIX).bind("socket")
"""
_LIST: Final = """\
import hashlib, json, os, stat, sys
def told(path):
    about = os.lstat(path)
    of = {name: getattr(about, f"st_{name}") for name in ("mode", "uid", "gid", "rdev", "mtime_ns")}
    if not stat.S_ISDIR(about.st_mode):
        of |= {"nlink": about.st_nlink, "size": about.st_size}
    of["xattrs"] = {name: os.getxattr(path, name, follow_symlinks=False).hex()
                    for name in sorted(os.listxattr(path, follow_symlinks=False))}
    if stat.S_ISREG(about.st_mode):
        of["holes"] = about.st_blocks * 512 < about.st_size // 2
        with open(path, "rb") as file:
            of["digest"] = hashlib.file_digest(file, "sha256").hexdigest()
    if stat.S_ISLNK(about.st_mode):
        of["link"] = os.readlink(path)
    return of
found = {}
for root in sys.argv[1:]:
    for folder, folders, files in os.walk(root):
        for path in [folder, *(os.path.join(folder, name) for name in files)]:
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                found[path.encode(errors="surrogateescape").decode("latin-1")] = told(path)
print(json.dumps(found))
"""


class Backed(Homed):
    """homed on a board, and its backups."""

    def configure_more(self, text: str) -> None:
        self.unusual()
        self.configure(_CONFIG + text)

    def cli(self, *arguments: str, check: bool = True) -> str:
        return self.board.run("homed", "backup", *arguments, check=check, timeout=120).stdout

    def make(self, *arguments: str) -> str:
        """The name of a new backup."""
        return str(json.loads(self.cli("create", *arguments, "--json"))["backup"])

    def backups(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", BACKUPS).body["backups"]
        return found

    def running(self) -> dict[str, Any] | None:
        """The operation under way."""
        operations = self.call("GET", f"{BACKUPS}/operations").body["operations"]
        return next((one for one in operations if one["state"] == "running"), None)

    def health(self) -> str:
        return str(self.call("GET", "/health").body["details"].get("backups"))

    def send(self, method: str, path: str, data: bytes | None = None) -> bytes:
        """As it is: what is sent, and what is answered."""
        headers = {"X-API-Key": self.key, "Content-Type": "application/gzip"}
        request = Request(f"http://{self.board.address}:8080{path}", data, headers, method=method)
        with _OPEN.open(request, timeout=120) as answer:
            return bytes(answer.read())

    def paused(self, name: str) -> bool:
        said = self.board.run("docker", "inspect", "--format={{.State.Paused}}", name, check=False).stdout
        return said.strip() == "true"

    def tree(self, *folders: str) -> Any:
        return json.loads(self.board.run("python3", "-c", _LIST, *folders).stdout)

    def workers(self) -> str:
        units = ("systemctl", "list-units", "--all", "--plain", "--no-legend", "homed-backup-worker@*")
        return self.board.run(*units).stdout

    def failed(self) -> str:
        """Units of backups that failed."""
        return self.board.run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "homed*").stdout

    def clean(self) -> None:
        """As usual, without backups, and without data."""
        self.board.run("sh", "-c", f"rm -rf {STATE}/backups {DATA}")
        self.unusual()
        self.as_usual()
        self.board.run("sh", "-c", "docker volume ls -q | xargs -r docker volume rm")


@pytest.fixture(scope="module")
def installed(module_boards: Rack, board_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Backed]:
    """Two boards with homed, Docker Engine and the same image."""
    boards = module_boards.together(("first", "second"), layers=[dependencies(board_root, *LOCKS)])
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    for board in boards:
        load_image(board, busybox_image(board_root))
        board.write("/etc/systemd/system/homed-backup@.timer.d/test.conf", _AT_ONCE)
    return [Backed(board, wheel) for board in boards]


@pytest.fixture
def homed(installed: list[Backed]) -> Backed:
    if not installed[0].board.on:
        installed[0].board.start()
    installed[0].clean()
    return installed[0]


@pytest.fixture
def board(homed: Backed) -> Board:
    return homed.board


@pytest.fixture
def other(installed: list[Backed]) -> Backed:
    installed[1].clean()
    return installed[1]


def test_a_schedule_makes_backups_by_its_timer_and_keeps_as_many_as_it_says(homed: Backed, board: Board) -> None:
    homed.configure_more(
        '[[backups.schedules]]\nname = "often"\ncalendar = "*:*:0/2"\ninclude_data = false\nretention = { last = 1 }\n'
    )
    board.run("systemctl", "reload", UNIT)
    until("a backup", lambda: bool(homed.backups()), timeout=30)
    first = homed.backups()[-1]
    assert (first["schedule"], first["name"].partition("-")[0]) == ("often", "often")
    until("the next in its place", lambda: first["name"] not in {one["name"] for one in homed.backups()}, timeout=30)
    assert (
        board.run("systemctl", "show", "--value", "--property=Result", "homed-backup@often.service").stdout
        == "success\n"
    )
    assert "often" in homed.cli("schedules")

    homed.configure_more("")
    board.run("systemctl", "reload", UNIT)
    timers = ("systemctl", "list-units", "--all", "--plain", "--no-legend", "homed-backup@*.timer")
    until("the timer to go", lambda: board.run(*timers).stdout == "", timeout=30)
    assert board.run("sh", "-c", "ls -d /run/systemd/system/homed-backup@* || true").stdout == ""
    until("the last one to end", lambda: homed.running() is None, timeout=30)
    assert homed.failed() == ""


def test_a_calendar_that_systemd_does_not_take_is_refused_or_told_of(homed: Backed, board: Board) -> None:
    homed.configure_more('[[backups.schedules]]\nname = "never"\ncalendar = "at night"\n')
    here = homed.cursor()
    board.run("systemctl", "reload", UNIT)
    homed.wait_for_message("The configuration was not reloaded: .*at night", here)
    assert homed.cli("schedules").count("\n") == 1

    homed.restart()
    until("health to tell", lambda: "systemd refuses its calendar 'at night'" in homed.health(), timeout=30)
    assert homed.call("GET", "/health/ready").status == 200


def test_a_missed_run_is_made_up_for_when_the_board_is_on_again(homed: Backed, board: Board) -> None:
    homed.configure_more('[[backups.schedules]]\nname = "daily"\ncalendar = "daily"\ninclude_data = false\n')
    homed.restart()
    until("the timer", lambda: "daily" in board.run("systemctl", "list-timers", "homed-backup@*").stdout, timeout=30)
    assert homed.backups() == []
    board.stop()
    # It was off for two days, as far as its timer knows.
    stamp = board.disk / "var/lib/systemd/timers/stamp-homed-backup@daily.timer"
    os.utime(stamp, (time.time() - 2 * 86_400,) * 2)
    board.start()
    until("the backup", lambda: bool(homed.backups()), timeout=60)


def test_a_lost_board_is_rebuilt_on_another_one(homed: Backed, other: Backed, board: Board) -> None:
    """With whose files they are, setuid bits, attributes, lists, capabilities, links, holes and times."""
    board.run("mkdir", "-p", DATA)
    homed.create("web", command="httpd -f -h /www", ports=["8090:80"], volumes=[f"{DATA}:/www:ro"], stop_timeout=0)
    homed.create("db", volumes=["db:/data"], depends_on=["web"], labels={"io.homed.backup": "paused"})
    homed.wait_for("db")
    for folder in (DATA, f"{VOLUMES}/db/_data"):
        board.run("python3", "-c", _FILL, folder)
    board.write(f"{DATA}/index.html", "the shop\n")
    before = homed.tree(DATA, f"{VOLUMES}/db/_data")
    name = homed.make("lost")
    # Device nodes are left out, and told of.
    assert len({path for path in before if path.endswith("/device")}) == 2
    before = {path: told for path, told in before.items() if not path.endswith("/device")}
    (made,) = homed.call("GET", f"{BACKUPS}/operations").body["operations"][:1]
    assert len([warning for warning in made["warnings"] if "device nodes" in warning]) == 2
    assert homed.container("db").pid and not homed.paused("db")
    archive = homed.send("GET", f"{BACKUPS}/{name}/download")
    assert len(archive) < 5_000_000

    other.send("PUT", f"{BACKUPS}/{name}", archive)
    planned = json.loads(other.cli("restore", name, "--dry-run", "--json"))
    assert {"web", "db"} <= set(re.findall(r'"(\w+)"', json.dumps(planned["result"])))
    assert other.call("GET", "/api/v1/services").body["services"] == []
    other.cli("restore", name, "--yes", "--file-settings")

    for one in ("web", "db"):
        other.wait_for(one)
    assert other.tree(DATA, f"{VOLUMES}/db/_data") == before
    until("the shop", lambda: other.curl("http://127.0.0.1:8090/", check=False) == "the shop\n", timeout=20)
    assert other.failed() == homed.failed() == ""


def test_a_sealed_backup_is_made_with_nobody_there_and_opens_with_the_passphrase(homed: Backed, board: Board) -> None:
    board.run("homed", "backup", "passphrase", "--stdin", input="a long walk at night\n")
    homed.configure_more('[backups]\nencryption = "passphrase"\n')
    homed.restart()
    homed.create("db", volumes=["db:/data"])
    homed.wait_for("db")
    path = f"{VOLUMES}/db/_data/index"
    board.write(path, "before\n")
    name = homed.make()
    assert name.endswith(".age.tar")
    assert board.run("grep", "-c", "homed-test/busybox", f"{STATE}/backups/{name}", check=False).stdout == "0\n"

    def restore(passphrase: str) -> int:
        command = ("homed", "backup", "restore", name, "--yes", "--passphrase-stdin")
        return board.run(*command, check=False, input=f"{passphrase}\n").returncode

    board.write(path, "after\n")
    assert restore("another passphrase") == 1
    assert board.read(path) == "after\n"
    assert restore("a long walk at night") == 0
    assert board.read(path) == "before\n"


def test_a_copy_goes_to_another_board(homed: Backed, other: Backed, board: Board) -> None:
    board.write("/etc/homed/other.key", other.make_key("copies"), mode=0o600)
    url = f"http://{other.board.address}:8080"
    homed.configure_more(f'[[backups.targets]]\nname = "other"\nurl = "{url}"\nkey_file = "/etc/homed/other.key"\n')
    homed.restart()
    until("it to serve", lambda: homed.call("GET", "/health/ready").status == 200, timeout=30)
    name = homed.make("copied", "--no-data")
    homed.cli("copy", name, "other")
    assert [one["name"] for one in other.backups()] == [name]
    assert homed.backups()[0]["copies"] == ["other"]


def test_an_incremental_backup_is_made_and_put_back_in_the_workers_sandbox(homed: Backed, board: Board) -> None:
    homed.configure_more('[backups.repository]\nurl = "/srv/restic"\n')
    homed.restart()
    board.run("mkdir", "-p", DATA)
    homed.create("db", volumes=["db:/data", f"{DATA}:/more"])
    homed.wait_for("db")
    board.run("python3", "-c", _FILL, f"{VOLUMES}/db/_data")
    # Device nodes are restored from neither kind of backup.
    before = {path: told for path, told in homed.tree(f"{VOLUMES}/db/_data").items() if not path.endswith("/device")}
    name = homed.make("--type", "incremental")
    board.run("sh", "-c", f"rm -rf {VOLUMES}/db/_data/*; echo new > {VOLUMES}/db/_data/new")
    homed.cli("restore", name, "--yes", "--no-config")
    homed.wait_for("db")
    assert homed.tree(f"{VOLUMES}/db/_data") == before
    board.run("rm", "-r", "/srv/restic")


def test_homed_that_is_killed_leaves_no_half_backup_and_nothing_frozen(homed: Backed, board: Board) -> None:
    caught_in_the_middle(homed)
    pid = homed.pid()
    homed.board.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
    homed.wait_for_successor(pid)
    until("it to go on", lambda: not homed.paused("db"), timeout=30)
    board.run("systemctl", "kill", "--signal=CONT", "homed-backup-worker@*", check=False)
    until("the worker to go", lambda: homed.workers() == "", timeout=30)
    assert homed.backups() == []
    assert board.run("ls", "-A", f"{STATE}/backups").stdout == ""
    operations = homed.call("GET", f"{BACKUPS}/operations").body["operations"]
    assert (operations[0]["state"], operations[0]["failure"]["code"]) == ("failed", "BACKUP_INTERRUPTED")
    homed.make("after")
    assert homed.failed() == ""


def test_a_power_cut_in_the_middle_of_a_capture_leaves_a_board_that_goes_on(homed: Backed, board: Board) -> None:
    caught_in_the_middle(homed)
    board.cut_power()
    board.start()
    until("homed to answer", lambda: homed.state() == "active", timeout=60)
    homed.wait_for("db")
    assert homed.container("db").pid and not homed.paused("db")
    assert homed.backups() == []
    assert board.run("ls", "-A", f"{STATE}/backups").stdout == ""
    homed.make("after")


def test_a_power_cut_in_the_middle_of_a_restore_leaves_all_of_it_old_or_all_new(homed: Backed, board: Board) -> None:
    paths = [f"{VOLUMES}/{volume}/_data/index" for volume in ("db", "more")]
    homed.create("db", volumes=["db:/data", "more:/more"])
    homed.wait_for("db")
    for path in paths:
        board.write(path, "then\n")
    name = homed.make()
    for path in paths:
        board.write(path, "now\n")

    homed.cli("restore", name, "--yes", "--no-wait")
    up = ("docker", "inspect", "--format={{.State.Running}}", "db")
    until("it to be stopped", lambda: board.run(*up, check=False).stdout != "true\n", timeout=30)
    board.run("systemctl", "kill", "--signal=STOP", "homed-backup-worker@*", check=False)
    board.cut_power()
    board.start()
    until("homed to answer", lambda: homed.state() == "active", timeout=60)
    homed.wait_for("db")

    assert [board.read(path) for path in paths] in (["then\n"] * 2, ["now\n"] * 2)
    until("all to be ended", lambda: homed.running() is None, timeout=30)
    # Of operations nothing is left; restic's cache stays.
    assert not re.search(r"^[0-9a-f]{16}$", board.run("ls", "-A", f"{STATE}/backup-work").stdout, re.M)
    assert homed.failed() == ""


def caught_in_the_middle(homed: Backed) -> None:
    """A backup whose worker stands still while the service is frozen."""
    homed.create("db", volumes=["db:/data"], labels={"io.homed.backup": "paused"})
    homed.wait_for("db")
    homed.board.run("sh", "-c", f"head -c 300000000 /dev/urandom > {VOLUMES}/db/_data/large")
    homed.cli("create", "cut", "--no-wait")
    until("the capture", lambda: homed.paused("db"), timeout=30)
    homed.board.run("systemctl", "kill", "--signal=STOP", "homed-backup-worker@*")
    assert homed.paused("db")
