"""A rack of boards: boots them by name, and closes all that it booted."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from .board import Board
from .network import Network
from .workspace import Workspace


class Rack:
    """Call it with a name to get a booted board, and `together` with several to get them sooner."""

    def __init__(self, root: Path, workspace: Workspace, network: Network) -> None:
        self._root = root
        self._workspace = workspace
        self._network = network
        self._boards: list[Board] = []

    def __call__(self, name: str, *, layers: Sequence[Path] = ()) -> Board:
        """A booted board; `layers`, lowest first, lie over the shared root and under the board's own disk."""
        board = self.build(name, layers=layers)
        board.start()
        return board

    def build(self, name: str, *, layers: Sequence[Path] = ()) -> Board:
        """A board that is still off."""
        board = Board(name, (self._root, *layers), self._workspace, self._network)
        self._boards.append(board)
        return board

    def together(self, names: Iterable[str], *, layers: Sequence[Path] = ()) -> tuple[Board, ...]:
        """Boards that boot at the same time."""
        boards = tuple(self.build(name, layers=layers) for name in names)
        for board in boards:
            board.start(wait=False)
        for board in boards:
            board.wait_running()
        return boards

    def close(self) -> None:
        """Throw every board away, even if one resists."""
        with ExitStack() as stack:
            while self._boards:
                stack.callback(self._boards.pop().close)

    def __iter__(self) -> Iterator[Board]:
        return iter(self._boards)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
