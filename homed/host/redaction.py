"""A safety net under the logs: what looks like a secret is masked, whoever put it there.

It knows forms, not values: keys of homed, JWTs, credentials in headers and URLs, and what is assigned to a
name that says "password". Code that logs must still not log secrets.
"""

import re

MASK = "***"

# No possessive quantifiers: those of Python 3.11.2 (Debian 12) match wrongly on groups.
# Each rule takes time linear in the text (a hostile path can be 8 KB): a run of characters is matched once,
# as a whole, and what turns out to be harmless is put back as it was.
_KEY = re.compile(r"hk_([A-Za-z0-9-]+)_[^\s\"'\\,;)&<>\]}]+")
_DOTTED = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*")
_AGE = re.compile(r"(AGE-SECRET-KEY-(?:PQ-)?1)[A-Z0-9]+", re.IGNORECASE)
_USERINFO = re.compile(r"://([^\s/:@]*):[^\s/]*@")
_BEARER = re.compile(r"(\bBearer\s+)([^\s\"'\\,;)]+)", re.IGNORECASE)
_NAMED = re.compile(
    r"""
    (?P<name>
        (?:proxy-)?authorization | x-api-key | api[-_]?key
        | password | passwd | passphrase | secret | (?:secret|private)(?:_access)?_key
        | (?:access|refresh|auth|join|api|bearer)_token
    )
    (?P<between>                                        # `=`, `":`, and `', b'` as raw headers are printed
        (?: \\*["']? \s*[:=]\s* | \\*["'] \s*,\s* ) (?: b(?=["']) )?
    )
    (?:
        (?P<quote> \\*["'])
        (?P<scheme> (?:(?:Bearer|Basic|Digest|Token)\s+)? )
        (?P<quoted> (?: (?!(?P=quote)) (?:\\.|.) )* )       # up to the same quote, over any that is escaped
        |
        (?P<bare_scheme> (?:(?:Bearer|Basic|Digest|Token)\s+)? )
        (?P<bare> [^ \t\r\n]+ )
    )
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_KEY_MASKED = re.compile(r"hk_[A-Za-z0-9-]+_\*\*\*")
_SECRET_NAMES = frozenset(
    {"password", "passwd", "passphrase", "secret", "secret_key", "private_key", "api_key", "x_api_key"}
    | {"authorization", "cookie", "token", "access_token", "refresh_token", "auth_token", "join_token"}
)


def redact(text: str) -> str:
    """The text with each secret's value as `***`; a homed key keeps its id (`hk_<id>_***`)."""
    if is_plain(text):
        return text
    text = _KEY.sub(rf"hk_\1_{MASK}", text)
    if "eyJ" in text:
        text = _DOTTED.sub(_mask_jwt, text)
    text = _AGE.sub(rf"\1{MASK}", text)
    text = _NAMED.sub(_mask_named, text)
    text = _BEARER.sub(_mask_bearer, text)
    return _USERINFO.sub(rf"://\1:{MASK}@", text)


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret whatever its value looks like."""
    return name.lower().replace("-", "_") in _SECRET_NAMES


def is_plain(text: str) -> bool:
    """Whether a text holds nothing that could announce a secret."""
    # Plain searches: one regular expression of the same alternatives takes far longer, on every line logged.
    lower = text.lower()
    return not (
        "hk_" in text
        or "eyJ" in text
        or "pass" in lower
        or "authorization" in lower
        or "bearer" in lower
        or "secret" in lower
        or "_key" in lower
        or "-key" in lower
        or "apikey" in lower
        or "_token" in lower
        or ("://" in text and "@" in text)
    )


def _mask_jwt(match: re.Match[str]) -> str:
    before, begins, after = match[0].partition("eyJ")
    return f"{before}eyJ{MASK}" if begins and after.count(".") >= 2 else match[0]


def _mask_bearer(match: re.Match[str]) -> str:
    return match[1] + _masked(match[2])


def _masked(value: str) -> str:
    # A homed key keeps the id that its own rule left it.
    return value if _KEY_MASKED.fullmatch(value) else MASK


def _mask_named(match: re.Match[str]) -> str:
    quote, value = match["quote"] or "", match["quoted"] if match["quote"] else match["bare"]
    scheme = match["scheme"] or match["bare_scheme"] or ""
    return f"{match['name']}{match['between']}{quote}{scheme}{_masked(value)}"
