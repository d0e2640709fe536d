"""Formats of a log record: a JSON line, the journal's fields, a line for a terminal. They run in the log's own thread.

A record may carry `fields` (a mapping) and `sentence`: what people read in place of the message, in the journal and on
a terminal.
"""

import logging
import math
import re
import time
import traceback
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from homed.host.redaction import MASK, is_plain, is_secret_name, redact

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7
_JSON_OWN = frozenset({"timestamp", "level", "logger", "message", "exception"})
_JOURNAL_OWN = frozenset(
    {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "LOGGER", "EXCEPTION_TEXT"} | {"CODE_FILE", "CODE_LINE", "CODE_FUNC"}
)
_NOT_IN_A_FIELD_NAME = re.compile(r"[^A-Z0-9]+")
_LONGEST_FIELD_NAME = 64
# C0 and C1 controls but for tab and line feed.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DEEPEST = 8
_SIMPLE = frozenset({str, int, float, bool, type(None)})


def json_line(record: logging.LogRecord) -> bytes:
    """One object and a line's end; the record's fields in lower case beside homed's own."""
    return _plain_line(record) or _careful_line(record)


def _plain_line(record: logging.LogRecord) -> bytes | None:
    """The line of a record that holds nothing to hide or to escape, as nearly all do: looked at once, as a whole."""
    fields = getattr(record, "fields", None)
    if record.exc_info or record.exc_text or record.stack_info or record.args or type(fields) is not dict:
        return None
    line: dict[str, object] = {
        "timestamp": timestamp(record.created),
        "level": record.levelname,
        "logger": record.name,
        "message": record.msg,
    }
    for name, value in fields.items():
        if type(value) not in _SIMPLE or not _is_plain_name(name):
            return None
        line[name] = value
    try:
        encoded = msgspec.json.encode(line)
        return encoded + b"\n" if is_plain(encoded.decode("ascii")) else None
    except (UnicodeError, TypeError):
        return None


@lru_cache(256)
def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and name == name.lower() and name not in _JSON_OWN and not is_secret_name(name)


def _careful_line(record: logging.LogRecord) -> bytes:
    line: dict[str, object] = {
        "timestamp": timestamp(record.created),
        "level": record.levelname,
        "logger": record.name,
        "message": message(record),
    }
    for name, value in _fields(record).items():
        key = name.lower()
        line[f"field_{key}" if key in _JSON_OWN else key] = _clean(name, value)
    if exception := exception_text(record):
        line["exception"] = exception
    return msgspec.json.encode(line) + b"\n"


def journal_fields(record: logging.LogRecord, identifier: str) -> list[str]:
    """`NAME=value` as sd_journal_sendv(3) takes it; a traceback follows the message, for journalctl."""
    text, exception = sentence(record), exception_text(record)
    sent = [
        f"MESSAGE={text}\n{exception}" if exception else f"MESSAGE={text}",
        f"PRIORITY={_priority(record.levelno)}",
        f"SYSLOG_IDENTIFIER={identifier}",
        f"LOGGER={_encodable(record.name)}",
        f"CODE_FILE={_encodable(record.pathname)}",
        f"CODE_LINE={record.lineno}",
        f"CODE_FUNC={_encodable(record.funcName or '')}",
    ]
    if exception:
        sent.append(f"EXCEPTION_TEXT={exception}")
    for name, value in _fields(record).items():
        if value is not None:
            sent.append(f"{_journal_name(name)}={_journal_value(_clean(name, value))}")
    return sent


def terminal_line(record: logging.LogRecord) -> str:
    """Return a line for a person at a terminal: local time, level if it is not INFO, the sentence, any traceback."""
    clock = time.strftime("%H:%M:%S", time.localtime(record.created))
    level = "" if record.levelno == logging.INFO else f"{record.levelname} "
    exception = exception_text(record)
    return f"{clock} {level}{printable(sentence(record))}\n" + (f"{printable(exception)}\n" if exception else "")


def printable(text: str) -> str:
    """Return the text with control characters escaped: foreign text must not command the terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def sentence(record: logging.LogRecord) -> str:
    """Return the record's `sentence`, or its message if it has none."""
    text = getattr(record, "sentence", None)
    return redact(_encodable(text)) if isinstance(text, str) else message(record)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds (cut: no time lies in the future), from seconds since 1970."""
    whole, milliseconds = divmod(math.floor(seconds * 1000), 1000)
    return f"{_second(whole)}.{milliseconds:03d}Z"


@lru_cache(2)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


def message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as error:  # noqa: BLE001 - arguments are anyone's objects; the record must not be lost for them
        text = f"{record.msg} [its arguments cannot be formatted: {type(error).__name__}]"
    return redact(_encodable(text))


def exception_text(record: logging.LogRecord) -> str:
    """The traceback, "" without one."""
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(record.stack_info)
    return redact(_encodable("\n".join(parts)))


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, Mapping) else {}


def _clean(name: str, value: object, depth: int = 0) -> object:
    """The value as JSON has it, without secrets."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return MASK if is_secret_name(name) and value else redact(_encodable(value))
    if isinstance(value, Mapping) and depth < _DEEPEST:
        return {_encodable(str(key)): _clean(str(key), item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth < _DEEPEST:
        return [_clean(name, item, depth + 1) for item in value]
    return _clean(name, _printed(value))


def _printed(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - as in `message`
        return f"[{type(value).__name__} cannot be printed: {type(error).__name__}]"


def _encodable(text: str) -> str:
    """File names may hold bytes that are not UTF-8 (lone surrogates here): escaped, no output takes them."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), _DEBUG_PRIORITY)


def _journal_name(name: str) -> str:
    """journald drops a field whose name begins with `_` or a digit, or is longer than 64."""
    upper = _NOT_IN_A_FIELD_NAME.sub("_", name.upper()).strip("_")
    if not upper or upper[0].isdigit() or upper in _JOURNAL_OWN:
        upper = f"FIELD_{upper}"
    return upper[:_LONGEST_FIELD_NAME]


def _journal_value(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
