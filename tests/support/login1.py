"""A stand-in for logind's Manager on a bus of the tests: the machine's own reboot is hardware.

Run as a program (`python -m tests.support.login1 ADDRESS FILE NAME`) it owns NAME, org.freedesktop.login1 or
org.freedesktop.systemd1, on each bus that comes up at ADDRESS, answers Reboot, and writes a line to FILE for each one.
"""

import asyncio
import sys
from pathlib import Path

from dbus_next import Message, MessageType, NameFlag

from homed.bus.transport import Transport

LOGIND = "org.freedesktop.login1"
SYSTEMD = "org.freedesktop.systemd1"
_MANAGERS = (f"{LOGIND}.Manager", f"{SYSTEMD}.Manager")
_PAUSE = 0.02


async def serve(address: str, file: Path, name: str) -> None:
    """Answer on one bus after the other, for ever."""

    def answer(message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL or message.interface not in _MANAGERS:
            return None
        if message.member == "CanReboot":
            return Message.new_method_return(message, "s", ["yes"])
        if message.member == "Reboot":
            with file.open("a", encoding="utf-8") as asked:
                asked.write(f"{message.interface} {message.body}\n")
            return Message.new_method_return(message)
        return None

    while True:
        try:
            bus = Transport(address)
        except OSError:
            await asyncio.sleep(_PAUSE)
            continue
        try:
            await bus.connect()
            bus.add_message_handler(answer)
            await bus.request_name(name, NameFlag.DO_NOT_QUEUE)
            await bus.wait_for_disconnect()
        except (EOFError, OSError):
            await asyncio.sleep(_PAUSE)
        finally:
            bus.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
