"""The text of commands and scripts as interpreters want it, whatever editor it was written with (pure)."""

import re
from typing import Final

_BOM: Final = "\ufeff"
_SHELLS: Final = re.compile(r"(r?ba|da|a|z|[ml]?k|pdk|fi|t?c|ya|po|hu)?sh|busybox|toybox|oil|osh")
# bash-5.2, ksh93, sh.exe
_VERSION: Final = re.compile(r"(-?[0-9][0-9.]*|\.exe|-static)$")


def normal_lines(command: str) -> str:
    """Return lines for a shell without a byte order mark, with Unix line ends."""
    return command.removeprefix(_BOM).replace("\r\n", "\n")


def normal_script(script: str, interpreter: str) -> str:
    """Return the script without a byte order mark; a shell gets no carriage return at the end of a line.

    Other interpreters know both ends of lines, and a string of several lines may need those that it has: only the line
    that begins with `#!` is put right, since some read options from it.
    """
    script = script.removeprefix(_BOM)
    if is_shell(interpreter):
        return script.replace("\r\n", "\n")
    first, end, rest = script.partition("\n")
    return first.removesuffix("\r") + end + rest if first.startswith("#!") else script


def is_shell(interpreter: str) -> bool:
    """Return whether an interpreter's name or path is that of a Unix shell."""
    name = interpreter.rpartition("/")[2]
    return _SHELLS.fullmatch(_VERSION.sub("", name)) is not None
