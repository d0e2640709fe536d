import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from homed.host.records import journal_fields, json_line, terminal_line, timestamp


def record(
    text: str = "pulled", *args: object, level: int = logging.INFO, fields: Mapping[str, object] | None = None
) -> logging.LogRecord:
    made = logging.LogRecord("homed.containers", level, "/srv/engine.py", 42, text, args, None, "pull")
    if fields is not None:
        made.fields = fields
    return made


def raised(error: Exception) -> logging.LogRecord:
    try:
        raise error
    except Exception:
        return logging.LogRecord("homed", logging.ERROR, "/srv/a.py", 1, "failed", (), sys.exc_info())


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = json_line(made)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return dict(msgspec.json.decode(line))


def as_journal(made: logging.LogRecord) -> dict[str, str]:
    return dict(each.split("=", 1) for each in journal_fields(made, "homed"))


def test_a_json_line_has_time_level_logger_and_message() -> None:
    made = record("pulled %s", "web")
    made.created = 1_700_000_000.0999
    assert as_json(made) == {
        "timestamp": "2023-11-14T22:13:20.099Z",
        "level": "INFO",
        "logger": "homed.containers",
        "message": "pulled web",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1.9996, "1970-01-01T00:00:01.999Z"),
        (5.123, "1970-01-01T00:00:05.123Z"),
    ],
)
def test_a_timestamp_is_cut_to_milliseconds(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text


def test_fields_stand_beside_the_message_in_json() -> None:
    fields = {
        "REQUEST_ID": "r1",
        "status_code": 200,
        "duration_ms": 1.5,
        "cached": True,
        "peer": None,
        "ports": (1, 2),
    }
    read = as_json(record(fields=fields))
    assert (read["request_id"], read["status_code"], read["duration_ms"]) == ("r1", 200, 1.5)
    assert (read["cached"], read["peer"], read["ports"]) == (True, None, [1, 2])


def test_a_field_cannot_take_the_place_of_the_message() -> None:
    read = as_json(record(fields={"message": "forged", "Level": "x"}))
    assert (read["message"], read["field_message"], read["field_level"]) == ("pulled", "forged", "x")
    sent = as_journal(record(fields={"message": "forged", "priority": 0}))
    assert (sent["MESSAGE"], sent["FIELD_MESSAGE"], sent["PRIORITY"]) == ("pulled", "forged", "6")


def test_the_journal_gets_its_own_fields() -> None:
    assert as_journal(record(fields={"request_id": "r1", "status_code": 404, "peer": None, "ports": [1]})) == {
        "MESSAGE": "pulled",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "homed",
        "LOGGER": "homed.containers",
        "CODE_FILE": "/srv/engine.py",
        "CODE_LINE": "42",
        "CODE_FUNC": "pull",
        "REQUEST_ID": "r1",
        "STATUS_CODE": "404",
        "PORTS": "[1]",
    }


def test_a_name_that_journald_would_drop_is_changed() -> None:
    fields = {"_pid": 1, "9lives": 2, "http.path": 3, "x" * 80: 4, "é": 5}
    sent = as_journal(record(fields=fields))
    assert (sent["PID"], sent["FIELD_9LIVES"], sent["HTTP_PATH"], sent["X" * 64]) == ("1", "2", "3", "4")
    assert sent["FIELD_"] == "5"


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, "7"),
        (logging.INFO, "6"),
        (logging.WARNING, "4"),
        (logging.ERROR, "3"),
        (logging.CRITICAL, "2"),
    ],
)
def test_priorities_are_syslogs(level: int, priority: str) -> None:
    assert as_journal(record(level=level))["PRIORITY"] == priority


def test_an_exception_is_a_field_and_in_the_journal_also_under_the_message() -> None:
    made = raised(ValueError("no such slot"))
    assert as_json(made)["exception"].endswith("ValueError: no such slot")
    sent = as_journal(made)
    assert sent["EXCEPTION_TEXT"].startswith("Traceback")
    assert sent["MESSAGE"] == "failed\n" + sent["EXCEPTION_TEXT"]


def test_secrets_are_masked_in_message_fields_and_exception() -> None:
    secret = "Zm9vYmFyYmF6"
    made = raised(ValueError(f"password={secret}"))
    made.msg, made.args = "key %s", (f"hk_a1_{secret}",)
    made.fields = {
        "token": secret,
        "url": f"nats://u:{secret}@h",
        "headers": {"X-API-Key": secret, "list": [f"Bearer {secret}"]},
        "object": ValueError(f"secret={secret}"),
    }
    assert secret not in json_line(made).decode()
    assert secret not in "".join(journal_fields(made, "homed"))
    assert as_json(made)["message"] == "key hk_a1_***"


def test_arguments_that_cannot_be_formatted_do_not_lose_the_record() -> None:
    assert as_json(record("%d files", "many"))["message"].startswith("%d files [its arguments cannot be formatted")


def test_an_object_that_cannot_be_printed_does_not_lose_the_record() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    assert as_json(record(fields={"it": Broken()}))["it"] == "[Broken cannot be printed: RuntimeError]"


def test_bytes_that_are_no_utf_8_are_escaped() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert as_json(record("read %s", name, fields={"file": name}))["file"] == "caf\\udce9"
    assert as_journal(record("read %s", name))["MESSAGE"] == "read caf\\udce9"


def test_a_field_that_holds_itself_ends() -> None:
    loop: dict[str, object] = {}
    loop["again"] = loop
    assert "again" in json_line(record(fields=loop)).decode()


def test_the_journal_shows_the_sentence_of_a_record_and_json_its_message() -> None:
    made = record("Request processed")
    made.sentence = "GET /x?token=hk_abc_secretsecret 200 1 ms"
    assert as_journal(made)["MESSAGE"] == "GET /x?token=hk_abc_*** 200 1 ms"
    assert as_json(made)["message"] == "Request processed"


def test_a_line_for_a_terminal_has_time_level_and_sentence_without_control_characters() -> None:
    made = record("Request processed")
    made.sentence = "GET /\x1b[2J 200 1 ms"
    assert re.fullmatch(r"\d\d:\d\d:\d\d GET /\\x1b\[2J 200 1 ms\n", terminal_line(made))
    warned = record("disk is full")
    warned.levelno, warned.levelname = logging.WARNING, "WARNING"
    assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING disk is full\n", terminal_line(warned))
