"""HTTP requests whose URLs go out byte for byte as they were given, redirects too: signed URLs hold no other way.

aiohttp's own way writes URLs anew: `%2F` in a query becomes `/`, `%7E` becomes `~`, and a signature over it is void.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

_PARTS = re.compile(r"(?i)(https?)://([^/?#]*)([/?#].*)?", re.DOTALL)
# The characters of a URL (RFC 3986), and the percent sign of encoded ones.
_LEGAL = "!#$%&'()*+,/:;=?@[]~"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SECRETS = frozenset({"authorization", "cookie", "proxy-authorization"})
_REDIRECTS = (301, 302, 303, 307, 308)


class WrongUrlError(ValueError):
    """The text is not an http or https URL, or cannot be sent."""


def exact(text: str) -> URL:
    """Return the URL as it is written; only what no URL may have (spaces, non-ASCII) is percent-encoded.

    WrongUrlError if it has control characters, or is not of http or https.
    """
    found = _PARTS.fullmatch(text)
    if found is None or not found[2] or _CONTROL.search(text):
        raise WrongUrlError(f"'{_shown(text)}' is not a URL of http or https")
    scheme, authority, rest = found[1], found[2], found[3] or ""
    user, at, host = authority.rpartition("@")
    try:
        ascii_host = host if host.isascii() else host.encode("idna").decode()
        url = URL(f"{scheme.lower()}://{quote(user, safe=_LEGAL)}{at}{ascii_host}{_encoded(rest)}", encoded=True)
        url.port  # noqa: B018  it is looked at with the first use
    except ValueError as error:
        raise WrongUrlError(f"'{_shown(text)}' is not a URL of http or https") from error
    if not url.raw_host:
        raise WrongUrlError(f"'{_shown(text)}' names no host")
    return url


def _shown(text: str) -> str:
    """Return the beginning of it without a user, a password and a query: these may be secrets."""
    text = re.sub(r"//[^/?#]*@", "//", text.partition("?")[0])
    return "".join(char if char.isprintable() else "?" for char in text)[:200]


def _encoded(text: str) -> str:
    return quote(text, safe=_LEGAL)


def target(base: URL, location: str) -> URL:
    """Return where a Location header leads. WrongUrlError."""
    if _CONTROL.search(location):
        raise WrongUrlError("it is sent on to what is no URL")
    if re.match(r"(?i)[a-z][a-z0-9+.-]*:", location):
        return exact(location)
    return exact(str(base.join(URL(_encoded(location), encoded=True))))


def _header(value: str) -> str:
    """Return a header's text; bytes that are no UTF-8, which aiohttp keeps as halves of characters, are replaced."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


async def request(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    max_redirects: int,
    data: bytes | None = None,
    **more: Any,
) -> tuple[aiohttp.ClientResponse, Sequence[URL]]:
    """Make a request and follow redirects; the answer, which the caller closes, and the URLs that were asked, in order.

    A user and password in a URL are for its origin alone. WrongUrlError, aiohttp.TooManyRedirects, and what aiohttp
    raises otherwise.
    """
    hops = [exact(url)]
    fields = dict(headers)
    login = _login(hops[0])
    while True:
        here = hops[-1]
        response = await session.request(
            method, here.with_user(None), headers=login | fields, data=data, allow_redirects=False, **more
        )
        location = response.headers.get("Location")
        if response.status not in _REDIRECTS or location is None:
            return response, hops
        response.release()
        if len(hops) > max_redirects:
            raise aiohttp.TooManyRedirects(response.request_info, (response,))
        there = target(here, _header(location))
        if there.origin() != here.origin():
            fields = {name: value for name, value in fields.items() if name.lower() not in _SECRETS}
            login = {}
        login = _login(there) or login
        if (response.status == 303 and method != "HEAD") or (response.status in (301, 302) and method == "POST"):
            method, data = "GET", None
            fields = {name: value for name, value in fields.items() if not name.lower().startswith("content-")}
        hops.append(there)


def _login(url: URL) -> dict[str, str]:
    if url.raw_user is None and url.raw_password is None:
        return {}
    text = f"{url.user or ''}:{url.password or ''}"
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}
