"""JSON Web Tokens issued for a key: short-lived, and void as soon as their key is."""

import logging
import secrets
import time
from typing import NamedTuple

from homed.access.keys import Keys
from homed.access.scopes import Principal, Scope
from homed.errors import ForbiddenError, StoreError
from homed.store import damage
from homed.store.base import RevisionError, Store

log = logging.getLogger(__name__)
BUCKET = "secrets"
_NAME = "token-signing"
_SECRET_BYTES = 32
_ALGORITHM = "HS256"
_ISSUER = "homed"


class Token(NamedTuple):
    """`text` is the JWT; it expires `lifetime` seconds after its issue."""

    text: str
    scope: Scope
    lifetime: int


class Tokens:
    """Issues and checks tokens. PyJWT brings `cryptography` with it (9 MB), so it is imported when first used."""

    def __init__(self, store: Store, keys: Keys):
        self._store = store
        self._keys = keys
        self._secret = b""

    async def load(self) -> None:
        """Read the signing secret, or create it at the first start.

        If it can be neither read nor stored, tokens are valid until this process ends.
        """
        record = await self._store.get(BUCKET, _NAME)
        if record is not None and len(record.value) != _SECRET_BYTES:
            error = ValueError(f"it has {len(record.value)} bytes in place of {_SECRET_BYTES}")
            await damage.set_aside(self._store, BUCKET, record, error)
            record = await self._store.get(BUCKET, _NAME)
        made = secrets.token_bytes(_SECRET_BYTES)
        if record is None:
            try:
                await self._store.put(BUCKET, _NAME, made, 0)
            except RevisionError:  # another process was first: its secret counts
                pass
            except StoreError as failure:
                log.warning("Cannot keep the secret that tokens are signed with: %s", failure.message)
            record = await self._store.get(BUCKET, _NAME)
        self._secret = record.value if record is not None and len(record.value) == _SECRET_BYTES else made

    def issue(self, principal: Principal, scope: Scope | None, lifetime: int) -> Token:
        """A token for the caller's key. ForbiddenError where it has none, or asks for more than the key holds."""
        import jwt

        if principal.key_id is None or principal.scope is None or principal.by_token:
            raise ForbiddenError("a token is issued for a key: send one in X-API-Key")
        granted = scope or principal.scope
        if not principal.scope.allows(granted):
            raise ForbiddenError(f"the key holds '{principal.scope}', which does not allow '{granted}'")
        issued = int(time.time())
        claims = {
            "iss": _ISSUER,
            "sub": principal.key_id,
            "scope": granted,
            "iat": issued,
            "exp": issued + lifetime,
        }
        return Token(jwt.encode(claims, self._secret, _ALGORITHM), granted, lifetime)

    def identify(self, text: str) -> Principal | None:
        """Who holds this token; None where it is not valid, has expired, or its key was revoked."""
        import jwt

        try:
            claims = jwt.decode(
                text,
                self._secret,
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                options={"require": ["exp", "iat", "sub", "scope"]},
            )
            asked = Scope(claims["scope"])
        except (jwt.PyJWTError, ValueError, KeyError, TypeError):
            return None
        key = self._keys.get(str(claims["sub"]))
        if key is None:
            return None
        scope = asked if key.scope.allows(asked) else key.scope
        return Principal(f"key:{key.name}", scope, key.id, by_token=True)

    def is_own(self, text: str) -> bool:
        """Return whether a token claims to be issued by homed, valid or not."""
        if text.count(".") != 2:
            return False
        import jwt

        try:
            claims = jwt.decode(text, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return False
        return claims.get("iss") == _ISSUER
