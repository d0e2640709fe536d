"""Split a job into its scheduling data and its content, and join them again (pure).

The content is the work with the metadata, and the data of a result. Small content stays inside the job's record. Large
content is stored beside it, in separate records: it is read on demand, and never held in memory for a job that waits or
has ended. The record keeps the beginning of the work for display and search in lists.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from homed.jobs.records import Archive, Beside, Command, Job, Result, Script, Task, Work

BUCKET: Final = "job-content"
_PIECE_BYTES: Final = 16 << 10
# The approximate memory in bytes that a waiting job may use for its content.
_MAX_INSIDE_WEIGHT: Final = 4096
_ELEMENT_WEIGHT: Final = 64
_BRIEF_CHARACTERS: Final = 1024
_SEARCHED_FIELDS: Final = ("command", "expression", "url")
# A record smaller than this is not worth splitting.
_SMALL_RECORD_BYTES: Final = 1024
_SMALL_RECORD_ELEMENTS: Final = 48
# A larger record, written by an older version with all content inside, is read without decoding its content.
_LARGE_RECORD_BYTES: Final = 16 << 10


class _Content(msgspec.Struct, frozen=True):
    work: Work
    metadata: Mapping[str, Any]


class _RawTask(msgspec.Struct, frozen=True, tag="task", tag_field="kind"):
    type: str
    payload: msgspec.Raw = msgspec.Raw(b"{}")


class _RawContent(msgspec.Struct, frozen=True):
    """The content within a large record; the payload, the metadata and the data stay JSON."""

    work: Command | Script | Archive | _RawTask
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


class _Named(msgspec.Struct, frozen=True):
    """The fields of a payload or of metadata that a brief job keeps."""

    command: Any = None
    expression: Any = None
    url: Any = None
    mode: Any = None


class _RawResult(msgspec.Struct, frozen=True):
    data: msgspec.Raw = msgspec.Raw()


class _RawRecord(msgspec.Struct, frozen=True):
    result: _RawResult | None = None


class _SplitRecord(msgspec.Struct, frozen=True):
    beside: Beside = Beside()


class Split(NamedTuple):
    """The job without its separate content, and that content (None: inside the record)."""

    job: Job
    work: bytes | None
    data: bytes | None


def work_keys(job: Job) -> list[str]:
    """Return the keys of the records with a job's work, in order."""
    return _keys(f"{job.id}/work", job.beside.work)


def data_keys(job: Job) -> list[str]:
    """Return the keys of the records with the data of its last attempt's result, in order."""
    return _keys(f"{job.id}/{job.attempt}", job.beside.data)


def pieces(keys: Sequence[str], content: bytes) -> Iterator[tuple[str, bytes]]:
    """Split content into records for these keys: the database reads and compares small ones faster."""
    for number, key in enumerate(keys):
        yield key, content[number * _PIECE_BYTES : (number + 1) * _PIECE_BYTES]


def _keys(prefix: str, size: int) -> list[str]:
    return [f"{prefix}/{number:05}" for number in range(-(-size // _PIECE_BYTES))]


def size(work: Work, metadata: Mapping[str, Any]) -> int:
    """Return how many bytes the content of a new job takes."""
    return len(msgspec.json.encode(_Content(work, metadata)))


def split(job: Job) -> Split:
    """Split off the large content of a complete job."""
    content = msgspec.json.encode(_Content(job.work, job.metadata))
    work = content if _is_heavy(content) else None
    if work is not None:
        brief, characters = _brief(job.work)
        beside = replace(job.beside, work=len(work), characters=characters)
        job = replace(job, work=brief, metadata=_kept(job.metadata), beside=beside)
    job, data = split_data(job)
    return Split(job, work, data)


def split_data(job: Job) -> tuple[Job, bytes | None]:
    """Split off the data of the result if it is large."""
    result = job.result
    if result is None or result.data is None:
        return job, None
    data = msgspec.json.encode(result.data)
    if not _is_heavy(data):
        return job, None
    return replace(job, result=replace(result, data=None), beside=replace(job.beside, data=len(data))), data


def join(job: Job, work: bytes | None, data: bytes | None) -> Job:
    """Put a job together with its content. The data of a result stays JSON (`msgspec.Raw`).

    Raises: ValueError, if the content cannot be read.
    """
    if work is not None:
        content = msgspec.json.decode(work, type=_Content)
        job = replace(job, work=content.work, metadata=content.metadata)
    if data is not None and job.result is not None:
        job = replace(job, result=replace(job.result, data=msgspec.Raw(data)))
    return replace(job, beside=Beside())


def rest(job: Job) -> str:
    """Return the note after a shortened command or script in a list; empty if it is complete."""
    match job.work:
        case Command() as work:
            shown = len(work.line)
        case Script(script=text) | Archive(command=text):
            shown = len(text)
        case Task():
            return ""
    left = job.beside.characters - shown
    return f"\n[{left} more]" if left > 0 else ""


def read(record: bytes) -> tuple[Job, bool]:
    """Decode the scheduling data of a job's record.

    The flag is true if an older version wrote large content inside the record. Raises: ValueError.
    """
    # Such a record may be large, too: of a long error and a text in letters that JSON escapes.
    if msgspec.json.decode(record, type=_SplitRecord).beside != Beside():
        return msgspec.json.decode(record, type=Job), False
    if len(record) < _LARGE_RECORD_BYTES:
        job = msgspec.json.decode(record, type=Job)
        if _is_small(record):
            return job, False
        brief, work, data = split(job)
    else:
        brief, work, data = split_record(record)
    return brief, work is not None or data is not None


def split_record(record: bytes) -> Split:
    """Split the record of a complete job. Raises: ValueError."""
    if len(record) < _LARGE_RECORD_BYTES:
        return split(msgspec.json.decode(record, type=Job))
    # The payload, the metadata and the data are not decoded: as objects they can take many times the memory.
    content = msgspec.json.decode(record, type=_RawContent)
    result = msgspec.json.decode(record, type=_RawRecord).result or _RawResult()
    fields: dict[str, msgspec.Raw] = msgspec.json.decode(record, type=dict[str, msgspec.Raw])
    beside = Beside()
    work: bytes | None = b'{"work":%b,"metadata":%b}' % (bytes(fields["work"]), bytes(content.metadata))
    if work is not None and _is_heavy(work):
        brief, characters = _brief_raw(content.work)
        fields["work"] = _raw(brief)
        fields["metadata"] = _raw(_kept(msgspec.json.decode(content.metadata, type=_Named)))
        beside = Beside(work=len(work), characters=characters)
    else:
        work = None
    data: bytes | None = bytes(result.data)
    if data and _is_heavy(data):
        beside = replace(beside, data=len(data))
        short: dict[str, msgspec.Raw] = msgspec.json.decode(fields["result"], type=dict[str, msgspec.Raw])
        del short["data"]
        fields["result"] = _raw(short)
    else:
        data = None
    fields["beside"] = _raw(beside)
    job = msgspec.json.decode(msgspec.json.encode(fields), type=Job)
    if job.result is not None:
        job = replace(job, result=bounded(job.result))
    return Split(job, work, data)


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _is_small(record: bytes) -> bool:
    return len(record) <= _SMALL_RECORD_BYTES and _elements(record) <= _SMALL_RECORD_ELEMENTS


def _brief_raw(work: Command | Script | Archive | _RawTask) -> tuple[Work, int]:
    match work:
        case _RawTask(type=kind, payload=payload):
            return Task(kind, _searched(payload)), 0
        case _:
            return _brief(work)


def _brief(work: Work) -> tuple[Work, int]:
    """Return the beginning of the work, and the total number of characters of its text."""
    match work:
        case Command(command=text, args=args):
            room = max(0, _BRIEF_CHARACTERS - len(text))
            return Command(text[:_BRIEF_CHARACTERS], args[:room]), len(work.line)
        case Script(script=text):
            return replace(work, script=text[:_BRIEF_CHARACTERS]), len(text)
        case Archive(command=text):
            return replace(work, command=text[:_BRIEF_CHARACTERS]), len(text)
        case Task(type=kind, payload=payload):
            texts = {name: str(payload[name])[:_BRIEF_CHARACTERS] for name in _SEARCHED_FIELDS if name in payload}
            return Task(kind, texts), 0


def _searched(payload: msgspec.Raw) -> Mapping[str, str]:
    named = msgspec.json.decode(payload, type=_Named)
    return {
        name: str(value)[:_BRIEF_CHARACTERS] for name in _SEARCHED_FIELDS if (value := getattr(named, name)) is not None
    }


def _kept(metadata: Mapping[str, Any] | _Named) -> Mapping[str, str]:
    """Return the fields that placement needs."""
    mode = metadata.mode if isinstance(metadata, _Named) else metadata.get("mode")
    return {"mode": mode} if isinstance(mode, str) and len(mode) <= 64 else {}


def _is_heavy(data: bytes) -> bool:
    """Return whether it would take much memory once decoded: many small elements take far more than their text."""
    if len(data) > _MAX_INSIDE_WEIGHT:
        return True
    return len(data) + _ELEMENT_WEIGHT * _elements(data) > _MAX_INSIDE_WEIGHT


def _elements(data: bytes) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def bounded(result: Result) -> Result:
    """Return the result with its texts shortened to fit a record, because workers and programs may send any length."""
    if len(result.error) <= _MAX_ERROR_CHARACTERS and len(result.code) <= _MAX_CODE_CHARACTERS:
        return result
    error = result.error
    if len(error) > _MAX_ERROR_CHARACTERS:
        error = f"{error[: _MAX_ERROR_CHARACTERS - 1]}…"
    return replace(result, error=error, code=result.code[:_MAX_CODE_CHARACTERS])


_MAX_ERROR_CHARACTERS: Final = 4096
_MAX_CODE_CHARACTERS: Final = 64
