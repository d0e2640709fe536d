"""RAUC's loose dictionaries, made into slots."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed.updates.slots import Facts, SlotBundle, Times, booted, slots
from tests.support.updating import NEW, OLD, facts, slot

# As RAUC 1.8 tells of a system that was delivered, of one that it has installed, and of a slot inside of the first.
DELIVERED: Mapping[str, Any] = {
    "class": "rootfs", "boot-status": "good", "description": "the first system", "type": "raw", "bootname": "A",
    "device": "/dev/loop4", "state": "booted",
}  # fmt: skip
INSTALLED: Mapping[str, Any] = {
    "bundle.build": "20260101", "size": 2097152, "sha256": "f3e0", "installed.timestamp": "2026-11-21T02:42:32Z",
    "bundle.compatible": "board", "installed.count": 1, "bundle.version": "2.0", "type": "raw", "bootname": "B",
    "class": "rootfs", "activated.timestamp": "2026-11-21T02:42:33Z", "activated.count": 1, "status": "ok",
    "bundle.description": "the system 2.0", "device": "/dev/loop5", "state": "inactive", "boot-status": "good",
}  # fmt: skip
CHILD: Mapping[str, Any] = {
    "class": "appfs", "parent": "rootfs.0", "type": "ext4", "device": "/dev/mmcblk0p5", "state": "active",
    "mountpoint": "/opt",
}  # fmt: skip
# What newer ones add.
NEWER = {"bundle.hash": "abcd", "installed.transaction": "0123", "of.the.future": ["x"]}


def test_what_rauc_says_of_a_slot_is_told() -> None:
    (found,) = slots([("rootfs.1", {**INSTALLED, **NEWER})])
    assert (found.name, found.class_, found.device, found.type) == ("rootfs.1", "rootfs", "/dev/loop5", "raw")
    assert (found.bootname, found.state, found.boot_status, found.status) == ("B", "inactive", "good", "ok")
    assert (found.sha256, found.size) == ("f3e0", 2097152)
    assert found.bundle == SlotBundle("board", "2.0", "the system 2.0", "20260101")
    assert found.installed == Times(datetime(2026, 11, 21, 2, 42, 32, tzinfo=UTC), 1)
    assert found.activated == Times(datetime(2026, 11, 21, 2, 42, 33, tzinfo=UTC), 1)
    assert (found.description, found.parent, found.mountpoint) == (None, None, None)


def test_what_rauc_does_not_say_is_null() -> None:
    (found,) = slots([("rootfs.0", DELIVERED)])
    assert (found.status, found.sha256, found.size, found.installed, found.activated, found.bundle) == (None,) * 6
    (child,) = slots([("appfs.0", CHILD)])
    assert (child.bootname, child.boot_status, child.parent, child.mountpoint) == (None, None, "rootfs.0", "/opt")


def test_slots_are_sorted_by_name() -> None:
    found = slots([("rootfs.1", INSTALLED), ("appfs.0", CHILD), ("rootfs.0", DELIVERED)])
    assert [one.name for one in found] == ["appfs.0", "rootfs.0", "rootfs.1"]


@pytest.mark.parametrize(
    "odd",
    [
        {"installed.timestamp": "yesterday", "installed.count": 3},
        {"installed.timestamp": ""},
        {"installed.count": 3},
        {"installed.timestamp": "2026-11-21T02:42:32Z", "installed.count": "many"},
    ],
)
def test_a_time_that_is_none_is_left_out(odd: Mapping[str, Any]) -> None:
    (found,) = slots([("rootfs.1", {**DELIVERED, **odd})])
    assert found.installed is None


def test_a_time_without_a_count_is_kept() -> None:
    (found,) = slots([("rootfs.1", {"installed.timestamp": "2026-11-21T02:42:32"})])
    assert found.installed == Times(datetime(2026, 11, 21, 2, 42, 32, tzinfo=UTC), 0)


def test_empty_words_are_none() -> None:
    (found,) = slots([("rootfs.1", {"bundle.version": "", "bootname": "", "status": ""})])
    assert (found.bootname, found.status, found.bundle) == (None, None, SlotBundle(None, None, None, None))


@pytest.mark.parametrize(
    ("states", "boot_slot", "name"),
    [
        (("booted", "inactive"), "", "rootfs.0"),
        (("inactive", "booted"), "A", "rootfs.1"),
        (("inactive", "inactive"), "B", "rootfs.1"),
        (("inactive", "inactive"), "/dev/loop4", "rootfs.0"),
        (("inactive", "inactive"), "rootfs.1", "rootfs.1"),
        (("inactive", "inactive"), "_external_", None),
        (("inactive", "inactive"), "", None),
        # A mounted slot is not the one that was booted.
        (("active", "inactive"), "", None),
    ],
)
def test_the_booted_slot_is_found(states: tuple[str, str], boot_slot: str, name: str | None) -> None:
    found = slots(
        [
            ("rootfs.0", {**DELIVERED, "state": states[0]}),
            ("rootfs.1", {**INSTALLED, "state": states[1]}),
            ("appfs.0", CHILD),
        ]
    )
    assert booted(found, boot_slot) == name


def test_a_slot_without_a_bootname_is_not_taken_for_the_booted_one() -> None:
    found = slots([("appfs.0", CHILD), ("rootfs.0", {**DELIVERED, "state": "inactive"})])
    assert booted(found, "") is None


def test_the_other_slot_is_the_one_beside_the_booted_one() -> None:
    found = facts()
    assert found.other is not None and found.other.name == NEW
    turned = facts(NEW).other
    assert turned is not None and turned.name == OLD


def with_more(*more: Any, booted: str | None = OLD) -> Facts:
    found = facts(booted)
    return msgspec.structs.replace(found, slots=(*found.slots, *more))


def test_a_rescue_system_and_what_is_inside_of_the_slots_are_not_the_other_one() -> None:
    found = with_more(slot("rescue.0", class_="rescue", bootname="R"), slot("appfs.1", bootname=None, parent=NEW))
    assert found.other is not None and found.other.name == NEW


def test_of_three_systems_none_is_the_other_one() -> None:
    assert with_more(slot("rootfs.2", bootname="C")).other is None


def test_where_it_is_not_known_what_runs_none_of_two_is_the_other_one() -> None:
    assert facts(None).other is None


def test_a_slot_is_found_by_its_name() -> None:
    found = facts()
    assert found.slot(NEW) is found.slots[1]
    assert found.slot("rootfs.7") is None and found.slot(None) is None


KEYS = sorted({*DELIVERED, *INSTALLED, *CHILD, *NEWER})
values = st.text(max_size=30) | st.integers(0, 2**64 - 1) | st.sampled_from(["good", "booted", "ok", "2026-01-01"])
told = st.dictionaries(st.sampled_from(KEYS), values).map(
    lambda found: {key: value for key, value in found.items() if key != "size" or isinstance(value, int)}
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=10), told), max_size=5), st.text(max_size=10))
def test_whatever_rauc_says_is_told_and_can_be_answered(found: list[tuple[str, dict[str, Any]]], running: str) -> None:
    made = slots(found)
    assert sorted(name for name, _ in found) == [one.name for one in made]
    msgspec.json.encode(made)
    shown = Facts(booted=booted(made, running), slots=made)
    assert shown.booted is None or shown.slot(shown.booted) is not None
    assert shown.other is None or shown.other.name != shown.booted
