"""Bounds on JSON before it is decoded: how many values it may hold, and how deep they may lie.

Decoded, 1 MB of empty lists takes 25 MB; a structure that decodes may still be too deep to be encoded again.
"""

import re
from itertools import accumulate

from homed.errors import FieldError, ValidationError

MAX_VALUES = 50_000
MAX_DEPTH = 100
# One way to match, and a string without an end matches too: linear whatever is given.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_SIGNS = bytes(range(256)).translate(None, b",[]{}")
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def most_values(data: bytes) -> int:
    """Return how many values JSON text holds at most (pure, quick): signs within strings are counted, too."""
    return min(data.count(b",") + data.count(b"[") + data.count(b"{"), MAX_VALUES)


def check(data: bytes) -> None:
    """Refuse JSON text that holds too much (pure). What is no JSON passes, for the decoder to refuse."""
    opened = data.count(b"[") + data.count(b"{")
    if opened <= MAX_DEPTH and opened + data.count(b",") <= MAX_VALUES:
        return
    signs = _STRING.sub(b"", data).translate(None, _SIGNS)
    if signs.count(b",") + signs.count(b"[") + signs.count(b"{") > MAX_VALUES:
        raise ValidationError([FieldError("", f"the body has more than {MAX_VALUES} values")])
    steps = map(_STEP.__getitem__, signs.translate(None, b","))
    if max(accumulate(steps), default=0) > MAX_DEPTH:
        raise ValidationError([FieldError("", f"the body is nested more than {MAX_DEPTH} deep")])
