"""Who may speak to the API at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.api import guard

NAMES = guard.board_names("Board.Example.org", ["Edge.example"])


@pytest.mark.parametrize(
    "host",
    ["board.example.org", "BOARD.example.org:8080", "board", "board.local", "edge.example", "localhost", "localhost:1",
     "app.localhost", "127.0.0.1", "127.0.0.1:8080", "192.168.1.7", "[::1]", "[::1]:80", "[fe80::1]:8080", " board "],
)  # fmt: skip
def test_a_name_of_the_board_or_an_address_is_allowed(host: str) -> None:
    assert guard.host_allowed(host, NAMES)


@pytest.mark.parametrize(
    "host",
    ["", " ", ":", ":80", "evil.example", "board.example.org.evil", "evil-board", "127.0.0.1.evil.example", "127.1",
     "0x7f.0.0.1", "2130706433", "localhost.evil.example", "notlocalhost", "board:80:80", "board:x", "board:80@evil",
     "evil@board", "board/evil", "[evil.example]", "[::1", "::1", "[", "]", "board.", "\xff", "board\x00"],
)  # fmt: skip
def test_anything_else_is_not(host: str) -> None:
    assert not guard.host_allowed(host, NAMES)


@given(st.text(max_size=40))
def test_no_host_raises_and_none_is_let_in_by_chance(host: str) -> None:
    name = guard.host_name(host)
    if guard.host_allowed(host, frozenset()):
        assert name == "localhost" or name.endswith(".localhost") or set(name) <= set("0123456789abcdef:.%")


@given(
    name=st.from_regex(r"[a-z0-9-]{1,10}(\.[a-z0-9-]{1,10}){0,3}", fullmatch=True),
    port=st.none() | st.integers(0, 65535),
)
def test_a_foreign_name_is_refused_whatever_its_port(name: str, port: int | None) -> None:
    if name not in NAMES and not name.endswith("localhost") and not name.replace(".", "").isdigit():
        assert not guard.host_allowed(name if port is None else f"{name}:{port}", NAMES)


def test_the_same_origin_is_allowed() -> None:
    assert guard.origin_allowed("http://board:8080", "board:8080", "http", ())
    assert guard.origin_allowed("https://Board", "board", "https", ())


@pytest.mark.parametrize(
    "origin",
    ["null", "", "http://", "http://board", "http://board:8081", "https://board:8080", "http://evil:8080", "http://[",
     "http://board:8080@evil", "http://evil@board:8080", "ftp://board:8080", "board:8080", "//board:8080",
     "file:///board:8080", "http://board:8080.evil"],
)  # fmt: skip
def test_another_origin_is_not(origin: str) -> None:
    assert not guard.origin_allowed(origin, "board:8080", "http", ())


def test_an_origin_on_the_list_is_allowed_as_it_stands_there() -> None:
    allowed = ("https://ui.example",)
    assert guard.origin_allowed("https://ui.example", "board", "http", allowed)
    assert not guard.origin_allowed("https://ui.example.evil", "board", "http", allowed)
    assert not guard.origin_allowed("http://ui.example", "board", "http", allowed)


@given(st.text(max_size=40), st.text(max_size=20))
def test_no_origin_raises(origin: str, host: str) -> None:
    allowed = guard.origin_allowed(origin, host, "http", ())
    assert not allowed or origin.lower().startswith("http://")
