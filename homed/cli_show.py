"""What commands share: the files they are given, tables, trees, and how an operation goes until its end."""

import getpass
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from homed.control import Control, NotRunningError, RefusedError
from homed.errors import HomedError

_FIRST, _EVERY = 0.1, 1.0
_AWAY = 90.0
_UNITS = ("B", "KB", "MB", "GB", "TB")
Operation = Mapping[str, Any]


class Show(Protocol):
    """What tells of the operation under way, and of its end."""

    def progress(self, operation: Operation) -> None: ...

    def end(self) -> None: ...


def follow(
    control: Control,
    id: str,
    show: Show,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Operation:
    """The operation, ended. homed may be started anew meanwhile: NotRunningError where it stays away."""
    pause, seen = _FIRST, monotonic()
    try:
        while True:
            try:
                operation = _find(control, id)
            except NotRunningError:
                if monotonic() - seen > _AWAY:
                    raise
            else:
                seen = monotonic()
                if operation["state"] != "running":
                    return operation
                show.progress(operation)
            sleep(pause)
            pause = min(_EVERY, pause * 2)
    finally:
        show.end()


def _find(control: Control, id: str) -> Operation:
    answer: Operation = control.get("backups", "operations", id)
    return answer


def outcome(operation: Operation) -> None:
    """RefusedError where it did not succeed."""
    if operation["state"] != "succeeded":
        failure = operation.get("failure") or {}
        raise RefusedError(failure.get("message", f"it was {operation['state']}"), code=failure.get("code"))


class Silent:
    def progress(self, operation: Operation) -> None:
        pass

    def end(self) -> None:
        pass


class Line:
    """One line of a terminal, written over and over."""

    def __init__(self, out: TextIO | None = None):
        self._out = out or sys.stderr
        self._longest = 0

    def progress(self, operation: Operation) -> None:
        text = describe(operation)[: _width() - 1]
        self._longest = max(self._longest, len(text))
        self._out.write(f"\r{text.ljust(self._longest)}")
        self._out.flush()

    def end(self) -> None:
        if self._longest:
            self._out.write(f"\r{' ' * self._longest}\r")
            self._out.flush()


class Lines:
    """A line for each part of the work, for a journal or a file."""

    def __init__(self, out: TextIO | None = None):
        self._out = out or sys.stderr
        self._said = ""

    def progress(self, operation: Operation) -> None:
        progress = operation["progress"]
        text = _part(operation["kind"], progress)
        if text != self._said:
            self._said = text
            print(text, file=self._out, flush=True)

    def end(self) -> None:
        pass


def describe(operation: Operation) -> str:
    """`create: capturing web, 12.3 MB of 1.0 GB, 120 files, 12 %, 8 s left`."""
    progress = operation["progress"]
    parts = [_part(operation["kind"], progress)]
    if progress.get("bytes"):
        total = progress.get("bytes_total")
        parts.append(size(progress["bytes"]) + (f" of {size(total)}" if total else ""))
    if progress.get("files"):
        parts.append(f"{progress['files']} files")
    if progress.get("percent") is not None:
        parts.append(f"{progress['percent']:.0f} %")
    if progress.get("remaining") is not None:
        parts.append(f"{span(progress['remaining'])} left")
    return ", ".join(parts)


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def span(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def moment(text: str | None) -> str:
    """Of what the API shows, as much as people want."""
    return "-" if text is None else f"{text[:10]} {text[11:19]}"


def print_json(value: object) -> int:
    print(json.dumps(value, indent=2))
    return 0


def print_lines(lines: Sequence[str]) -> int:
    for line in lines:
        print(line)
    return 0


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return print_lines(
        ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
         for row in (header, *rows)]
    )  # fmt: skip


def print_tree(value: Mapping[str, Any], indent: str = "") -> int:
    """What is nested, by indentation; what is empty, not at all."""
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            print(f"{indent}{name}:")
            print_tree(inner, f"{indent}  ")
        elif isinstance(inner, list) and inner:
            print(f"{indent}{name}:")
            for one in inner:
                words = ", ".join(f"{k} {v}" for k, v in one.items() if v) if isinstance(one, Mapping) else one
                print(f"{indent}  - {words}")
        elif inner not in (None, "", [], {}):
            print(f"{indent}{name}: {inner}")
    return 0


def ask(prompt: str) -> str:
    """What is typed, unseen."""
    if not sys.stdin.isatty():
        raise HomedError("there is no terminal to ask for it at")
    try:
        return getpass.getpass(prompt)
    except EOFError as error:
        raise HomedError("nothing was given") from error


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise HomedError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise HomedError(f"cannot read {path}: it is not text in UTF-8") from error


def _part(kind: str, progress: Mapping[str, Any]) -> str:
    service = progress.get("service")
    return f"{kind}: {progress['phase']}" + (f" {service}" if service else "")


def _width() -> int:
    # Imported where a terminal is there: each run by a timer would pay for it.
    import shutil

    return shutil.get_terminal_size().columns
