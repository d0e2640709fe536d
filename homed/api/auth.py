"""From a request to its caller: an API key, a token issued for one, or a listener that needs neither."""

from aiohttp import web

from homed.access.keys import KEY_PREFIX, Keys
from homed.access.scopes import ANONYMOUS, LOCAL, Principal, Scope
from homed.access.tokens import Tokens
from homed.errors import ForbiddenError, UnauthorizedError


def credential(request: web.Request, *, socket: bool) -> str | None:
    """Return the caller's credential: `X-API-Key`, `Authorization: Bearer`, or on the route of a `socket` (browsers
    cannot set headers there) `?access_token=`; empty if the request has none.
    """
    headers = request.headers
    key = headers.get("X-API-Key")
    if key is not None:
        return key.strip()
    authorization = headers.get("Authorization")
    if authorization is not None:
        scheme, _, text = authorization.partition(" ")
        return text.strip() if scheme.lower() == "bearer" else ""
    if socket and headers.get("Upgrade", "").lower() == "websocket":
        return request.query.get("access_token")
    return None


class Authenticator:
    """Authenticates requests."""

    def __init__(self, keys: Keys, tokens: Tokens):
        self._keys = keys
        self._tokens = tokens

    async def identify(self, text: str | None, *, trusted: bool) -> Principal:
        """Return the principal of a credential; `trusted`: the request came over a listener that needs no key.

        A trusted listener ignores credentials that homed never issued: clients send those of other servers. Every
        listener refuses an expired or revoked key or token of homed, so that its holder notices.

        Raises: UnauthorizedError.
        """
        if text is None:
            return LOCAL if trusted else ANONYMOUS
        await self._keys.look()
        principal = self._keys.identify_given(text)
        if principal is None and text.startswith(KEY_PREFIX):
            principal = await self._by_key(text)
        if principal is None and text.count(".") == 2:
            principal = self._tokens.identify(text)
        if principal is not None:
            return principal
        if trusted and not text.startswith(KEY_PREFIX) and not self._tokens.is_own(text):
            return LOCAL
        raise UnauthorizedError("the key or token is not valid: it is unknown, expired or revoked")

    async def _by_key(self, text: str) -> Principal | None:
        principal = self._keys.identify(text)
        if principal is None:
            # It may have been made by hand this moment. How often this is asked, the limit of failures bounds.
            await self._keys.load()
            principal = self._keys.identify(text)
        return principal


def authorize(principal: Principal, needed: Scope | None) -> None:
    """UnauthorizedError where nobody is known, ForbiddenError where the scope does not suffice."""
    if needed is None:
        return
    if principal.scope is None:
        raise UnauthorizedError("a key is needed: send it as X-API-Key or as Authorization: Bearer")
    if not principal.scope.allows(needed):
        raise ForbiddenError(
            f"this needs the scope '{needed}'; yours is '{principal.scope}'",
            details={"needed": str(needed), "held": str(principal.scope)},
        )
