"""The guard leaves a new system that nobody judges, and no other; with the shells that boards have."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

UNITS = Path(__file__).resolve().parents[2] / "units"
GUARD = UNITS / "homed-update-guard"
SHELLS = (("dash",), ("busybox", "sh"), ("bash", "--posix"))
BOOT = "0f8b62a1-7d0c-4c3e-9b1a-0a5f5f0d7c11"
OTHER_BOOT = "11111111-2222-3333-4444-555555555555"
PENDING = {"id": "3", "slot": "rootfs.1", "bootname": "B", "deadline": "600"}

# What RAUC 1.8 and 1.13 print; 1.13 adds the last line.
STATUS = """\
RAUC_SYSTEM_COMPATIBLE='it'\\''s a "board"'
RAUC_SYSTEM_VARIANT=''
RAUC_SYSTEM_BOOTED_BOOTNAME='{booted}'
RAUC_BOOT_PRIMARY='rootfs.1'
RAUC_SYSTEM_SLOTS='rootfs.1 appfs.1 rootfs.0'
RAUC_SLOTS='1 2 3'
RAUC_SLOT_STATE_1='{b}'
RAUC_SLOT_CLASS_1='rootfs'
RAUC_SLOT_DEVICE_1='/dev/b'
RAUC_SLOT_TYPE_1='raw'
RAUC_SLOT_BOOTNAME_1='B'
RAUC_SLOT_PARENT_1=''
RAUC_SLOT_MOUNTPOINT_1='/'
RAUC_SLOT_BOOT_STATUS_1='{status}'
RAUC_SLOT_STATE_2='active'
RAUC_SLOT_CLASS_2='appfs'
RAUC_SLOT_BOOTNAME_2=''
RAUC_SLOT_PARENT_2='rootfs.1'
RAUC_SLOT_BOOT_STATUS_2=''
RAUC_SLOT_STATE_3='{a}'
RAUC_SLOT_CLASS_3='rootfs'
RAUC_SLOT_BOOTNAME_3='A'
RAUC_SLOT_BOOT_STATUS_3='good'
RAUC_REPOS=''
"""

_RAUC = """\
#!/bin/sh
echo "rauc $*" >>"$FAKES/calls"
[ -e "$FAKES/rauc-away" ] && { echo "The name de.pengutronix.rauc was not provided" >&2; exit 1; }
case "$*" in
    "status --output-format=shell") cat "$FAKES/status" ;;
    "status mark-bad booted")
        echo "rauc status: marked slot rootfs.1 as bad"
        [ -e "$FAKES/mark-is-lost" ] || sed -i "s/_STATUS_1='good'/_STATUS_1='bad'/" "$FAKES/status"
        ;;
    *) exit 2 ;;
esac
"""
_JOURNALCTL = """\
#!/bin/sh
echo "journalctl $*" >>"$FAKES/calls"
[ ! -e "$FAKES/judged-now" ] || rm -f "$STATE_DIRECTORY/updates/pending"
case "$*" in *--boot=0) [ -e "$FAKES/no-boot" ] && exit 0 ;; esac
cat "$FAKES/journal"
"""
_SYSTEMCTL = """\
#!/bin/sh
echo "systemctl $*" >>"$FAKES/calls"
[ ! -e "$FAKES/no-reboot" ] || case "$*" in *"$(cat "$FAKES/no-reboot")") ;; *) exit 1 ;; esac
"""
# Time passes only here.
_SLEEP = """\
#!/bin/sh
echo "sleep $1" >>"$FAKES/sleeps"
read -r seconds rest <"$GUARD_PROC/uptime"
echo "$((${seconds%.*} + $1)).25 1.00" >"$GUARD_PROC/uptime"
[ ! -e "$FAKES/meanwhile" ] || . "$FAKES/meanwhile"
"""


class Board:
    """A board with the pending update, as the guard sees it: 20 minutes after the boot, in the new system."""

    def __init__(self, folder: Path, shell: tuple[str, ...]):
        self.shell = shell
        self.state, self.fakes, self.proc = folder / "state", folder / "fakes", folder / "proc"
        self.updates = self.state / "updates"
        for path in (self.updates / "3", self.fakes / "bin", self.proc / "sys/kernel/random"):
            path.mkdir(parents=True)
        for name, text in (("rauc", _RAUC), ("journalctl", _JOURNALCTL), ("systemctl", _SYSTEMCTL), ("sleep", _SLEEP)):
            path = self.fakes / "bin" / name
            path.write_text(text)
            path.chmod(0o755)
        (self.fakes / "journal").write_bytes(b"what went wrong\n")
        (self.proc / "sys/kernel/random/boot_id").write_text(f"{BOOT}\n")
        (self.proc / "cmdline").write_text("quiet root=/dev/b\n")
        self.up(1200)
        self.boots("B")
        self.pends({})

    def up(self, seconds: float) -> None:
        (self.proc / "uptime").write_text(f"{seconds:.2f} 1.00\n")

    def boots(self, bootname: str) -> None:
        a, b = ("booted", "inactive") if bootname == "A" else ("inactive", "booted")
        self.says(STATUS.format(booted=bootname, a=a, b=b, status="good"))

    def says(self, status: str) -> None:
        (self.fakes / "status").write_text(status)

    def pends(self, changes: Mapping[str, str]) -> None:
        lines = {**PENDING, **changes}
        (self.updates / "pending").write_text("".join(f"{key}={value}\n" for key, value in lines.items()))

    def touch(self, name: str, text: str = "") -> None:
        (self.fakes / name).write_text(text)

    def guard(self) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.fakes / 'bin'}:{os.environ['PATH']}",
            "STATE_DIRECTORY": str(self.state),
            "FAKES": str(self.fakes),
            "GUARD_PROC": str(self.proc),
            "GUARD_SLEEP": str(self.fakes / "bin" / "sleep"),
        }
        return subprocess.run(
            [*self.shell, GUARD],
            env=environment,
            cwd=self.fakes,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
        )

    @property
    def uptime(self) -> float:
        return float((self.proc / "uptime").read_text().split()[0])

    def calls(self, program: str = "") -> list[str]:
        path = self.fakes / "calls"
        return [line for line in path.read_text().splitlines() if line.startswith(program)] if path.exists() else []

    def untouched(self) -> bool:
        return not self.calls("systemctl") and "rauc status mark-bad booted" not in self.calls()


@pytest.fixture(params=SHELLS, ids=" ".join)
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Board:
    shell: tuple[str, ...] = request.param
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    return Board(tmp_path, shell)


def test_a_new_system_that_nobody_judged_is_left(board: Board) -> None:
    done = board.guard()
    assert done.returncode == 0, done.stderr
    assert board.calls("systemctl") == ["systemctl reboot -i"]
    assert board.calls("rauc")[-2:] == ["rauc status mark-bad booted", "rauc status --output-format=shell"]
    assert board.calls()[-1].startswith("systemctl")
    assert (board.updates / "3" / "journal.log").read_text() == "what went wrong\n"
    assert (board.updates / "3" / "journal.log").stat().st_mode & 0o777 == 0o600
    assert "<2>update 3: nobody has judged the new system (B, rootfs.1)" in done.stdout
    assert "B is marked bad" in done.stdout
    assert (board.updates / "pending").exists(), "homed in the old system reads it"
    assert sorted(path.name for path in (board.updates / "3").iterdir()) == ["guard", "journal.log"]


def test_without_an_update_under_way_nothing_is_looked_at(board: Board) -> None:
    (board.updates / "pending").unlink()
    done = board.guard()
    assert (done.returncode, done.stdout, done.stderr, board.calls()) == (0, "", "", [])


def test_the_old_system_is_left_alone(board: Board) -> None:
    board.boots("A")
    done = board.guard()
    assert done.returncode == 0 and "A runs" in done.stdout
    assert board.untouched() and not board.calls("journalctl")


@pytest.mark.parametrize("booted", ["_external_", ""])
def test_a_system_that_rauc_does_not_know_is_left_alone(board: Board, booted: str) -> None:
    board.says(STATUS.format(booted=booted, a="inactive", b="inactive", status="good"))
    assert board.guard().returncode == 0
    assert board.untouched()


def test_who_was_booted_from_a_device_is_known_by_its_slot(board: Board) -> None:
    board.says(STATUS.format(booted="/dev/b", a="inactive", b="booted", status="good"))
    assert board.guard().returncode == 0
    assert board.calls("systemctl") == ["systemctl reboot -i"]


def test_a_homed_that_judges_is_waited_for_and_then_not_missed(board: Board) -> None:
    board.pends({"boot": BOOT, "until": "1500"})
    board.touch(
        "meanwhile", 'case $(cat "$GUARD_PROC/uptime") in 13*) rm -f "$STATE_DIRECTORY/updates/pending" ;; esac'
    )
    done = board.guard()
    assert done.returncode == 0 and "update 3 has been judged" in done.stdout
    assert 1300 <= board.uptime < 1400
    assert board.untouched()


def test_a_homed_that_dies_while_it_judges_is_waited_for_no_longer_than_its_deadline(board: Board) -> None:
    board.pends({"boot": BOOT, "until": "1500"})
    assert board.guard().returncode == 0
    assert 1560 <= board.uptime < 1580
    assert board.calls("systemctl")


def test_a_homed_that_begins_to_judge_late_is_waited_for(board: Board) -> None:
    board.touch(
        "meanwhile",
        f'printf "id=3\\nbootname=B\\ndeadline=600\\nboot={BOOT}\\nuntil=1700\\n" >"$STATE_DIRECTORY/updates/pending"',
    )
    assert board.guard().returncode == 0
    assert 1760 <= board.uptime < 1780


def test_a_verdict_in_the_last_moment_counts(board: Board) -> None:
    board.touch("judged-now")
    done = board.guard()
    assert done.returncode == 0 and "update 3 has been judged" in done.stdout
    assert board.untouched()


def test_the_judging_of_an_earlier_boot_counts_for_nothing(board: Board) -> None:
    board.pends({"boot": OTHER_BOOT, "until": "99999"})
    assert board.guard().returncode == 0
    assert 1320 <= board.uptime < 1340
    assert board.calls("systemctl")


def test_a_timer_that_is_shorter_than_the_deadline_does_no_harm(board: Board) -> None:
    board.up(100)
    board.pends({"deadline": "3000"})
    assert board.guard().returncode == 0
    assert 3060 <= board.uptime < 3080


@pytest.mark.parametrize("until", ["999999999", "99999999999999999999", "-1", "1e9", "09", ""])
def test_no_file_puts_it_off_for_ever(board: Board, until: str) -> None:
    board.pends({"boot": BOOT, "until": until})
    assert board.guard().returncode == 0
    assert board.uptime <= 1200 + 600 + 600 + 20
    assert board.calls("systemctl")


def test_a_homed_that_begins_its_judging_again_and_again_is_not_waited_for_for_ever(board: Board) -> None:
    board.touch(
        "meanwhile",
        'read -r now rest <"$GUARD_PROC/uptime"; now=$((${now%.*} + 600))\n'
        f'printf "id=3\\nbootname=B\\ndeadline=600\\nboot={BOOT}\\nuntil=$now\\n" >"$STATE_DIRECTORY/updates/pending"',
    )
    assert board.guard().returncode == 0
    assert board.uptime <= 1200 + 600 + 600 + 20
    assert board.calls("systemctl")


def test_another_update_meanwhile_is_not_this_ones_matter(board: Board) -> None:
    board.touch("meanwhile", 'sed -i s/^id=3/id=4/ "$STATE_DIRECTORY/updates/pending"')
    assert board.guard().returncode == 0
    assert board.untouched()


def test_without_rauc_the_board_is_rebooted_and_the_attempts_lead_back(board: Board) -> None:
    board.touch("rauc-away")
    done = board.guard()
    assert done.returncode == 0 and "could not be marked bad" in done.stdout
    assert "rauc status mark-bad booted" not in board.calls(), "it could be the wrong one"
    assert board.calls("systemctl") == ["systemctl reboot -i"]
    assert (board.updates / "3" / "journal.log").exists()


def test_without_rauc_the_kernels_command_line_says_which_system_runs(board: Board) -> None:
    board.touch("rauc-away")
    (board.proc / "cmdline").write_text("quiet rauc.slot=A root=/dev/a\n")
    assert board.guard().returncode == 0
    assert board.untouched()
    (board.proc / "cmdline").write_text("rauc.slot=B * $(touch x)")
    board.touch("rauc.slot=A")
    assert board.guard().returncode == 0
    assert board.calls("systemctl")


def test_a_mark_that_the_bootloader_did_not_take_is_said_and_the_board_reboots(board: Board) -> None:
    board.touch("mark-is-lost")
    done = board.guard()
    assert done.returncode == 0 and "could not be marked bad" in done.stdout
    assert board.calls("rauc status mark-bad") == ["rauc status mark-bad booted"] * 3
    assert board.calls("systemctl") == ["systemctl reboot -i"]


def test_a_board_that_does_not_reboot_is_forced_to(board: Board) -> None:
    for last, code in (("reboot --force", 0), ("--force --force", 0), ("never", 1)):
        board.touch("no-reboot", last)
        (board.fakes / "calls").unlink(missing_ok=True)
        assert board.guard().returncode == code
        wanted = ["systemctl reboot -i", "systemctl reboot --force", "systemctl reboot --force --force"]
        assert board.calls("systemctl") == wanted[: 2 if last == "reboot --force" else 3]


def test_a_board_on_which_it_does_not_help_is_not_rebooted_for_ever(board: Board) -> None:
    board.touch("rauc-away")
    assert [board.guard().returncode for _ in range(7)] == [0, 0, 0, 0, 0, 2, 2]
    assert len(board.calls("systemctl")) == 5
    board.pends({"id": "4"})
    assert board.guard().returncode == 0, "another update begins anew"


def test_only_the_end_of_a_long_journal_is_kept(board: Board) -> None:
    text = b"".join(b"%08d\n" % number for number in range(600_000))
    (board.fakes / "journal").write_bytes(text)
    board.guard()
    assert (board.updates / "3" / "journal.log").read_bytes() == text[-4194304:]


def test_where_the_journal_knows_nothing_of_this_boot_the_newest_is_kept(board: Board) -> None:
    board.touch("no-boot")
    assert "could not be kept" not in board.guard().stdout
    assert (board.updates / "3" / "journal.log").read_text() == "what went wrong\n"


def test_an_empty_journal_takes_no_other_ones_place(board: Board) -> None:
    (board.fakes / "journal").write_bytes(b"")
    (board.updates / "3" / "journal.log").write_text("from the boot before")
    done = board.guard()
    assert "could not be kept" in done.stdout
    assert (board.updates / "3" / "journal.log").read_text() == "from the boot before"
    assert board.calls("systemctl")


def test_a_state_that_cannot_be_written_does_not_stop_it(board: Board) -> None:
    (board.updates / "3").rmdir()
    (board.updates / "3").write_text("no folder")
    assert board.guard().returncode == 0
    assert "rauc status mark-bad booted" in board.calls()
    assert board.calls("systemctl") == ["systemctl reboot -i"]


@pytest.mark.parametrize(
    "text",
    [
        "", "id=3\n", "bootname=B\n", "id=\nbootname=\n", "id=../../etc\nbootname=B\n", "id=3 \nbootname=B\n",
        "id=03\nbootname=B\n", "id=1234567890\nbootname=B\n", "id=$(touch {flag})\nbootname=B\n",
        "id=3;touch {flag}\nbootname=B\n", "id=3\nbootname=`touch {flag}`\n", "id=3\nbootname=-n\n",
        "id=3\nbootname=" + "B" * 65 + "\n", "\0\0\0\0", "id=3\nbootname=B\n" + "x" * 5000,
    ],
)  # fmt: skip
def test_a_damaged_file_is_told_of_and_nothing_is_done(board: Board, text: str) -> None:
    flag = board.state / "flag"
    (board.updates / "pending").write_text(text.replace("{flag}", str(flag)))
    done = board.guard()
    assert done.returncode == 2 and "is damaged" in done.stdout
    assert not board.calls() and not flag.exists()


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "loop"])
def test_what_is_no_file_is_not_read(board: Board, kind: str) -> None:
    pending = board.updates / "pending"
    text = pending.read_text()
    pending.unlink()
    if kind == "link":
        (board.state / "elsewhere").write_text(text)
        pending.symlink_to(board.state / "elsewhere")
    elif kind == "loop":
        pending.symlink_to(pending)
    elif kind == "folder":
        pending.mkdir()
    else:
        os.mkfifo(pending)
    assert board.guard().returncode == 2
    assert not board.calls()


@pytest.mark.parametrize(
    "changes",
    [
        {"slot": "$(touch {flag})"}, {"slot": ""}, {"deadline": "$((touch))"}, {"deadline": ""}, {"deadline": "08"},
        {"deadline": "99999999"}, {"boot": "a b; touch {flag}", "until": "5"}, {"until": "$(touch {flag})"},
        {"PATH": "/nonexistent"}, {"state": "/nonexistent"}, {"most_reboots": "0"}, {"rubbish\nmore": "x"},
    ],
)  # fmt: skip
def test_a_line_that_is_not_as_it_must_be_counts_for_nothing(board: Board, changes: dict[str, str]) -> None:
    flag = board.state / "flag"
    board.pends({key: value.replace("{flag}", str(flag)) for key, value in changes.items()})
    done = board.guard()
    assert done.returncode == 0 and board.calls("systemctl") == ["systemctl reboot -i"], done.stdout + done.stderr
    assert not flag.exists()


@pytest.mark.parametrize("text", ["", "reboots=x\n", "reboots=\n", "\0", "reboots=99999999999999999999\n", "x" * 9999])
def test_a_damaged_count_begins_anew(board: Board, text: str) -> None:
    (board.updates / "3" / "guard").write_text(text)
    assert board.guard().returncode == 0
    assert board.calls("systemctl")
    assert (board.updates / "3" / "guard").read_text() == "reboots=1\n"


PIECES = ("id=", "bootname=", "deadline=", "until=", "boot=", "slot=", "3", "B", "\n", "=", "`", "$(", "9", " ", "-")
LINES = st.lists(st.sampled_from(PIECES) | st.binary(max_size=6).map(lambda data: data.decode("latin-1")), max_size=30)


@settings(max_examples=60, deadline=None)
@given(text=LINES.map("".join))
def test_no_file_makes_it_fail(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    shell = next(shell for shell in SHELLS if shutil.which(shell[0]))
    board = Board(tmp_path_factory.mktemp("board"), shell)
    (board.updates / "pending").write_bytes(text.encode("latin-1"))
    done = board.guard()
    assert done.returncode in (0, 2) and not done.stderr, done.stderr
    assert board.uptime < 1200 + 2 * 86400
    shutil.rmtree(board.state.parent)


def test_the_units_are_what_systemd_knows(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for name in ("homed-update-guard.service", "homed-update-guard.timer"):
        text = (UNITS / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/lib/homed/update-guard", shutil.which("true") or "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, tmp_path.iterdir())], capture_output=True, text=True, timeout=60
    )
    assert done.stdout + done.stderr == ""


def test_the_timer_is_longer_than_homed_takes_by_default() -> None:
    (minutes,) = re.findall(r"^OnBootSec=(\d+)min$", (UNITS / "homed-update-guard.timer").read_text(), re.M)
    defaults = (UNITS / "homed.toml").read_text()
    taken = sum(int(re.findall(rf"^#{name} = (\d+)$", defaults, re.M)[0]) for name in ("deadline", "soak"))
    assert int(minutes) * 60 >= 1.5 * taken


def test_the_guard_needs_nothing_that_may_not_be_there() -> None:
    service = (UNITS / "homed-update-guard.service").read_text()
    assert not re.search(r"^(After|Requires|Wants|BindsTo|Requisite|User|DynamicUser)=", service, re.M)
    assert GUARD.read_text().startswith("#!/bin/sh\n") and GUARD.stat().st_mode & 0o111
    assert not re.search(r"\b(eval|source|python|homed )\b", re.sub(r"#.*", "", GUARD.read_text()))
