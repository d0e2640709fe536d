"""The few members that homed writes by itself: README and the manifest."""

from typing import Final

from homed.backups.archive.follow import BLOCK

END: Final = bytes(2 * BLOCK)
_OCTAL: Final = 1 << 33


def member(name: bytes, size: int, modified: int) -> tuple[bytes, bytes]:
    """The header of a file of root's, and what pads its content. `modified` in seconds since the epoch."""
    digits = b"%011o\0" % size if size < _OCTAL else b"\x80" + size.to_bytes(11, "big")
    fields = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + digits + b"%011o\0" % modified
    rest = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
    total = sum(fields) + 8 * 0x20 + sum(rest)
    return fields + b"%06o\0 " % total + rest, bytes(-size % BLOCK)
