"""Bounds on JSON before it is decoded: how many values it may hold, and how deep they may lie.

Decoded, 1 MB of empty lists takes 25 MB; a structure that decodes may still be too deep to be encoded again.
"""

from itertools import accumulate

from homed.errors import FieldError, ValidationError

MAX_VALUES = 50_000
MAX_DEPTH = 100
_SLICE_BYTES = 16 * 1024
_NO_SIGNS = bytes(range(256)).translate(None, b",[]{}")
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def most_values(data: bytes) -> int:
    """Return how many values JSON text holds at most (pure, quick): signs within strings are counted, too."""
    return min(data.count(b",") + data.count(b"[") + data.count(b"{"), MAX_VALUES)


def check(data: bytes) -> None:
    """Refuse JSON text that holds too much (pure). What is no JSON passes, for the decoder to refuse."""
    opened = data.count(b"[") + data.count(b"{")
    if opened <= MAX_DEPTH and opened + data.count(b",") <= MAX_VALUES:
        return
    # Without escapes a string lies between two quotes.
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    values, depth, in_string = 0, 0, 0
    for start in range(0, len(plain), _SLICE_BYTES):
        parts = plain[start : start + _SLICE_BYTES].split(b'"')
        signs = b"".join(parts[in_string::2]).translate(None, _NO_SIGNS)
        in_string ^= (len(parts) - 1) & 1
        values += signs.count(b",") + signs.count(b"[") + signs.count(b"{")
        if values > MAX_VALUES:
            raise ValidationError([FieldError("", f"the body has more than {MAX_VALUES} values")])
        levels = list(accumulate(map(_STEP.__getitem__, signs.translate(None, b",")), initial=depth))
        depth = levels[-1]
        if max(levels) > MAX_DEPTH:
            raise ValidationError([FieldError("", f"the body is nested more than {MAX_DEPTH} deep")])
