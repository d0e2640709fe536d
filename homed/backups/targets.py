"""Where archives are copied to, as the worker needs it: what the configuration says, and secrets read from files."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from homed.config.backups import BackupTarget
from homed.errors import ConfigError

_FILES = ("key_file", "known_hosts_file", "credentials_file", "ca_file")
_NEEDED = {"sftp": ("key_file", "known_hosts_file"), "s3": ("credentials_file",), "board": ("key_file",)}
_LARGEST = 1 << 20
SECRETS = ("key", "access_key_id", "secret_access_key")


def load(target: BackupTarget) -> dict[str, str]:
    """The target's settings, its files read. ConfigError where one is missing, or the target cannot be meant."""
    contents: dict[str, str] = {}
    for field in _FILES:
        path = getattr(target, field)
        if path:
            contents[field] = _content(target.name, field, Path(path))
    return settings(target, contents)


def settings(target: BackupTarget, contents: Mapping[str, str]) -> dict[str, str]:
    """What `Copy.settings` holds, from the target and the contents of its files by field. ConfigError.

    Of all: name, kind (sftp, s3 or board) and tries; of sftp host, port, user, path, key and known_hosts; of s3 bucket,
    path, endpoint, region, access_key_id and secret_access_key; of a board url and key; ca where one is given.
    """
    try:
        url = urlsplit(target.url)
        port = url.port
    except ValueError as error:
        raise _wrong(target, f"its url cannot be read: {error}") from error
    kind = url.scheme if url.scheme in ("sftp", "s3") else "board"
    if not url.hostname:
        raise _wrong(target, "its url names no host or bucket")
    if url.password is not None or url.query or url.fragment:
        raise _wrong(target, "its url holds more than a user, a host and a path: secrets are read from files")
    for field in _NEEDED[kind]:
        if not contents.get(field, "").strip():
            raise _wrong(target, f"a target of {url.scheme} needs {field}")
    found = {"name": target.name, "kind": kind, "tries": str(target.tries)}
    if contents.get("ca_file"):
        found["ca"] = contents["ca_file"]
    if kind == "sftp":
        return found | _sftp(target, url, port or 22, contents)
    if kind == "s3":
        return found | _s3(target, url, contents)
    if url.username is not None or url.path not in ("", "/"):
        raise _wrong(target, "the url of a board is its address alone, as https://board:8443")
    return found | {"url": f"{url.scheme}://{url.netloc}", "key": _line(target, contents["key_file"])}


def _sftp(target: BackupTarget, url: SplitResult, port: int, contents: Mapping[str, str]) -> dict[str, str]:
    if not url.username:
        raise _wrong(target, "its url names no user: sftp://user@host/path")
    key = contents["key_file"].replace("\r\n", "\n").strip() + "\n"
    if "PRIVATE KEY-----" not in key:
        raise _wrong(target, "its key_file holds no private key")
    return {
        "host": url.hostname or "",
        "port": str(port),
        "user": unquote(url.username),
        "path": _path(target, url, "/"),
        "key": key,
        "known_hosts": contents["known_hosts_file"],
    }


def _s3(target: BackupTarget, url: SplitResult, contents: Mapping[str, str]) -> dict[str, str]:
    given = {}
    for line in contents["credentials_file"].splitlines():
        # As env files and AWS's own write them: AWS_ACCESS_KEY_ID=…, aws_access_key_id = …
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals:
            given[name.strip().upper().removeprefix("AWS_")] = value.strip().strip("'\"")
    missing = [name for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY") if not given.get(name)]
    if missing:
        raise _wrong(target, f"its credentials_file has no {missing[0]}=…")
    return {
        "bucket": url.netloc,
        "path": _path(target, url, ""),
        "endpoint": target.endpoint,
        "region": target.region,
        "access_key_id": given["ACCESS_KEY_ID"],
        "secret_access_key": given["SECRET_ACCESS_KEY"],
    }


def _path(target: BackupTarget, url: SplitResult, start: str) -> str:
    """Without a slash at its end; for sftp it is absolute."""
    path = unquote(url.path)
    if any(part in (".", "..") for part in path.split("/")) or not path.isprintable():
        raise _wrong(target, "its path cannot be meant")
    return start + re.sub(r"/+", "/", path).strip("/")


def _content(name: str, field: str, path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"Backup target '{name}': {field} '{path}' is too large")
        return path.read_text()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"Backup target '{name}': {field} '{path}' cannot be read: {why}") from error


def _line(target: BackupTarget, text: str) -> str:
    """An API key: one word, which goes into a header."""
    words = text.split()
    if len(words) != 1 or not words[0].isascii() or not words[0].isprintable():
        raise _wrong(target, "its key_file does not hold one API key")
    return words[0]


def _wrong(target: BackupTarget, why: str) -> ConfigError:
    return ConfigError(f"Backup target '{target.name}': {why}")
