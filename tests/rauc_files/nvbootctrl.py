"""A model of nvbootctrl, and of the firmware behind it: nobody has a Jetson in CI."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.rauc_files.running import RAUC_FILES, Run, run

GUID = "781e084c-a330-417c-b678-38e696380cb9"

# As L4T R35 prints it. The firmware's variables are files, as efivarfs shows them.
MODEL = """#!PYTHON -IS
import json, pathlib, sys
folder = pathlib.Path(__file__).parent
state = json.loads((folder / "nv.json").read_text())

def unbootable(slot):
    return state["dead"] == slot or (folder / f"RootfsStatusSlot{'AB'[slot]}-GUID").read_bytes()[4:] != bytes(4)

def save():
    (folder / "nv.json").write_text(json.dumps(state))

arguments = sys.argv[1:]
(folder / "calls").open("a").write(" ".join(arguments) + "\\n")
assert arguments[:2] == ["-t", "rootfs"], arguments
match arguments[2:]:
    case [command] if command in state["lacks"]:
        sys.exit(f"Invalid command: {command}")
    case ["get-current-slot"]:
        print(state["current"])
    case ["dump-slots-info"]:
        print(f"Current rootfs slot: {'AB'[state['current']]}")
        print(f"Active rootfs slot: {'AB'[state['active']]}")
        print("num_slots: 2")
        for slot in (0, 1):
            status = "unbootable" if unbootable(slot) else "normal"
            print(f"slot: {slot},             retry_count: {state['retries'][slot]},             status: {status}")
    case ["set-active-boot-slot", slot]:
        if state["stuck"]:
            sys.exit(0)
        state["active"] = int(slot)
        save()
    case ["mark-boot-successful"] | ["verify"]:
        state["retries"][state["current"]] = 3
        save()
    case _:
        sys.exit("Usage: nvbootctrl [-t <target>] COMMAND")
""".replace("GUID", GUID).replace("PYTHON", sys.executable)


class Jetson:
    """The board: what its firmware keeps, and RAUC's calls of the backend."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.marks = folder / "data/rauc/marked-bad"
        (folder / "nvbootctrl").write_text(MODEL)
        (folder / "nvbootctrl").chmod(0o755)
        for slot in "AB":
            self.status(slot, 0)
        self.set(current=0, active=0, retries=[3, 3], lacks=[], stuck=False, dead=None)

    def set(self, **values: Any) -> None:
        file = self.folder / "nv.json"
        state = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**state, **values}))

    def get(self, name: str) -> Any:
        return json.loads((self.folder / "nv.json").read_text())[name]

    def status(self, slot: str, value: int) -> None:
        """0 is normal, 0xff is what the firmware writes when the attempts are used up."""
        (self.folder / f"RootfsStatusSlot{slot}-{GUID}").write_bytes(b"\7\0\0\0" + value.to_bytes(4, "little"))

    def call(self, *arguments: str) -> Run:
        return self.call_with(self.folder, *arguments)

    def call_with(self, variables: Path, *arguments: str) -> Run:
        return run(
            RAUC_FILES / "jetson/nvbootctrl-backend",
            *arguments,
            NVBOOTCTRL=str(self.folder / "nvbootctrl"),
            NVBOOTCTRL_MARKS=str(self.marks),
            NVBOOTCTRL_EFIVARS=str(variables),
        )

    def ask(self, *arguments: str) -> str:
        done = self.call(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def do(self, *arguments: str) -> None:
        # RAUC ends a setter's output nowhere: what is said there would be lost, so it goes to stderr.
        assert self.ask(*arguments) == ""

    def install(self, slot: str) -> None:
        """What RAUC asks for around writing a slot."""
        self.do("set-state", slot, "bad")
        self.do("set-primary", slot)

    def boot(self) -> str:
        """The firmware boots the active slot, and takes one of its attempts."""
        slot = self.get("active")
        self.set(current=slot, retries=[n - (i == slot) for i, n in enumerate(self.get("retries"))])
        return "AB"[slot]
