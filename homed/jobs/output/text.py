"""Bytes of a process as text: where they may be split, what is shown of too many, and how a cut is marked."""

import codecs

from homed.jobs.output.order import Stream

_LONGEST_PART = 3  # of a UTF-8 character that is not whole yet


def decode(data: bytes) -> str:
    """What is no UTF-8 becomes U+FFFD."""
    return data.decode(errors="replace")


def incomplete(data: bytes) -> int:
    """How many bytes at the end may be the beginning of a character whose rest is still to come (0 to 3)."""
    tail = data[-_LONGEST_PART:]
    _, used = codecs.utf_8_decode(tail, "replace", False)
    return len(tail) - used


def began_before(data: bytes) -> int:
    """How many bytes at the start belong to a character that began before them (0 to 3)."""
    count = 0
    while count < min(_LONGEST_PART, len(data)) and data[count] & 0xC0 == 0x80:
        count += 1
    return count


def cut_mark(stream: Stream, dropped: int) -> str:
    """What stands at the end of output that was cut."""
    return f"\n[output cut: {dropped} bytes of {stream.word} were dropped]\n"


def joined(head: bytes, left_out: int, tail: bytes) -> str:
    """Beginning and end of something too long to be shown whole."""
    head = head[: len(head) - incomplete(head)]
    skipped = began_before(tail)
    return f"{decode(head)}\n[{left_out + skipped} bytes are not shown here]\n{decode(tail[skipped:])}"
