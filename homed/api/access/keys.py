"""`/api/v1/keys`, `/api/v1/auth/token` and `/api/v1/audit`: who may do what, and who did."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from homed.access.keys import Key, KeyName, Keys
from homed.access.scopes import Scope
from homed.access.tokens import Tokens
from homed.api.routes import Call, Route
from homed.clock import now
from homed.errors import FieldError, ForbiddenError, ValidationError
from homed.store.base import AuditLog

_MAX_ENTRIES = 1000


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: KeyName
    scope: Scope
    expires_at: datetime | None = None


class ShownKey(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None


class MadeKey(ShownKey, frozen=True, kw_only=True):
    """`key` is shown this once: it is not kept."""

    key: str


class KeyList(msgspec.Struct, frozen=True):
    keys: Sequence[ShownKey]


class Revoked(msgspec.Struct, frozen=True):
    id: str
    status: str


class TokenWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`scope` at most that of the key; `lifetime` in seconds, at most the configuration's."""

    scope: Scope | None = None
    lifetime: Annotated[int, Meta(ge=10, le=86_400)] | None = None


class IssuedToken(msgspec.Struct, frozen=True):
    token: str
    token_type: str
    expires_in: int
    scope: Scope


class AuditQuery(msgspec.Struct, frozen=True):
    """Paging of the audit log. `before` is the last `id` of the previous page. A `limit` above 1000 is 1000."""

    limit: Annotated[int, Meta(ge=1)] = 100
    before: Annotated[int, Meta(ge=0, le=2**62)] | None = None


class AuditRow(msgspec.Struct, frozen=True):
    id: int
    at: datetime
    actor: str
    action: str
    target: str
    origin: str
    status: int
    code: str
    request_id: str


class AuditPage(msgspec.Struct, frozen=True):
    """A page of the audit log, newest first; `limit` is the maximum number of entries."""

    entries: Sequence[AuditRow]
    limit: int


def routes(keys: Keys, tokens: Tokens, audit: AuditLog, lifetime: Callable[[], int]) -> list[Route]:
    async def listed(call: Call) -> KeyList:
        await keys.look()
        return KeyList([ShownKey(**_shown(key)) for key in keys.all()])  # type: ignore[arg-type]

    async def create(call: Call) -> MadeKey:
        if call.principal.by_token:  # or a token that was stolen would be good for ever
            raise ForbiddenError("a key is made with a key, not with a token")
        new: NewKey = call.body
        if new.expires_at is not None and (new.expires_at.tzinfo is None or new.expires_at <= now()):
            raise ValidationError([FieldError("expires_at", "must be in the future, with a time zone")])
        made = await keys.create(new.name, new.scope, new.expires_at)
        return MadeKey(**_shown(made.key), key=made.text)  # type: ignore[arg-type]

    async def revoke(call: Call) -> Revoked:
        return Revoked((await keys.revoke(call.path["key_id"])).id, "revoked")

    async def token(call: Call) -> IssuedToken:
        wish: TokenWish = call.body
        longest = lifetime()
        issued = tokens.issue(call.principal, wish.scope, min(wish.lifetime or longest, longest))
        return IssuedToken(issued.text, "Bearer", issued.lifetime, issued.scope)

    async def entries(call: Call) -> AuditPage:
        limit = min(call.query.limit, _MAX_ENTRIES)
        found = await audit.entries(limit, call.query.before)
        return AuditPage([AuditRow(*entry) for entry in found], limit)

    admin = {"tag": "Access", "limit": "system", "scope": Scope.ADMIN}
    return [
        Route("GET", "/api/v1/keys", listed, "List keys", response=KeyList, **admin),  # type: ignore[arg-type]
        Route(
            "POST", "/api/v1/keys", create, "Make a key", body=NewKey, response=MadeKey, status=201, errors=(400, 409),
            change="key.create", **admin,  # type: ignore[arg-type]
        ),
        Route(
            "DELETE", "/api/v1/keys/{key_id}", revoke, "Revoke a key and its tokens", response=Revoked,
            params={"key_id": "The key's id."}, errors=(404,), change="key.revoke", **admin,  # type: ignore[arg-type]
        ),
        Route(
            "POST", "/api/v1/auth/token", token, "Issue a token for the key that is sent", "Access", "system",
            body=TokenWish, response=IssuedToken, status=201, errors=(400,), change="token.issue",
        ),
        Route("GET", "/api/v1/audit", entries, "Read the account of changes", query=AuditQuery, response=AuditPage,
              errors=(400,), **admin),  # type: ignore[arg-type]
    ]  # fmt: skip


def _shown(key: Key) -> dict[str, object]:
    return {field: getattr(key, field) for field in ("id", "name", "scope", "created_at", "expires_at")}
