"""Fixtures: boards, and what they share. Where no board can be booted, tests that ask for one are skipped."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from .rig.board import Board
from .rig.needs import why_no_boards
from .rig.network import Network
from .rig.process import RigError
from .rig.rack import Rack
from .rig.root import board_root as build_root
from .rig.workspace import Workspace


@pytest.fixture(scope="session")
def board_root() -> Path:
    """The root that all boards share."""
    reason = why_no_boards()
    if reason is not None:
        pytest.skip(reason)
    return build_root()


@pytest.fixture(scope="session")
def board_workspace(board_root: Path) -> Iterator[Workspace]:
    """Where the boards of this run keep what they write."""
    with Workspace() as workspace:
        yield workspace


@pytest.fixture(scope="session")
def board_network(board_workspace: Workspace) -> Iterator[Network]:
    """The network of the boards of this run; the workspace, closed after it, kills what is still in it."""
    with Network() as network:
        yield network


@pytest.fixture
def boards(board_root: Path, board_workspace: Workspace, board_network: Network) -> Iterator[Rack]:
    """`boards("one")` is a booted board for this test alone; `boards.together(("one", "two"))`, several."""
    with Rack(board_root, board_workspace, board_network) as rack:
        yield rack


@pytest.fixture(scope="module")
def module_boards(board_root: Path, board_workspace: Workspace, board_network: Network) -> Iterator[Rack]:
    """The same for boards that the tests of a module share."""
    with Rack(board_root, board_workspace, board_network) as rack:
        yield rack


@pytest.fixture(scope="module")
def board(module_boards: Rack) -> Board:
    """One booted board that the tests of a module share."""
    return module_boards("board")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the end of each board's journal beside a failure: when the report is read, the boards are gone."""
    report = yield
    if report.when == "call" and report.failed:
        for board in _boards_of(item):
            report.sections.append((f"journal of {board.name}", _last_entries(board)))
    return report


def _boards_of(item: pytest.Item) -> Iterator[Board]:
    for value in getattr(item, "funcargs", {}).values():
        if isinstance(value, Board):
            yield value
        elif isinstance(value, Rack):
            yield from value


def _last_entries(board: Board) -> str:
    try:
        return board.run("journalctl", "--no-pager", "--lines=60", "--output=short-precise", timeout=10).stdout
    except RigError as error:
        return str(error)
