"""The types of tasks, and what the payload of each must be."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from homed.errors import FieldError, ValidationError
from homed.validation import convert

LONGEST_EXPRESSION = 10_000
_DAY = 86_400.0
# What Linux takes as one argument of a program, or one variable of its environment, with a zero byte at its end.
_MAX_ARGUMENT_BYTES = (128 << 10) - 1
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
# A tab or what can be seen: all else ends a header's line, or is read differently by different servers.
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,8192}")
_URL = re.compile(r"(?i)https?://(\[[0-9a-f:.]+\]|[^\s/?#\\@:[\]]+)(:[0-9]{1,5})?([/?#][^\s\\]*)?")
# What is between one connection's two ends, and what homed says of the request itself.
_REFUSED_HEADERS = frozenset({
    "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length", "expect",
    "http2-settings",
})  # fmt: skip
_Text = Annotated[str, Meta(max_length=65_536)]
_Strings = Annotated[dict[str, str], Meta(max_length=128)]


class Echo(msgspec.Struct, frozen=True):
    """Anything is answered as it is."""


class Sleep(msgspec.Struct, frozen=True):
    """`duration` in seconds."""

    duration: Annotated[float, Meta(ge=0)]

    def __post_init__(self) -> None:
        if not math.isfinite(self.duration):
            raise ValidationError([FieldError("duration", "must be finite")])


class SystemInfo(msgspec.Struct, frozen=True):
    """Nothing is asked."""


class HttpRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request, with redirects followed. `body` is sent as it is, `json` as JSON; `timeout` (seconds) is for all."""

    url: Annotated[str, Meta(max_length=8192)]
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    headers: _Strings = {}
    body: Annotated[str, Meta(max_length=1 << 20)] | None = None
    json: Any = msgspec.UNSET
    timeout: Annotated[float, Meta(gt=0, le=_DAY)] = 30.0

    def __post_init__(self) -> None:
        if errors := [*_url_errors(self.url), *_header_errors(self.headers), *self._body_errors()]:
            raise ValidationError(errors)

    def _body_errors(self) -> Sequence[FieldError]:
        if self.body is not None and self.json is not msgspec.UNSET:
            return [FieldError("json", "must not be given beside body")]
        return []


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line for the shell; with `args` as a list, a program that gets them as they are, with no shell between."""

    command: _Text
    args: str | Annotated[list[_Text], Meta(max_length=1024)] = ""
    env: _Strings = {}
    cwd: Annotated[str, Meta(max_length=4096)] = ""

    def __post_init__(self) -> None:
        errors = []
        if not self.command.strip():
            errors.append(FieldError("command", "must not be empty"))
        arguments = [self.args] if isinstance(self.args, str) else self.args
        for field, texts in (("command", [self.command]), ("args", arguments), ("cwd", [self.cwd])):
            if any(not _fits(text) for text in texts):
                errors.append(FieldError(field, "must be text without a null character in it"))
        if self.cwd and not self.cwd.startswith("/"):
            errors.append(FieldError("cwd", "must be an absolute path"))
        line = f"{self.command} {self.args}" if isinstance(self.args, str) else self.command
        if _is_long(line):
            errors.append(FieldError("command", f"must have at most {_MAX_ARGUMENT_BYTES} bytes, with its args"))
        if isinstance(self.args, list) and any(_is_long(text) for text in self.args):
            errors.append(FieldError("args", f"must have at most {_MAX_ARGUMENT_BYTES} bytes each"))
        for name, value in self.env.items():
            if not name or "=" in name or not _fits(name + value):
                errors.append(FieldError(f"env.{name[:64]}", "is no variable of an environment"))
            elif _is_long(f"{name}={value}"):
                errors.append(FieldError(f"env.{name[:64]}", f"must have at most {_MAX_ARGUMENT_BYTES} bytes"))
        if errors:
            raise ValidationError(errors)


class PythonEval(msgspec.Struct, frozen=True):
    expression: Annotated[str, Meta(max_length=LONGEST_EXPRESSION)]

    def __post_init__(self) -> None:
        if not self.expression.strip() or not _fits(self.expression):
            raise ValidationError([FieldError("expression", "must be an expression of Python")])


class Field(NamedTuple):
    """Of a payload; `type` as in JSON."""

    name: str
    type: str
    required: bool
    description: str


class TaskType(NamedTuple):
    name: str
    description: str
    payload: type[msgspec.Struct]
    fields: Sequence[Field]


TYPES: Mapping[str, TaskType] = {
    one.name: one
    for one in (
        TaskType("echo", "Answers the payload as it is", Echo, ()),
        TaskType("sleep", "Waits", Sleep, (Field("duration", "number", True, "Seconds"),)),
        TaskType("system_info", "Tells what this board is and has", SystemInfo, ()),
        TaskType(
            "http_request",
            "Makes one HTTP request, redirects followed",
            HttpRequest,
            (
                Field("url", "string", True, "Of http or https, without a user and password"),
                Field("method", "string", False, "GET (the default), HEAD, POST, PUT, PATCH, DELETE or OPTIONS"),
                Field("headers", "object", False, "Of the request, by name"),
                Field("body", "string", False, "Sent as it is"),
                Field("json", "any", False, "Sent as JSON"),
                Field("timeout", "number", False, "Seconds for all of it (30)"),
            ),
        ),
        TaskType(
            "command",
            "Runs a shell command",
            Command,
            (
                Field("command", "string", True, "A line for /bin/sh; with a list of args, a program"),
                Field("args", "array", False, "A list: the program's arguments, with no shell; a string: appended"),
                Field("env", "object", False, "Added to its environment"),
                Field("cwd", "string", False, "The folder in which it begins (one of its own)"),
            ),
        ),
        TaskType(
            "python_eval",
            "Evaluates an expression of Python, which reaches nothing outside",
            PythonEval,
            (Field("expression", "string", True, "Such as sum(x * x for x in range(10))"),),
        ),
    )
}


def check(kind: str, payload: object, allowed: Collection[str]) -> dict[str, Any]:
    """The payload as a task of this type takes it. ValidationError names its fields as `payload.duration`.

    What a type does not know is kept, and does nothing.
    """
    known = TYPES.get(kind)
    if known is None:
        raise ValidationError([FieldError("task_type", f"must be one of {', '.join(TYPES)}")])
    if kind not in allowed:
        raise ValidationError([FieldError("task_type", f"{kind} is not allowed on this board: see jobs.task_types")])
    if not isinstance(payload, Mapping):
        raise ValidationError([FieldError("payload", "must be an object")])
    try:
        taken = convert(_as_known(kind, payload), known.payload)
    except ValidationError as error:
        raise ValidationError([FieldError(f"payload.{e.field}", e.message) for e in error.errors]) from error
    # As it was taken, also where that is the default: what was given may be another form of it.
    given = {name: getattr(taken, name) for name in known.payload.__struct_fields__ if name in payload}
    return {**payload, **msgspec.to_builtins(given)}


def _as_known(kind: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Methods are written in either case."""
    if kind == "http_request" and isinstance(payload.get("method"), str):
        return {**payload, "method": payload["method"].upper()}
    return payload


def _url_errors(url: str) -> Sequence[FieldError]:
    if not url.isprintable() or not _fits(url) or not _URL.fullmatch(url):
        return [FieldError("url", "must be a URL of http or https, without a user and password")]
    return []


def _header_errors(headers: Mapping[str, str]) -> Sequence[FieldError]:
    errors = []
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            errors.append(FieldError(f"headers.{name[:64]}", "is no header of HTTP"))
        elif name.lower() in _REFUSED_HEADERS or name.lower().startswith("proxy-"):
            errors.append(FieldError(f"headers.{name}", "must not be given"))
    return errors


def _is_long(text: str) -> bool:
    return len(text) * 4 > _MAX_ARGUMENT_BYTES and len(text.encode(errors="replace")) > _MAX_ARGUMENT_BYTES


def _fits(text: str) -> bool:
    """Whether a program can be given it: no zero byte, no half of a character."""
    return "\0" not in text and not re.search("[\ud800-\udfff]", text)
