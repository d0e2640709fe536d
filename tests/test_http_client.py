"""URLs that go out byte for byte, to a server that writes down what it was asked."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import aiohttp
import pytest

from homed.http_client import WrongUrlError, exact, request, target

SIGNED = "/x?sig=a%2Fb%3D%2B&x=1%7E"


class Asked(NamedTuple):
    line: str
    headers: dict[str, str]
    body: bytes


class Server:
    """Answers each path as `answers` has it: a status and a Location; 200 otherwise."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[Asked] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:-2])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.asked.append(Asked(head[0].removesuffix(" HTTP/1.1"), headers, body))
        status, location = self.answers.get(head[0].split()[1], (200, b""))
        extra = b"Location: " + location + b"\r\n" if location else b""
        writer.write(b"HTTP/1.1 %d X\r\n%sContent-Length: 0\r\nConnection: close\r\n\r\n" % (status, extra))
        writer.close()

    def url(self, path: str = "/", user: str = "", host: str = "127.0.0.1") -> str:
        return f"http://{user}{host}:{self.port}{path}"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    async with await asyncio.start_server(made.serve, "127.0.0.1") as listening:
        made.port = listening.sockets[0].getsockname()[1]
        yield made


async def ask(url: str, method: str = "GET", data: bytes | None = None, **headers: str) -> tuple[int, list[str]]:
    async with aiohttp.ClientSession() as session:
        answer, hops = await request(session, method, url, headers=headers, data=data, max_redirects=3)
        answer.close()
        return answer.status, [str(hop) for hop in hops]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (SIGNED, SIGNED), ("/%7Euser/%2e%2E/a%2fb", "/%7Euser/%2e%2E/a%2fb"), ("/a/../b", "/a/../b"),
        ("/x?a=%zz&b=%", "/x?a=%zz&b=%"), ("/x?a+b&a=;,:@!$'()*", "/x?a+b&a=;,:@!$'()*"),
        ("/ä b|c?q=ü é", "/%C3%A4%20b%7Cc?q=%C3%BC%20%C3%A9"),
        ("?q=%2F", "/?q=%2F"), ("", "/"), ("/x#fragment?a", "/x"),
    ],
)  # fmt: skip
async def test_a_url_is_sent_as_it_is_written(server: Server, given: str, sent: str) -> None:
    await ask(server.url(given))
    assert [one.line for one in server.asked] == [f"GET {sent}"]


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        (SIGNED.encode(), SIGNED), (b"y?sig=%2F%7E", "/in/y?sig=%2F%7E"), (b"?only=%2F", "/in/first?only=%2F"),
        (b"/a b?c=d e", "/a%20b?c=d%20e"), ("/ü".encode(), "/%C3%BC"),
        (b"/\xff", "/%EF%BF%BD"), (b"../up?%7E", "/up?%7E"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_as_it_is_written(server: Server, location: bytes, sent: str, status: int) -> None:
    server.answers["/in/first"] = (status, location)
    assert (await ask(server.url("/in/first"))) == (200, [server.url("/in/first"), server.url(sent)])
    assert [one.line for one in server.asked] == ["GET /in/first", f"GET {sent}"]


@pytest.mark.parametrize(
    "url", ["", "x", "/x", "ftp://h/", "http://", "http://:80/", "http://h:99999/", "http://h/\x01", "http://h/\x7f",
            "http://h\n/", "http://h/\x85", "http://[::1/", "file:///etc/passwd", "http://\udcff/"],
)  # fmt: skip
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(WrongUrlError):
        exact(url)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://h/", "javascript:1", "/\x01", "http://h:x/"])
def test_a_redirect_leads_to_http_alone(location: str) -> None:
    with pytest.raises(WrongUrlError):
        target(exact("http://h/"), location)


async def test_redirects_are_counted(server: Server) -> None:
    server.answers["/round"] = (302, b"/round")
    with pytest.raises(aiohttp.TooManyRedirects):
        await ask(server.url("/round"))
    assert len(server.asked) == 4


async def test_a_posted_body_is_sent_again_only_if_the_status_says_so(server: Server) -> None:
    for status, again in ((301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")):
        server.asked.clear()
        server.answers["/from"] = (status, b"/to")
        await ask(server.url("/from"), "POST", b"body", **{"Content-Type": "text/plain"})
        assert [(one.line, one.body) for one in server.asked] == [
            ("POST /from", b"body"), (f"{again} /to", b"body" if again == "POST" else b""),
        ]  # fmt: skip
        assert server.asked[1].headers.get("content-type", "") == ("text/plain" if again == "POST" else "")


async def test_a_login_stays_at_its_origin(server: Server) -> None:
    server.answers["/near"] = (302, b"/end")
    server.answers["/far"] = (302, server.url("/end", host="localhost").encode())
    await ask(server.url("/near", user="me:p%40ss@"))
    await ask(server.url("/far", user="me:p%40ss@"), Cookie="a=b")
    await ask(server.url("/far"), Authorization="Bearer x")
    assert [one.headers.get("authorization", "") for one in server.asked] == [
        "Basic bWU6cEBzcw==", "Basic bWU6cEBzcw==", "Basic bWU6cEBzcw==", "", "Bearer x", "",
    ]  # fmt: skip
    assert ["cookie" in one.headers for one in server.asked] == [False, False, True, False, False, False]
