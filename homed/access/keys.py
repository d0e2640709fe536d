"""API keys: `hk_<id>_<secret>`, shown once, kept as a hash.

The secret has 192 random bits, so a plain SHA-256 is enough: there is nothing to guess that a slow hash would slow.
"""

import hashlib
import hmac
import logging
import secrets
import time
from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec

from homed.access.scopes import Principal, Scope
from homed.clock import now
from homed.errors import ConflictError, FieldError, NotFoundError, ValidationError
from homed.store import damage
from homed.store.base import Record, Store

log = logging.getLogger(__name__)
BUCKET = "keys"
KEY_PREFIX = "hk_"
# The id of the key that was given at the start; those of stored ones are hexadecimal.
GIVEN_ID = "given"
_SECONDS_BETWEEN_LOOKS = 1.0
# All of them are held in memory, and read again at most once a second, on demand.
_MAX_KEYS = 1000

KeyName = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@-]*$(?!\n)",
        description="letters, digits, spaces, ., _, @ and -, the first one a letter or digit",
    ),
]


class Key(msgspec.Struct, frozen=True):
    """A key as it is stored: `digest` is the hex SHA-256 of the secret."""

    id: str
    name: str
    scope: Scope
    digest: str
    created_at: datetime
    expires_at: datetime | None = None


def read_key(record: Record) -> Key:
    """Decode a stored key. Raises: ValueError, for an invalid record, which a restored backup may contain."""
    key = msgspec.json.decode(record.value, type=Key)
    times = [key.created_at] if key.expires_at is None else [key.created_at, key.expires_at]
    if key.id != record.key or any(one.tzinfo is None for one in times):
        raise ValueError("the key has another id than its record, or a time without a zone")
    return key


class NewKey(NamedTuple):
    key: Key
    text: str


class Keys:
    """The API keys, cached in memory; a key created or revoked by another process takes effect within a second.

    `given` is the text of an admin key that is kept only in memory (`homed serve --api-key`), or empty.
    """

    def __init__(self, store: Store, given: str = ""):
        self._store = store
        self._given = Key(GIVEN_ID, "--api-key", Scope.ADMIN, _digest(given), now()) if given else None
        self._by_id: dict[str, Key] = {}
        self._looked_at = -_SECONDS_BETWEEN_LOOKS

    async def load(self) -> None:
        self._by_id = {key.id: key for _, key in await damage.read_all(self._store, BUCKET, read_key)}
        self._looked_at = time.monotonic()

    async def look(self) -> None:
        """Load again where the last look is more than a second old."""
        if time.monotonic() - self._looked_at >= _SECONDS_BETWEEN_LOOKS:
            await self.load()

    def all(self) -> list[Key]:
        given = [self._given] if self._given is not None else []
        return given + sorted(self._by_id.values(), key=lambda key: key.created_at)

    def any(self) -> bool:
        """Return whether a key is valid now."""
        return any(self.get(key.id) is not None for key in self.all())

    async def create(self, name: str, scope: Scope, expires_at: datetime | None = None) -> NewKey:
        """Create a key; its text cannot be retrieved again.

        Raises: ValidationError, for an invalid name; ConflictError (TOO_MANY_KEYS).
        """
        check_name(name)
        if len(self._by_id) >= _MAX_KEYS:
            raise ConflictError(f"there are {_MAX_KEYS} keys already: revoke one first", code="TOO_MANY_KEYS")
        identity, secret = secrets.token_hex(4), secrets.token_hex(24)
        key = Key(identity, name, scope, _digest(secret), now(), expires_at)
        await self._store.put(BUCKET, identity, msgspec.json.encode(key), 0)
        self._by_id[identity] = key
        return NewKey(key, f"hk_{identity}_{secret}")

    async def revoke(self, identity: str) -> Key:
        """Revoke a key and with it every token that was issued for it. NotFoundError, ConflictError."""
        if self._given is not None and identity == GIVEN_ID:
            raise ConflictError(
                "the key of --api-key cannot be revoked: start homed without it",
                code="KEY_GIVEN",
                details={"id": identity},
            )
        await self.load()
        key = self._by_id.get(identity)
        if key is None:
            raise NotFoundError(f"there is no key '{identity}'", code="KEY_NOT_FOUND", details={"id": identity})
        await self._store.delete(BUCKET, identity, None)
        self._by_id.pop(identity, None)
        return key

    def get(self, identity: str) -> Key | None:
        """A key that is valid now."""
        if identity == GIVEN_ID:
            return self._given
        key = self._by_id.get(identity)
        if key is None or (key.expires_at is not None and key.expires_at <= now()):
            return None
        return key

    async def holds(self, principal: Principal) -> bool:
        """Whether a caller's key is still valid; who came without one needs none."""
        if principal.key_id is None:
            return True
        await self.look()
        return self.get(principal.key_id) is not None

    def identify_given(self, text: str) -> Principal | None:
        """Return the principal of the key given at start-up if `text` is that key. Compares in constant time."""
        key = self._given
        if key is None or not hmac.compare_digest(_digest(text), key.digest):
            return None
        return Principal(f"key:{key.name}", key.scope, key.id)

    def identify(self, text: str) -> Principal | None:
        """Who holds this key; None where it is none of ours. Compares hashes in constant time."""
        prefix, _, rest = text.partition("_")
        identity, _, secret = rest.partition("_")
        if prefix != "hk" or not secret:
            return None
        key = self.get(identity)
        # An unknown id costs the same comparison as a known one.
        expected = key.digest if key else "0" * 64
        if not hmac.compare_digest(_digest(secret), expected) or key is None:
            return None
        return Principal(f"key:{key.name}", key.scope, key.id)


def check_name(name: str) -> None:
    try:
        msgspec.convert(name, KeyName)
    except msgspec.ValidationError as error:
        raise ValidationError([FieldError("name", str(error))]) from error


def _digest(secret: str) -> str:
    # A header may hold what is not text: it is no key, and no reason to fail.
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()
