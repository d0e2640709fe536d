"""Fixtures: a board without its hardware, as delivered for each test. Skipped, with the reason, where it cannot be."""

from collections.abc import Generator, Iterator

import pytest

from tests.rauc.bundles import Bundles
from tests.rauc.machine import Machine
from tests.support.rauc import why_no_rauc


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    reason = why_no_rauc()
    if reason is not None:
        pytest.skip(reason)
    return Bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def _machine(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Machine(tmp_path_factory.mktemp("machine"), bundles) as machine:
        yield machine


@pytest.fixture
def machine(_machine: Machine) -> Iterator[Machine]:
    """A board as delivered, off: `machine.boot()` boots the first slot."""
    _machine.reset()
    yield _machine
    _machine.cut_power()


@pytest.fixture
def board(machine: Machine) -> Machine:
    """The same, booted."""
    return machine.boot()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the end of homed's and of RAUC's log beside a failure."""
    report = yield
    if report.when == "call" and report.failed:
        machine = getattr(item, "funcargs", {}).get("machine")
        if isinstance(machine, Machine):
            report.sections.append(("the end of homed's log", machine.homed.log[-8000:]))
            report.sections.append(("the end of RAUC's log", machine.rauc.log[-3000:]))
    return report
