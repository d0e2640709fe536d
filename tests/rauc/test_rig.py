"""The rig itself: what RAUC and the bootloader do without homed's doing."""

import json
from typing import Any

import pytest

from tests.boards.rig.process import RigError
from tests.rauc.bundles import Bundles
from tests.rauc.machine import Machine
from tests.support.rauc import ATTEMPTS, SLOT_SIZE
from tests.support.wait import until


def status(machine: Machine) -> dict[str, Any]:
    return dict(json.loads(machine.rauc.command("status", "--output-format=json")))


def test_a_bundle_goes_into_the_other_slot(board: Machine, bundles: Bundles) -> None:
    before = board.slot("A").digest()
    bundle = bundles.good()
    board.rauc.command("install", bundle.path)
    assert board.slot("B").holds(bundle.image)
    assert board.slot("A").digest() == before
    assert board.rauc.bootloader.primary == "B"
    assert status(board)["boot_primary"] == "rootfs.1"


def test_a_slow_bundle_stops_half_written(board: Machine, bundles: Bundles) -> None:
    bundle = bundles.slow()
    installing = board.rauc.by_hand("install", bundle.path)
    until("half of it to be written", lambda: bundles.gate.reached)
    assert board.slot("B").holds(bundle.image[: len(bundle.image) // 2])
    assert not board.slot("B").holds(bundle.image)
    assert not board.rauc.bootloader.is_good("B")
    bundles.gate.open()
    assert installing.wait(timeout=30) == 0
    assert board.slot("B").holds(bundle.image)
    assert board.rauc.bootloader.primary == "B"


def test_every_bad_bundle_is_refused(board: Machine, bundles: Bundles) -> None:
    before = board.slot("A").digest()
    for bundle in (
        bundles.incompatible(), bundles.of_a_stranger(), bundles.of_an_expired_signer(), bundles.tampered(),
        bundles.truncated(), bundles.nonsense(), bundles.too_large(SLOT_SIZE),
    ):  # fmt: skip
        with pytest.raises(RigError):
            board.rauc.command("install", bundle.path)
        assert board.rauc.bootloader.primary == "A", bundle
    assert board.slot("A").digest() == before


def test_the_bootloader_goes_back_when_the_attempts_are_used_up(board: Machine, bundles: Bundles) -> None:
    board.rauc.command("install", bundles.good().path)
    board.cut_power()
    assert [board.rauc.bootloader.choose() for _ in range(ATTEMPTS + 1)] == ["B"] * ATTEMPTS + ["A"]
    assert not board.rauc.bootloader.is_good("B")


def test_each_boot_has_its_own_boot_id(board: Machine) -> None:
    def boot_id() -> str:
        return board.homed.inside("cat", "/proc/sys/kernel/random/boot_id")

    first = boot_id()
    board.homed.restart()
    assert boot_id() == first
    board.shut_down()
    board.boot()
    assert boot_id() != first


def test_rauc_and_the_bus_can_die_and_come_back(board: Machine, bundles: Bundles) -> None:
    board.rauc.kill()
    board.start_rauc()
    assert status(board)["booted"] == "A"
    board.restart_bus()
    board.rauc.command("install", bundles.good().path)
    assert status(board)["boot_primary"] == "rootfs.1"
