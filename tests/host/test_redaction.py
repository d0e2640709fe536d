import base64
import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.host.redaction import is_secret_name, redact

URLSAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
secrets = st.text(URLSAFE, min_size=12, max_size=60).map(lambda text: f"Zq9{text}9qZ")
passwords = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=8, max_size=40).map(
    lambda text: f"Zq9{text}9qZ"
)
around = st.text(max_size=30).filter(lambda text: "Zq9" not in text)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("Authorization: Basic dXNlcjpwYXNz more", "Authorization: Basic *** more"),
        ("X-API-Key: hk_a1_secret", "X-API-Key: hk_a1_***"),
        ("x-api-key: whatever", "x-api-key: ***"),
        ("Bearer hk_a1_secret", "Bearer hk_a1_***"),
        ("key hk_a1_sec_ret-9 was used", "key hk_a1_*** was used"),
        ("hk_a1_***real", "hk_a1_***"),
        ("(b'authorization', b'Bearer xyz')", "(b'authorization', b'Bearer ***')"),
        ("{'Authorization': 'Bearer xyz', 'a': 1}", "{'Authorization': 'Bearer ***', 'a': 1}"),
        ('{"password": "a\\"b c", "user": "x"}', '{"password": "***", "user": "x"}'),
        (r"{\"password\":\"x y\",\"u\":1}", r"{\"password\":\"***\",\"u\":1}"),
        ("RESTIC_PASSWORD=hunter2 restic", "RESTIC_PASSWORD=*** restic"),
        ("password=bob", "password=***"),
        ("nats://u:p@ss@host:4222/x", "nats://u:***@host:4222/x"),
        ("opened by AGE-SECRET-KEY-1QQPZRY9X8 here", "opened by AGE-SECRET-KEY-1*** here"),
        ("X-Backup-Passphrase: correct%20horse", "X-Backup-Passphrase: ***"),
        ("from eyJhbGciOi.eyJzdWIi.sig-_x end", "from eyJ*** end"),
    ],
)
def test_a_secret_is_masked_and_the_rest_kept(text: str, masked: str) -> None:
    assert redact(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "wrong password, retrying",
        "POST /api/v1/auth/login 200",
        "http://127.0.0.1:8080/x?mail=a@b.c",
        "ssh://pi@board/path",
        "eyJ is how a token begins. Really.",
        "the api key was made",
        "hk_ is the prefix",
        "fencing token: 7",
    ],
)
def test_what_holds_no_secret_is_left_alone(text: str) -> None:
    assert redact(text) == text


@given(around, secrets, around)
def test_a_key_of_homed_never_survives(before: str, secret: str, after: str) -> None:
    masked = redact(f"{before}hk_ab12_{secret}{after}")
    assert secret not in masked


@given(around, st.dictionaries(st.text(max_size=8), st.text(max_size=20)), secrets)
def test_a_jwt_never_survives(before: str, claims: dict[str, str], signature: str) -> None:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    token = f"{part({'alg': 'HS256'})}.{part({'x': claims})}.{signature}"
    masked = redact(f"{before}{token} end")
    assert signature not in masked
    assert token.split(".")[1] not in masked or "{}" in str(claims)


@pytest.mark.parametrize("name", ["password", "PASSWORD", "DB_PASSWORD", "api_key", "access_token", "client_secret"])
@given(secret=passwords)
def test_a_named_secret_never_survives_however_it_is_written(name: str, secret: str) -> None:
    # Most of its characters gone is not enough: no stretch of it may stand.
    for text in (
        f"{name}={secret} tail",
        f"{name}: {secret}",
        json.dumps({name: secret, "a": 1}),
        json.dumps({name: secret}, ensure_ascii=False, separators=(",", ":")),
        json.dumps(json.dumps({name: secret.replace('"', "").replace("\\", "")})),
        repr({name: secret}),
    ):
        masked = redact(text)
        assert "Zq9" not in masked
        assert "9qZ" not in masked


@given(user=st.text(URLSAFE, max_size=8), secret=st.text(URLSAFE + "!$&'()*+,;=:%@", min_size=1, max_size=30))
def test_a_password_in_a_url_never_survives(user: str, secret: str) -> None:
    secret = f"Zq9{secret}9qZ"
    masked = redact(f"cannot reach nats://{user}:{secret}@10.0.0.2:4222/a")
    assert "Zq9" not in masked
    assert "9qZ" not in masked
    # A user's name that itself announces a secret (`APIKEY:`) has what follows it masked to the end of the word.
    announces = re.search("key|pass|secret|token|authorization", user, re.IGNORECASE)
    assert announces or masked.endswith("@10.0.0.2:4222/a")


@given(st.text())
def test_redacting_twice_is_redacting_once(text: str) -> None:
    assert redact(redact(text)) == redact(text)


HOSTILE = [
    "eyJ" * 20000,
    "eyJ." * 15000,
    "x-" * 30000 + "secret eyJ",
    "hk_" * 20000,
    "hk_" + "a" * 60000,
    "password" * 8000,
    "password:" * 8000,
    "password " + " " * 60000,
    'password="' + "\\" * 60000,
    "password" + "\\" * 60000,
    "Bearer " * 8000,
    "Bearer" + " " * 60000,
    "://a:" * 10000 + "@",
    "a://" * 10000 + "@",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:10])
def test_a_hostile_text_of_60_kilobytes_takes_no_longer_than_others(text: str) -> None:
    started = time.perf_counter()
    redact(text)
    assert time.perf_counter() - started < 0.5


def test_an_ordinary_access_log_line_costs_at_most_microseconds() -> None:
    line = 'GET /api/v1/containers/web/stats?stream=false 200 in 12.4 ms from 192.168.1.40 "curl/8.5.0" 0193f2a8'
    best = min(_seconds(line) for _ in range(20))
    assert best < 5e-6


def _seconds(line: str) -> float:
    started = time.perf_counter()
    for _ in range(1000):
        redact(line)
    return (time.perf_counter() - started) / 1000


def test_a_field_named_for_a_secret_is_known_by_its_name() -> None:
    assert is_secret_name("X-API-Key")
    assert is_secret_name("PASSWORD")
    assert not is_secret_name("token_id")
