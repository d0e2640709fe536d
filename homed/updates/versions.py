"""Which of two versions is newer, as the UAPI group's version format specification has it (systemd's order).

https://uapi-group.org/specifications/specs/version_format_specification/
"""

import re
from typing import Any, Final

_IGNORED: Final = re.compile(r"^[^A-Za-z0-9.~^-]+")
_TAGGED: Final = re.compile(r"^[vV](?=[0-9])")
_DIGITS: Final = re.compile(r"[0-9]*")
_LETTERS: Final = re.compile(r"[A-Za-z]*")
# Python's pre-releases (PEP 440): 1.0.dev1, before 1.0a1, before 1.0b1, before 1.0rc1, before 1.0.
_DEVELOPED: Final = re.compile(r"\.?dev(?=[0-9])")
_PRE_RELEASE: Final = re.compile(r"(?<=[0-9])(?=(?:a|b|rc)[0-9])")


def compare(a: str, b: str) -> int:
    """1 where `a` is newer, -1 where `b` is, 0 where neither is. A tag's `v` before a digit counts for nothing."""
    a, b = _TAGGED.sub("", a), _TAGGED.sub("", b)
    while True:
        # Other characters separate, and are nothing by themselves.
        a, b = _IGNORED.sub("", a), _IGNORED.sub("", b)
        # What is before its release: 1.0~rc1 is older than 1.0, so this comes before the look for an end.
        if difference := _order(not a.startswith("~"), not b.startswith("~")):
            return difference
        if a.startswith("~"):
            a, b = a[1:], b[1:]
        if not a or not b:
            return _order(bool(a), bool(b))
        for separator in "-^.":
            if difference := _order(not a.startswith(separator), not b.startswith(separator)):
                return difference
            if a.startswith(separator):
                a, b = a[1:], b[1:]
        difference, a, b = _segment(a, b)
        if difference:
            return difference


def compare_own(a: str, b: str) -> int:
    """The same for versions of homed itself, which are Python's: 0.2.0.dev1 is older than 0.2.0rc1 and 0.2.0."""
    return compare(*(_PRE_RELEASE.sub("~", _DEVELOPED.sub("~~dev", version)) for version in (a, b)))


def _segment(a: str, b: str) -> tuple[int, str, str]:
    """Compare what both begin with, numbers or letters: (the order, the rest of each)."""
    one, other = _leading(_DIGITS, a), _leading(_DIGITS, b)
    if one or other:
        # A number is newer than letters, whatever it is; of numbers the longer one is, but for zeros in front.
        difference = _order(bool(one), bool(other))
        difference = difference or _order(*((len(digits), digits) for digits in (one.lstrip("0"), other.lstrip("0"))))
    else:
        one, other = _leading(_LETTERS, a), _leading(_LETTERS, b)
        difference = _order(one, other)
    return difference, a[len(one) :], b[len(other) :]


def _leading(kind: re.Pattern[str], text: str) -> str:
    found = kind.match(text)
    return found[0] if found else ""


def _order(a: Any, b: Any) -> int:
    return int(a > b) - int(a < b)
