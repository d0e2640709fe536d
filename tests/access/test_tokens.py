"""Tokens: short-lived, never more than their key, void with it, and not to be forged."""

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homed.access.keys import Keys
from homed.access.scopes import ANONYMOUS, LOCAL, Principal, Scope
from homed.access.tokens import Tokens
from homed.errors import ForbiddenError
from homed.store.sqlite import SqliteStore


@dataclass
class Access:
    store: SqliteStore
    keys: Keys
    tokens: Tokens

    async def holder(self, scope: Scope) -> Principal:
        principal = self.keys.identify((await self.keys.create("a", scope)).text)
        assert principal is not None
        return principal

    def forge(self, claims: dict[str, Any], secret: bytes | None = None, algorithm: str = "HS256") -> str:
        return jwt.encode(claims, self.tokens._secret if secret is None else secret, algorithm)


@pytest.fixture
async def access(tmp_path: Path) -> AsyncIterator[Access]:
    store = SqliteStore(tmp_path / "homed.db")
    await store.open()
    keys = Keys(store)
    tokens = Tokens(store, keys)
    await keys.load()
    await tokens.load()
    yield Access(store, keys, tokens)
    await store.close()


def claims(key: Principal, **more: Any) -> dict[str, Any]:
    moment = int(time.time())
    return {"iss": "homed", "sub": key.key_id, "scope": "read", "iat": moment, "exp": moment + 60, **more}


@pytest.mark.parametrize("scope", list(Scope))
async def test_a_token_is_its_keys_holder(access: Access, scope: Scope) -> None:
    holder = await access.holder(scope)
    issued = access.tokens.issue(holder, None, 60)
    assert (issued.scope, issued.lifetime) == (scope, 60)
    assert access.tokens.identify(issued.text) == holder._replace(by_token=True)


async def test_a_token_may_hold_less_than_its_key_and_never_more(access: Access) -> None:
    holder = await access.holder(Scope.OPERATE)
    issued = access.tokens.issue(holder, Scope.READ, 60)
    found = access.tokens.identify(issued.text)
    assert found is not None and found.scope is Scope.READ
    with pytest.raises(ForbiddenError):
        access.tokens.issue(holder, Scope.ADMIN, 60)
    widened = access.tokens.identify(access.forge(claims(holder, scope="admin")))
    assert widened is not None and widened.scope is Scope.OPERATE


async def test_a_token_is_issued_for_a_key_alone(access: Access) -> None:
    holder = await access.holder(Scope.ADMIN)
    by_token = access.tokens.identify(access.tokens.issue(holder, None, 60).text)
    assert by_token is not None
    for caller in (ANONYMOUS, LOCAL, by_token):
        with pytest.raises(ForbiddenError):
            access.tokens.issue(caller, None, 60)


async def test_a_token_ends_when_it_expires(access: Access) -> None:
    holder = await access.holder(Scope.READ)
    moment = int(time.time())
    assert access.tokens.identify(access.forge(claims(holder))) is not None
    assert access.tokens.identify(access.forge(claims(holder, iat=moment - 60, exp=moment - 1))) is None


async def test_a_token_is_void_with_its_key(access: Access) -> None:
    holder = await access.holder(Scope.READ)
    text = access.tokens.issue(holder, None, 60).text
    assert holder.key_id is not None
    await access.keys.revoke(holder.key_id)
    assert access.tokens.identify(text) is None


async def test_tokens_outlive_a_restart_and_end_with_the_state(access: Access, tmp_path: Path) -> None:
    holder = await access.holder(Scope.READ)
    text = access.tokens.issue(holder, None, 60).text
    again = Tokens(access.store, access.keys)
    await again.load()
    assert again.identify(text) is not None
    other = SqliteStore(tmp_path / "other.db")
    await other.open()
    fresh = Tokens(other, access.keys)
    await fresh.load()
    assert fresh.identify(text) is None
    await other.close()


async def test_before_a_secret_is_loaded_nothing_is_valid(access: Access) -> None:
    holder = await access.holder(Scope.ADMIN)
    empty = Tokens(access.store, access.keys)
    unkeyed = unsigned({"alg": "HS256", "typ": "JWT"}, claims(holder, scope="admin"))
    signature = base64.urlsafe_b64encode(hmac.digest(b"", unkeyed[:-1].encode(), "sha256")).rstrip(b"=").decode()
    assert empty.identify(unkeyed + signature) is None


def unsigned(header: dict[str, Any], body: dict[str, Any], signature: str = "") -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part(body)}.{signature}"


async def test_what_is_forged_is_refused(access: Access) -> None:
    holder = await access.holder(Scope.ADMIN)
    right = claims(holder, scope="admin")
    good = access.forge(right)
    head, body, signature = good.split(".")
    forged = [
        unsigned({"alg": "none", "typ": "JWT"}, right), unsigned({"alg": "None"}, right), unsigned({"alg": ""}, right),
        unsigned({"alg": "none"}, right, signature), unsigned({}, right, signature),
        unsigned({"alg": ["HS256"]}, right, signature), unsigned({"alg": {"a": 1}}, right, signature),
        unsigned({"alg": "HS256", "crit": ["x"]}, right, signature), unsigned({"alg": "RS256"}, right, signature),
        access.forge(right, b"x" * 32), access.forge(right, b"x" * 64, "HS512"),
        f"{head}.{body}.", f"{head}.{body}", f".{body}.{signature}", f"{head}..{signature}", "..", "...",
        f"{head}.{body}.{signature}x", f"{head}.{body[:-2]}.{signature}",
        unsigned({"alg": "HS256", "typ": "JWT"}, {**right, "sub": "other"}, signature),
    ]  # fmt: skip
    for text in forged:
        assert access.tokens.identify(text) is None, text
    assert access.tokens.identify(good) is not None


async def test_what_is_signed_but_not_as_homed_signs_is_refused(access: Access) -> None:
    holder = await access.holder(Scope.ADMIN)
    right = claims(holder)
    for name in right:
        assert access.tokens.identify(access.forge({k: v for k, v in right.items() if k != name})) is None, name
    for wrong in ({"iss": "other"}, {"scope": "root"}, {"scope": ["admin"]}, {"scope": None}, {"sub": "unknown"},
                  {"exp": "soon"}, {"iat": time.time() + 3600}, {"exp": None}):  # fmt: skip
        assert access.tokens.identify(access.forge({**right, **wrong})) is None, wrong


_TEXTS = st.text(max_size=60) | st.lists(st.text(max_size=20), min_size=3, max_size=3).map(".".join)
_HEADERS = st.dictionaries(
    st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk"]),
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=2)
    | st.sampled_from(["HS256", "none", "RS256"]),
)  # fmt: skip
_BODIES = st.dictionaries(st.sampled_from(["sub", "scope", "exp", "iat", "iss"]), st.integers() | st.text(max_size=5))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_TEXTS | st.builds(unsigned, _HEADERS, _BODIES, st.text("abcAB-_", max_size=6)))
async def test_no_text_is_a_token_by_chance_and_none_makes_it_fail(text: str) -> None:
    keys = Keys(SqliteStore(Path("/nonexistent/never-opened.db")))
    tokens = Tokens(SqliteStore(Path("/nonexistent/never-opened.db")), keys)
    tokens._secret = b"s" * 32
    assert tokens.identify(text) is None
