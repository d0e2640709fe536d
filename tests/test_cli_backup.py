"""`homed backup`: what is asked of homed, what is shown of the answer, and with which code it ends."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from homed import cli, cli_backup, cli_show
from homed.backups import keyring
from homed.cli_show import Line, Lines, follow
from homed.control import Control, NotRunningError, RefusedError
from tests.support.control import Answers, operation, refused
from tests.support.wait import until

NAME = "board-20261121-020000.tar.gz"
BEGUN = (202, {"name": NAME, "status": "creating", "message": "It is under way", "operation_id": "7"})
CREATE, FOLLOW = ("POST", "backups?wait=false"), ("GET", "backups/operations/7")
BACKUP = {
    "name": NAME, "type": "full", "size": 1_230_000, "created_at": "2026-11-21T02:00:00.000Z", "damage": None,
    "verified_at": "2026-11-21T03:00:00Z", "encrypted": True, "copies": ["vault"], "services": ["web"],
    "sections": [{"kind": "volume", "name": "data", "size": 7, "capture": "paused", "changed": [],
                  "users": ["web"]}], "schedule": None,
}  # fmt: skip
Run = Callable[..., int]


@pytest.fixture
def homed(tmp_path: Path) -> Iterator[Answers]:
    with Answers(tmp_path) as answers:
        answers.on(*FOLLOW, operation())
        yield answers


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`homed backup …` on the state directory of the test; the exit code."""

    def run(*arguments: str) -> int:
        return cli.main(["backup", *arguments, "--state", str(tmp_path)])

    return run


def test_a_backup_is_asked_for_and_its_end_waited_for(
    homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    homed.on(*CREATE, BEGUN)
    running = operation("running", progress={"phase": "capturing", "service": "web"})
    homed.on(*FOLLOW, running, running, operation(warnings=["data: 2 files changed"], result={"name": NAME}))

    assert run("create", "board", "--type", "incremental", "--no-data") == 0

    assert homed.bodies("backups?wait=false") == [{"name": "board", "type": "incremental", "include_data": False}]
    shown = capsys.readouterr()
    assert shown.out == f"name: {NAME}\n"
    assert shown.err == "create: capturing web\nhomed: data: 2 files changed\n"


def test_what_is_not_said_is_left_to_homed(homed: Answers, run: Run) -> None:
    homed.on(*CREATE, BEGUN)
    assert run("create") == 0
    assert homed.bodies("backups?wait=false") == [{"type": "full", "include_data": True}]


def test_it_need_not_be_waited_for(homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    homed.on(*CREATE, BEGUN)
    assert run("create", "--no-wait") == 0
    assert capsys.readouterr().out == "7\n"
    assert [asked.method for asked in homed.asked] == ["POST"]


def test_programs_get_json_and_nothing_else(homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    homed.on(*CREATE, BEGUN)
    homed.on(*FOLLOW, operation("running"), operation())
    homed.on("GET", "backups", (200, {"backups": [BACKUP]}))
    assert run("create", "--json") == run("list", "--json") == 0
    out = capsys.readouterr()
    first, second = out.out.split("\n}\n", 1)
    assert json.loads(first + "}")["state"] == "succeeded" and json.loads(second)["backups"] == [BACKUP]
    assert out.err == ""


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (refused(409, "BACKUP_BUSY", "a restore is under way", operation_id="6"), 75),
        (refused(400, "VALIDATION_ERROR", "name: must fit"), 2),
        (refused(409, "NO_REPOSITORY", "there is no repository"), 1),
        ((500, b"<html>"), 1),
    ],
)
def test_a_refusal_says_why_and_ends_with_its_code(
    homed: Answers, run: Run, capsys: pytest.CaptureFixture[str], answer: tuple[int, object], code: int
) -> None:
    homed.on(*CREATE, answer)
    assert run("create") == code
    said = capsys.readouterr().err
    assert said.startswith("homed: ") and (isinstance(answer[1], bytes) or str(answer[1]).count(said[7:-1]) == 1)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_an_operation_that_fails_says_why(
    homed: Answers, run: Run, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    homed.on(*CREATE, BEGUN)
    homed.on(*FOLLOW, operation(state, failure=("BACKUP_NO_SPACE", "the disk is full"), warnings=["a warning"]))
    assert run("create") == 1
    assert capsys.readouterr().err == "homed: a warning\nhomed: the disk is full\n"


def test_without_homed_it_says_so(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 1
    (tmp_path / "control.sock").touch()
    assert run("create") == 1
    said = capsys.readouterr().err.splitlines()
    assert (
        said
        == [f"homed: homed does not run here: nobody listens at {tmp_path}/control.sock (systemctl start homed)"] * 2
    )


def test_a_long_path_is_no_hindrance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / ("very-long/" * 20)
    state.mkdir(parents=True)
    before = os.getcwd()
    os.chdir(state)
    try:
        with Answers(Path()) as homed:
            homed.on("GET", "backups", (200, {"backups": []}))
            assert cli.main(["backup", "list", "--state", str(state)]) == 0
    finally:
        os.chdir(before)


def test_what_is_there_is_listed(homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = {**BACKUP, "name": "x", "damage": "truncated", "encrypted": False, "copies": [], "size": 12}
    homed.on("GET", "backups", (200, {"backups": [BACKUP, damaged]}))
    assert run("list") == 0
    assert capsys.readouterr().out.splitlines() == [
        "NAME                          TYPE  SIZE    MADE                 STATE",
        f"{NAME}  full  1.2 MB  2026-11-21 02:00:00  verified, sealed, copied to vault",
        "x                             full  12 B    2026-11-21 02:00:00  damaged: truncated",
    ]


def test_one_is_shown_with_what_is_in_it(homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    homed.on("GET", f"backups/{NAME}", (200, BACKUP))
    assert run("show", NAME) == 0
    out = capsys.readouterr().out
    assert f"name: {NAME}\n" in out and "services:\n  - web\n" in out
    assert "  - kind volume, name data, size 7, capture paused, users ['web']\n" in out
    assert "damage" not in out


def test_a_name_may_hold_anything(homed: Answers, run: Run) -> None:
    assert run("show", "../a b?c#d%") == 1
    assert [asked.path for asked in homed.asked] == ["backups/..%2Fa%20b%3Fc%23d%25"]


def test_one_is_deleted_or_copied(homed: Answers, run: Run) -> None:
    homed.on("DELETE", f"backups/{NAME}", (200, {"status": "deleted"}))
    homed.on("POST", f"backups/{NAME}/copy?wait=false", BEGUN)
    assert run("delete", NAME) == run("copy", NAME, "vault") == 0
    assert homed.bodies(f"backups/{NAME}/copy?wait=false") == [{"target": "vault"}]


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ((), {}),
        (("--services", "web,db", "--no-volumes"), {"services": ["web", "db"], "volumes": False}),
        (("--no-services", "--volumes", "data,/srv/site"), {"services": False, "volumes": ["data", "/srv/site"]}),
        (("--no-config", "--keys", "--dry-run"), {"config": False, "keys": True, "dry_run": True}),
        (("--file-settings", "--no-volumes"), {"volumes": False, "file_settings": True}),
    ],
)
def test_what_is_restored_is_chosen(
    homed: Answers, run: Run, arguments: Sequence[str], body: dict[str, object]
) -> None:
    homed.on("POST", f"backups/{NAME}/restore?wait=false", BEGUN)
    assert run("restore", NAME, "--yes", *arguments) == 0
    assert homed.bodies(f"backups/{NAME}/restore?wait=false") == [{"keys": False, "dry_run": False, **body}]


@pytest.mark.parametrize(
    "arguments",
    [
        ("restore", NAME, "--services", "a", "--no-services"),
        ("restore", NAME, "--services", ","),
        ("restore",),
        ("verify", NAME, "--passphrase-stdin", "--identity-file", "x"),
        ("create", "--type", "half"),
        (),
    ],
)
def test_a_wrong_call_is_told_apart(run: Run, arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        run(*arguments)
    assert raised.value.code == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "agreed"), [("y\n", True), ("Yes\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_before_volumes_are_replaced_it_is_asked(
    homed: Answers, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str,
    agreed: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    homed.on("GET", f"backups/{NAME}", (200, BACKUP))
    homed.on("POST", f"backups/{NAME}/restore?wait=false", BEGUN)
    assert run("restore", NAME) == (0 if agreed else 1)
    assert len(homed.bodies(f"backups/{NAME}/restore?wait=false")) == agreed
    assert "This replaces data as a whole" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [(), ("--services", "web"), ("--volumes", "data"), ("--no-services",)])
def test_with_nobody_to_ask_nothing_is_replaced_without_yes(
    homed: Answers, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    homed.on("GET", f"backups/{NAME}", (200, BACKUP))
    homed.on("POST", f"backups/{NAME}/restore?wait=false", BEGUN)
    assert run("restore", NAME, *arguments) == 2
    assert not homed.bodies(f"backups/{NAME}/restore?wait=false")
    assert "would replace data" in (said := capsys.readouterr().err) and "--yes" in said
    assert run("restore", NAME, *arguments, "--yes") == 0


@pytest.mark.parametrize("arguments", [("--no-volumes",), ("--dry-run",), ("--services", "other")])
def test_nobody_is_asked_if_no_volume_is_replaced(
    homed: Answers, run: Run, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    homed.on("GET", f"backups/{NAME}", (200, BACKUP))
    homed.on("POST", f"backups/{NAME}/restore?wait=false", BEGUN)
    assert run("restore", NAME, *arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "unlock"),
    [
        (("--passphrase-stdin",), {"passphrase": " from stdin "}),
        (("--passphrase-file", "passphrase"), {"passphrase": "from a file"}),
        (("--identity-file", "identity"), {"identity": "AGE-SECRET-KEY-1QQQ"}),
    ],
)
def test_a_sealed_one_is_opened_by_what_is_given(
    homed: Answers, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str],
    unlock: dict[str, str],
) -> None:  # fmt: skip
    (tmp_path / "passphrase").write_text("from a file\nand more\n")
    (tmp_path / "identity").write_text("# created: 2026\n# public key: age1q\nAGE-SECRET-KEY-1QQQ\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(" from stdin \nmore"))
    homed.on("POST", f"backups/{NAME}/verify?wait=false", BEGUN)
    assert run("verify", NAME, *arguments) == 0
    assert homed.bodies(f"backups/{NAME}/verify?wait=false") == [unlock]


def test_a_passphrase_is_asked_for_where_one_is_needed(
    homed: Answers, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", lambda _: "typed")
    homed.on("POST", f"backups/{NAME}/restore?wait=false", BEGUN)
    sealed = operation("failed", failure=("BACKUP_KEY_MISSING", "it is sealed"))
    homed.on(*FOLLOW, sealed, operation(result={"restored": {"services": ["web"]}}))
    assert run("restore", NAME, "--yes") == 0
    plain = {"keys": False, "dry_run": False}
    assert homed.bodies(f"backups/{NAME}/restore?wait=false") == [plain, {**plain, "passphrase": "typed"}]
    assert capsys.readouterr().out == "restored:\n  services:\n    - web\n"


def test_without_a_terminal_nobody_is_asked(homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    homed.on("POST", f"backups/{NAME}/verify?wait=false", BEGUN)
    homed.on(*FOLLOW, operation("failed", failure=("BACKUP_KEY_MISSING", "it is sealed")))
    assert run("verify", NAME) == 1
    assert capsys.readouterr().err == "homed: it is sealed\n"


@pytest.mark.parametrize("text", [None, "no identity", b"\xff\xfe"])
def test_a_file_that_opens_nothing_is_told_of(
    homed: Answers, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | bytes | None
) -> None:
    path = tmp_path / "identity"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert run("verify", NAME, "--identity-file", str(path)) == 1
    assert str(path) in capsys.readouterr().err
    assert homed.asked == []


def test_what_would_be_pruned_is_told_with_why(homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = {"kept": [{"name": "a", "reason": "last 1"}], "removed": [{"name": "b", "reason": "damaged"}]}
    homed.on("POST", "backups/prune", (200, verdicts))
    assert run("prune", "--dry-run") == 0
    assert homed.bodies("backups/prune") == [{"dry_run": True}]
    assert capsys.readouterr().out.splitlines()[1:] == ["a     kept      last 1", "b     would go  damaged"]


def test_schedules_and_operations_are_listed(homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    nightly = {
        "name": "nightly", "action": "create", "calendar": "02:00", "next_run": "2026-11-22T02:00:17Z",
        "last_run": None, "problem": None,
    }  # fmt: skip
    homed.on("GET", "backups/schedules", (200, {"schedules": [nightly]}))
    ended = {**operation("failed", failure=("X", "why"))[1], "started_at": "2026-11-21T02:00:00Z"}  # type: ignore[dict-item]
    homed.on("GET", "backups/operations", (200, {"operations": [ended]}))
    assert run("schedules") == run("operations") == 0
    out = capsys.readouterr().out
    assert "nightly  create  02:00     2026-11-22 02:00:17  -" in out
    assert f"7   create  failed  2026-11-21 02:00:00  {NAME}  why" in out


def test_an_operation_is_cancelled(homed: Answers, run: Run) -> None:
    homed.on("POST", "backups/operations/7/cancel", (200, {"status": "cancelled"}))
    assert run("cancel", "7") == 0
    assert len(homed.asked) == 1


RUN = ("POST", "backups/schedules/nightly/run?wait=false")


def test_what_a_schedule_says_is_done(homed: Answers, run: Run) -> None:
    homed.on(*RUN, BEGUN)
    assert run("run", "nightly") == 0
    homed.on(*FOLLOW, operation("failed", failure=("BACKUP_ERROR", "no")))
    assert run("run", "nightly") == 1


def test_where_there_is_nothing_to_do_that_is_well(
    homed: Answers, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    homed.on(*RUN, (200, {"status": "nothing", "message": "There is nothing to do"}))
    assert run("run", "nightly") == 0
    assert capsys.readouterr().err == "There is nothing to do\n"


class Clock:
    """Seconds that pass by sleeping; `woken` is called each time."""

    def __init__(self, woken: Callable[[], None] = lambda: None) -> None:
        self.now = 0.0
        self._woken = woken

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._woken()

    def __call__(self) -> float:
        return self.now


BUSY = refused(409, "BACKUP_BUSY", "a create is under way")


def test_a_schedule_waits_for_another_operation(
    homed: Answers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    homed.on(*RUN, BUSY, BUSY, BUSY, BEGUN)
    clock = Clock()
    begun = cli_backup._when_free(Control(tmp_path), "nightly", clock.sleep, clock)
    assert begun["operation_id"] == "7"
    assert clock.now == 90
    assert capsys.readouterr().err == "homed: waiting: a create is under way\n"


def test_it_does_not_wait_for_ever(homed: Answers, tmp_path: Path) -> None:
    homed.on(*RUN, BUSY)
    clock = Clock()
    with pytest.raises(RefusedError) as raised:
        cli_backup._when_free(Control(tmp_path), "nightly", clock.sleep, clock)
    assert raised.value.code == "BACKUP_BUSY" and clock.now == 3600


def test_a_schedule_waits_for_homed_to_come(tmp_path: Path) -> None:
    homed = Answers(tmp_path)
    homed.on(*RUN, BEGUN)

    def come() -> None:
        if clock.now == 10:
            homed.__enter__()

    clock = Clock(come)
    try:
        assert cli_backup._when_free(Control(tmp_path), "nightly", clock.sleep, clock)["operation_id"] == "7"
    finally:
        homed.__exit__(None, None, None)


def test_a_schedule_that_is_not_there_is_not_waited_for(homed: Answers, tmp_path: Path) -> None:
    homed.on(*RUN, refused(404, "SCHEDULE_NOT_FOUND", "there is no schedule"))
    clock = Clock()
    with pytest.raises(RefusedError, match="no schedule"):
        cli_backup._when_free(Control(tmp_path), "nightly", clock.sleep, clock)
    assert clock.now == 0


def test_stopped_by_its_unit_it_cancels_what_it_asked_for(homed: Answers, tmp_path: Path) -> None:
    homed.on(*RUN, BEGUN)
    homed.on(*FOLLOW, operation("running"))
    homed.on("POST", "backups/operations/7/cancel", (200, {"status": "cancelling"}))
    command = [sys.executable, "-m", "homed", "backup", "run", "nightly", "--state", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=Path(cli.__file__).parent.parent)
    try:
        until("it to follow", lambda: ("GET", "backups/operations/7", None) in homed.asked)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()
    assert homed.asked[-1].path == "backups/operations/7/cancel"


def test_homed_may_be_away_for_a_while(homed: Answers, tmp_path: Path) -> None:
    homed.on(*FOLLOW, operation("running"), operation())
    homed.__exit__(None, None, None)

    def come() -> None:
        if clock.now > 30 and not (tmp_path / "control.sock").exists():
            homed.__enter__()

    clock = Clock(come)
    assert follow(Control(tmp_path), "7", Lines(io.StringIO()), clock.sleep, clock)["state"] == "succeeded"


def test_homed_that_stays_away_is_given_up(tmp_path: Path) -> None:
    clock = Clock()
    with pytest.raises(NotRunningError):
        follow(Control(tmp_path), "7", Lines(io.StringIO()), clock.sleep, clock)
    assert 90 < clock.now < 95


def test_a_line_of_progress_is_written_over_and_taken_away() -> None:
    out = io.StringIO()
    line = Line(out)
    first = {"bytes": 12_300_000, "bytes_total": 1_000_000_000, "files": 120, "percent": 1.2, "remaining": 74.6}
    line.progress(operation("running", progress={"phase": "capturing", "service": "web", **first})[1])  # type: ignore[arg-type]
    line.progress(operation("running", progress={"phase": "syncing"})[1])  # type: ignore[arg-type]
    line.end()
    shown = [text.rstrip() for text in out.getvalue().split("\r")]
    assert shown == [
        "",
        "create: capturing web, 12.3 MB of 1.0 GB, 120 files, 1 %, 1 min 15 s left"[: cli_show._width() - 1],
        "create: syncing",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3661, "1 h 1 min"), (90_000, "25 h 0 min")]
)
def test_spans_are_as_people_say_them(seconds: float, text: str) -> None:
    assert cli_show.span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (2_500_000, "2.5 MB"), (3e15, "3000.0 TB")]
)
def test_sizes_are_as_people_say_them(count: float, text: str) -> None:
    assert cli_show.size(count) == text


def test_the_passphrase_is_set_without_homed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a good passphrase\n"))
    assert run("passphrase", "--stdin") == 0
    assert keyring.open(tmp_path / "backup-key", "a good passphrase").startswith("AGE-SECRET-KEY-1")
    assert "a good passphrase" not in "".join(capsys.readouterr())


def test_a_passphrase_is_asked_for_twice_and_must_be_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter(["a good passphrase", "a goof passphrase"])
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", lambda _: next(typed))
    assert run("passphrase") == 2
    assert "not the same" in capsys.readouterr().err
    assert keyring.load(tmp_path / "backup-key") is None


def test_a_weak_passphrase_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    assert run("passphrase", "--stdin") == 2
    assert keyring.load(tmp_path / "backup-key") is None


@pytest.mark.parametrize(("arguments", "force"), [((), False), (("--force",), True)])
def test_the_repository_is_unlocked(homed: Answers, run: Run, arguments: Sequence[str], force: bool) -> None:
    homed.on("POST", "backups/unlock?wait=false", BEGUN)
    assert run("unlock", *arguments) == 0
    assert homed.bodies("backups/unlock?wait=false") == [{"force": force}]
