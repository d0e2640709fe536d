"""Read-modify-write support: ignore read-only fields that a client sends back unchanged.

Some of them (a status, the times of a check) may have changed on the board since they were read. So the digests of
values sent to clients are remembered for a while, and accepted in addition to the current values.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from homed.api.routes import Call, Handler
from homed.errors import FieldError, ValidationError

Prune = Callable[[object], object]
_MAX_REMEMBERED = 4096


class ReadBack:
    """The values of a resource sent to clients. `get` returns the resource; `change` is the type of its changes."""

    def __init__(self, get: Handler, change: type[msgspec.Struct]):
        self._get = get
        self._settable = frozenset(field.encode_name for field in msgspec.structs.fields(change))
        self._shown: OrderedDict[tuple[str, str, int], None] = OrderedDict()

    async def get(self, call: Call) -> object:
        """Return the resource, and remember its read-only values."""
        value = await self._get(call)
        for name, shown in self._read_only(value).items():
            key = _key(call, name, shown)
            self._shown[key] = None
            self._shown.move_to_end(key)
        while len(self._shown) > _MAX_REMEMBERED:
            self._shown.popitem(last=False)
        return value

    async def pruner(self, call: Call) -> Prune:
        """Return a function that removes the read-only fields from a body. Raises: NotFoundError.

        The function raises ValidationError for each field that differs from its current and its remembered values.
        """
        current = self._read_only(await self._get(call))

        def prune(raw: object) -> object:
            if not isinstance(raw, Mapping):
                return raw
            changed = [
                FieldError(name, "is read-only: leave it out, or send it as it was read")
                for name, shown in current.items()
                if name in raw and raw[name] != shown and not self._was_shown(call, name, raw[name])
            ]
            if changed:
                raise ValidationError(changed)
            return {name: value for name, value in raw.items() if name not in current}

        return prune

    def _was_shown(self, call: Call, name: str, value: object) -> bool:
        try:
            return _key(call, name, value) in self._shown
        except UnicodeEncodeError:  # it is not valid text
            return False

    def _read_only(self, value: object) -> dict[str, Any]:
        shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
        return {name: given for name, given in shown.items() if name not in self._settable}


def _key(call: Call, name: str, value: object) -> tuple[str, str, int]:
    return "/".join(call.path.values()), name, hash(msgspec.json.encode(value, order="sorted"))
