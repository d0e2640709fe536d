"""homed's logs: the journal's own fields under systemd, lines to read on a terminal, else one JSON object a line.

Whoever logs only puts the record into a bounded queue: formatting, redaction and writing happen in one
thread, so a disk or a journald that hangs never holds up the event loop. When the queue is full, new records
are dropped and counted.
"""

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TextIO, cast

from homed.host.records import journal_fields, json_line, terminal_line
from homed.host.redaction import redact

__all__ = ["LogSink", "configure", "is_under_systemd", "redact"]

IDENTIFIER = "homed"
CAPACITY = 4096  # records: about 4 MB at most
LEVELS = ("debug", "info", "warning", "error", "critical")

_BATCH = 256
# Woken for each record, the log's thread would fight the event loop for the interpreter at every request.
_REST = 0.02
_TELL_DROPPED_EVERY = 1.0
_CRASH_PATIENCE = 2.0

Send = Callable[..., object]


class Writer(Protocol):
    def write(self, record: logging.LogRecord) -> None: ...

    def flush(self) -> None: ...


class StreamWriter:
    """Lines on a stream, gathered while more are waiting: JSON, or sentences if the stream is a terminal."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._format = terminal_line if stream.isatty() else lambda record: json_line(record).decode()
        self._lines: list[str] = []

    def write(self, record: logging.LogRecord) -> None:
        self._lines.append(self._format(record))
        if len(self._lines) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._stream.write("".join(lines))
            self._stream.flush()


class JournalWriter:
    """`send` is `systemd.journal.sendv`: it takes `NAME=value` arguments."""

    def __init__(self, send: Send, identifier: str = IDENTIFIER):
        self._send = send
        self._identifier = identifier

    def write(self, record: logging.LogRecord) -> None:
        self._send(*journal_fields(record, self._identifier))

    def flush(self) -> None:
        """Each record was sent as it came."""


class _Queue(logging.Handler):
    def __init__(self, capacity: int):
        super().__init__()
        self.records: queue.SimpleQueue[logging.LogRecord | threading.Event] = queue.SimpleQueue()
        self.capacity = capacity
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        # The handler's lock is held: the count is exact.
        if self.records.qsize() < self.capacity:
            self.records.put(record)
        else:
            self.dropped += 1


class LogSink:
    """The running log: made by `configure`, ended by `close`."""

    def __init__(self, writer: Writer, *, capacity: int = CAPACITY):
        self._writer = writer
        self._handler = _Queue(capacity)
        self._told_dropped = 0
        self._told_at = 0.0
        self._failed = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="homed-log", daemon=True)
        self._restore: list[Callable[[], object]] = []

    @property
    def dropped(self) -> int:
        """Records that found the queue full, since the start."""
        return self._handler.dropped

    @property
    def failed(self) -> int:
        """Writes that failed since the start; the stream's hold up to 256 records each."""
        return self._failed

    def set_level(self, name: str) -> None:
        """Log this level (`debug` … `critical`) and above from now on. ValueError for another word."""
        logging.getLogger().setLevel(_level(name))

    def flush(self, timeout: float) -> bool:
        """Wait until what was logged before is written; False if that took longer than `timeout` seconds."""
        done = threading.Event()
        self._handler.records.put(done)
        return done.wait(timeout)

    def close(self, timeout: float = 2.0) -> bool:
        """Take no more, write what is queued, give up after `timeout` seconds. True if all was written."""
        while self._restore:
            self._restore.pop()()
        self._closing.set()
        self._handler.records.put(threading.Event())
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def install(self, level: str) -> None:
        """Begin: the root logger and the hooks for what nobody caught write here."""
        root, number = logging.getLogger(), _level(level)
        before = (root.level, sys.excepthook, threading.excepthook)
        self._restore = [
            lambda: root.setLevel(before[0]),
            lambda: setattr(sys, "excepthook", before[1]),
            lambda: setattr(threading, "excepthook", before[2]),
            lambda: logging.captureWarnings(False),
            lambda: _identify_threads(True),
            lambda: root.removeHandler(self._handler),
        ]
        self._thread.start()
        root.setLevel(number)
        root.addHandler(self._handler)
        logging.captureWarnings(True)
        _identify_threads(False)
        sys.excepthook = self._uncaught
        threading.excepthook = self._uncaught_in_thread

    def _run(self) -> None:
        records = self._handler.records
        while not (self._closing.is_set() and records.empty()):
            item = records.get()
            if isinstance(item, threading.Event):
                self._guarded(self._writer.flush)
                self._tell_dropped(now=True)
                item.set()
                continue
            self._write(item)
            if records.empty():
                self._guarded(self._writer.flush)
                self._closing.wait(_REST)
            self._tell_dropped()
        self._tell_dropped(now=True)

    def _write(self, record: logging.LogRecord) -> None:
        self._guarded(lambda: self._writer.write(record))

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception:  # noqa: BLE001 - a full disk or a closed pipe must not end the log; the count tells of it
            self._failed += 1

    def _tell_dropped(self, *, now: bool = False) -> None:
        """Once there is room again, and at most once a second while the flood lasts."""
        dropped = self._handler.dropped
        if dropped == self._told_dropped:
            return
        waiting = self._handler.records.qsize()
        has_room = waiting <= self._handler.capacity // 2
        is_time = time.monotonic() - self._told_at >= _TELL_DROPPED_EVERY
        if not (now or waiting == 0 or (has_room and is_time)):
            return
        lost, self._told_dropped, self._told_at = dropped - self._told_dropped, dropped, time.monotonic()
        text = "%d log records were dropped: too many at once"
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (lost,), None)
        record.fields = {"dropped": lost, "dropped_total": dropped}
        self._write(record)
        self._guarded(self._writer.flush)

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        logging.getLogger(IDENTIFIER).critical("uncaught exception", exc_info=(kind, error, trace))
        # The interpreter ends next, and this daemon thread with it.
        self.flush(_CRASH_PATIENCE)

    def _uncaught_in_thread(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_value is None or issubclass(args.exc_type, SystemExit):
            return
        name = args.thread.name if args.thread else "unknown"
        what = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.getLogger(IDENTIFIER).critical("uncaught exception in thread %s", name, exc_info=what)


def configure(
    level: str,
    *,
    under_systemd: bool | None = None,
    stream: TextIO | None = None,
    send: Send | None = None,
    capacity: int = CAPACITY,
) -> LogSink:
    """Log to the journal or to `stream` (stderr), from `level` up; the caller closes what it gets.

    `under_systemd` None: asked of JOURNAL_STREAM. A record's own fields are given as `extra={"fields": {…}}`
    and not changed afterwards. Without systemd-python JSON is written under systemd too, and the log says so.
    ValueError for a level that is none.
    """
    stream = stream or sys.stderr
    if under_systemd is None:
        under_systemd = is_under_systemd(stream)
    missing = None
    if under_systemd and send is None:
        try:
            send = _journal_send()
        except ImportError as error:
            missing = error
    writer: Writer = JournalWriter(send) if under_systemd and send is not None else StreamWriter(stream)
    sink = LogSink(writer, capacity=capacity)
    sink.install(level)
    if missing is not None:
        logging.getLogger(__name__).warning("systemd-python is missing (%s): the log is JSON", missing)
    return sink


def is_under_systemd(stream: TextIO) -> bool:
    """Whether the stream is the journal's: children with another stderr inherit JOURNAL_STREAM too."""
    device, colon, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
        return bool(colon) and (status.st_dev, status.st_ino) == (int(device), int(inode))
    except (OSError, ValueError):
        # No such file descriptor (a stream in memory), or a value that systemd did not write.
        return False


def _journal_send() -> Send:
    from systemd import journal  # may be missing on a development machine

    return cast("Send", journal.sendv)


def _identify_threads(wanted: bool) -> None:
    """Whether records carry their thread and process: nothing here shows them, and each costs a lookup."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = wanted


def _level(name: str) -> int:
    if name.lower() not in LEVELS:
        raise ValueError(f"no log level {name!r}: one of {', '.join(LEVELS)}")
    return logging.getLevelNamesMapping()[name.upper()]
