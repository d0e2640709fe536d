"""The Jetson's bootloader backend against a model of nvbootctrl."""

import re
from pathlib import Path

import pytest

from tests.rauc_files.nvbootctrl import Jetson


@pytest.fixture
def jetson(tmp_path: Path) -> Jetson:
    return Jetson(tmp_path)


def test_a_board_as_delivered(jetson: Jetson) -> None:
    assert jetson.ask("get-primary") == "A"
    assert jetson.ask("get-current") == "A"
    assert [jetson.ask("get-state", slot) for slot in "AB"] == ["good", "good"]


def test_an_update_that_is_judged_good(jetson: Jetson) -> None:
    jetson.do("set-state", "B", "bad")
    assert (jetson.ask("get-state", "B"), jetson.ask("get-primary")) == ("bad", "A")
    assert jetson.boot() == "A"
    jetson.do("set-primary", "B")
    assert (jetson.ask("get-state", "B"), jetson.ask("get-primary")) == ("good", "B")

    assert jetson.boot() == "B"
    assert jetson.ask("get-current") == "B"
    assert jetson.get("retries") == [2, 2]
    jetson.do("set-state", "B", "good")

    assert jetson.get("retries") == [2, 3]
    assert jetson.boot() == "B"


def test_an_update_that_is_judged_bad(jetson: Jetson) -> None:
    jetson.install("B")
    assert jetson.boot() == "B"

    jetson.do("set-state", "B", "bad")

    assert jetson.ask("get-primary") == "A"
    assert (jetson.ask("get-state", "A"), jetson.ask("get-state", "B")) == ("good", "bad")
    assert jetson.boot() == "A"
    jetson.do("set-state", "A", "good")
    assert jetson.ask("get-state", "B") == "bad"


def test_a_slot_whose_attempts_are_used_up_is_bad_and_can_be_written_again(jetson: Jetson) -> None:
    jetson.install("B")
    # The firmware gave up B: its variable says so, and A is active again.
    jetson.status("B", 0xFF)
    jetson.set(active=0, retries=[3, 0])
    assert (jetson.ask("get-state", "B"), jetson.ask("get-primary")) == ("bad", "A")

    jetson.set(retries=[3, 3])
    jetson.install("B")

    assert (jetson.ask("get-state", "B"), jetson.ask("get-primary")) == ("good", "B")
    assert jetson.boot() == "B"


def test_a_slot_that_the_firmware_does_not_take_back_is_no_primary(jetson: Jetson) -> None:
    jetson.set(dead=1)

    refused = jetson.call("set-primary", "B")

    assert refused.returncode == 1
    assert (
        "slot B cannot be booted: slot: 1,             retry_count: 3,             status: unbootable" in refused.stderr
    )


def test_a_firmware_without_the_variable_is_told_of(jetson: Jetson) -> None:
    jetson.set(dead=1)

    refused = jetson.call_with(jetson.folder / "nothing", "set-primary", "B")

    assert refused.returncode == 1
    assert "the firmware gave up slot B" in refused.stderr


def test_the_last_attempt_is_no_good_state(jetson: Jetson) -> None:
    jetson.set(current=1, active=1, retries=[3, 0])
    assert jetson.ask("get-state", "B") == "bad"

    jetson.do("set-state", "B", "good")

    assert jetson.ask("get-state", "B") == "good"


def test_an_nvbootctrl_that_calls_it_verify(jetson: Jetson) -> None:
    jetson.set(lacks=["mark-boot-successful"], retries=[1, 3])

    jetson.do("set-state", "A", "good")

    assert jetson.get("retries") == [3, 3]


def test_a_mark_that_nvbootctrl_does_not_take_fails(jetson: Jetson) -> None:
    jetson.set(lacks=["mark-boot-successful", "verify"])

    assert jetson.call("set-state", "A", "good").returncode == 1


def test_only_the_booted_slot_s_boot_was_a_success(jetson: Jetson) -> None:
    jetson.do("set-state", "B", "bad")

    jetson.do("set-state", "B", "good")

    assert jetson.ask("get-state", "B") == "good"
    calls = (jetson.folder / "calls").read_text()
    assert "mark-boot-successful" not in calls


def test_where_both_are_bad_there_is_no_primary_and_nothing_is_switched(jetson: Jetson) -> None:
    jetson.do("set-state", "B", "bad")
    jetson.do("set-state", "A", "bad")

    assert jetson.get("active") == 0
    none = jetson.call("get-primary")
    assert (none.returncode, none.stdout) == (1, "")
    assert "both slots are bad" in none.stderr
    jetson.do("set-primary", "B")
    assert jetson.ask("get-primary") == "B"


def test_an_active_slot_that_did_not_change_is_told(jetson: Jetson) -> None:
    jetson.set(stuck=True)

    refused = jetson.call("set-primary", "B")

    assert refused.returncode == 1
    assert "still says A" in refused.stderr


def test_marks_outlive_a_write_that_was_broken_off(jetson: Jetson) -> None:
    jetson.do("set-state", "B", "bad")
    jetson.marks.with_suffix(".new").write_text("half")

    assert jetson.ask("get-state", "B") == "bad"
    jetson.do("set-state", "B", "bad")
    assert jetson.marks.read_text() == "B\n"
    assert sorted(path.name for path in jetson.marks.parent.iterdir()) == ["marked-bad"]


def test_a_data_partition_that_is_full_or_missing_fails_the_mark(jetson: Jetson) -> None:
    jetson.marks.parent.parent.write_text("no folder")

    assert jetson.ask("get-state", "B") == "good"
    assert jetson.call("set-state", "B", "bad").returncode == 1


def test_a_board_without_nvbootctrl_says_so(jetson: Jetson) -> None:
    (jetson.folder / "nvbootctrl").unlink()

    for arguments in (("get-primary",), ("get-current",), ("get-state", "A"), ("set-primary", "A")):
        done = jetson.call(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.search(r"nvbootctrl .* failed", done.stderr)


def test_what_rauc_never_asks_is_refused(jetson: Jetson) -> None:
    for arguments in ((), ("get-primary", "A"), ("get-state",), ("set-state", "A", "ugly"), ("get-state", "C"), ("x",)):
        assert jetson.call(*arguments).returncode == 1
