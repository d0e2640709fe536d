"""`python -m tests.boards`: boot a board and give a person a shell in it; leaving the shell ends it."""

import argparse
import sys
from pathlib import Path

from .homed import Homed
from .rig.images import IMAGE, busybox_image, load_image
from .rig.install import LOCKS, dependencies
from .rig.needs import why_no_boards
from .rig.network import Network
from .rig.process import RigError
from .rig.rack import Rack
from .rig.root import board_root
from .rig.workspace import Workspace


def main() -> int:
    """Boot, install, hand over, and stop."""
    parser = argparse.ArgumentParser(prog="python -m tests.boards", description=__doc__)
    parser.add_argument("--wheel", type=Path, metavar="PATH", help="install homed from this wheel first")
    parser.add_argument("--name", default="board", help="the board's host name (default: %(default)s)")
    options = parser.parse_args()
    reason = why_no_boards()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    try:
        return visit(options.name, options.wheel)
    except RigError as error:
        print(error, file=sys.stderr)
        return 1


def visit(name: str, wheel: Path | None) -> int:
    """Boot a board, with homed if there is a wheel, for as long as its shell is open."""
    root = board_root()
    layers = () if wheel is None else (dependencies(root, *LOCKS),)
    with Workspace() as workspace, Network() as network, Rack(root, workspace, network) as boards:
        board = boards(name, layers=layers)
        if wheel is not None:
            homed = Homed(board, wheel)
            homed.as_usual()
            load_image(board, busybox_image(root))
            print(f"homed serves on http://{board.address}:8080; a key of the scope admin is {homed.key}")
            print(f"Docker has the image {IMAGE}; the log is at `journalctl -fu homed`")
        print(f"{name} is at {board.address}, this machine at {network.host_address}; `exit` ends the board")
        code = board.shell()
        if board.on:
            board.stop()
        return code


if __name__ == "__main__":
    sys.exit(main())
