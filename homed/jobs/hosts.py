"""The machines that are reached over SSH: how to log in at each, and which key each is known by.

Passwords and private keys are sealed before they are stored, and in no answer: who logs in asks for them by `login`.
"""

import asyncio
import re
import uuid
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

from homed.clock import now
from homed.errors import ConflictError, FieldError, NotFoundError, ValidationError
from homed.jobs.pem import PemFiles
from homed.jobs.ssh import keys
from homed.store import damage
from homed.store.base import Record, Store
from homed.vault import Vault

BUCKET = "hosts"
# All of them are held in memory, with their encrypted keys.
_MAX_HOSTS = 1000
_MAX_SECRETS = 16 << 20
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_Line = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        pattern=r"^[^\u0000-\u001f\u007f-\u009f]+$(?!\n)",
        description="one line without control characters",
    ),
]
# A name that begins with a dash is an option to whoever hands it on to a command.
_User = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^(?!-)[^\s\u0000-\u001f\u007f-\u009f:]+$(?!\n)",
        description="a user name: no spaces, colons or control characters, and no - at its start",
    ),
]
_Port = Annotated[int, Meta(ge=1, le=65535)]
_Password = Annotated[
    str, Meta(min_length=1, max_length=1024, pattern=r"^[^\u0000]+$(?!\n)", description="text without null characters")
]
_Key = Annotated[str, Meta(min_length=1, max_length=keys.LONGEST)]
_Url = Annotated[str, Meta(max_length=512)]


class AuthType(StrEnum):
    PASSWORD = "password"  # noqa: S105  how, not with what
    KEY = "key"


class Pin(msgspec.Struct, frozen=True):
    """The key by which a host is known: as OpenSSH writes it, and its SHA256 fingerprint."""

    key: str
    fingerprint: str
    pinned_at: datetime


class Host(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`secret` is sealed: the password, or the private key. `pem_file_url` names the upload that the key was taken of.

    `status` is what the last check, or a later connection for a job, has found: `connected`, `disconnected`, or nothing
    if there was no check. `legacy_algorithms` allows broken ones (SHA-1, CBC, MD5) with this host.
    """

    id: str
    name: str
    hostname: str
    port: int = 22
    user: str
    auth_type: AuthType
    secret: str
    pem_file_url: str = ""
    is_active: bool = True
    legacy_algorithms: bool = False
    pins: tuple[Pin, ...] = ()
    created_at: datetime
    updated_at: datetime
    status: str = ""
    checked_at: datetime | None = None

    def __repr__(self) -> str:
        return f"Host({self.id}, {self.name!r}, {self.user}@{self.hostname}:{self.port})"


class NewHost(msgspec.Struct, frozen=True, kw_only=True):
    """A host to be: with a password, or else with a private key or the URL of an uploaded one."""

    name: _Line
    hostname: str
    port: _Port = 22
    user: _User
    auth_type: AuthType
    password: _Password | None = None
    private_key: _Key | None = None
    pem_file_url: _Url | None = None
    is_active: bool = True
    legacy_algorithms: bool = False

    def __repr__(self) -> str:
        return f"NewHost({self.name!r}, {self.user}@{self.hostname}:{self.port})"


class HostChange(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that are to change; those left out stay as they are."""

    name: _Line | UnsetType = UNSET
    hostname: str | UnsetType = UNSET
    port: _Port | UnsetType = UNSET
    user: _User | UnsetType = UNSET
    auth_type: AuthType | UnsetType = UNSET
    password: _Password | UnsetType | None = UNSET
    private_key: _Key | UnsetType | None = UNSET
    pem_file_url: _Url | UnsetType | None = UNSET
    is_active: bool | UnsetType = UNSET
    legacy_algorithms: bool | UnsetType = UNSET

    def __repr__(self) -> str:
        return "HostChange()"


class Login(NamedTuple):
    """What to log in with: one of the two is empty."""

    password: str
    private_key: str

    def __repr__(self) -> str:
        return "Login()"


class _Given(NamedTuple):
    """A secret as somebody gave it: one of password, key and the URL of an upload."""

    password: str | None
    private_key: str | None
    url: str | None

    def __repr__(self) -> str:
        return "_Given()"


class _Entry(NamedTuple):
    host: Host
    revision: int


class Hosts:
    def __init__(self, store: Store, vault: Vault, pem: PemFiles):
        self._store = store
        self._vault = vault
        self._pem = pem
        self._entries: dict[str, _Entry] = {}
        self._listeners: list[Callable[[str], None]] = []
        # A check notes what it found while somebody changes the host: neither is to lose.
        self._lock = asyncio.Lock()

    def listen(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with the id of each host that is reached in another way now, or was deleted."""
        self._listeners.append(listener)

    async def load(self) -> None:
        for record, host in await damage.read_all(self._store, BUCKET, _decode):
            self._entries[record.key] = _Entry(host, record.revision)

    def get(self, id: str) -> Host:
        """NotFoundError (HOST_NOT_FOUND)."""
        return self._entry(id).host

    def all(self, *, active_only: bool = False) -> list[Host]:
        """In the order in which they were made."""
        found = [entry.host for entry in self._entries.values() if entry.host.is_active or not active_only]
        return sorted(found, key=lambda host: (host.created_at, host.id))

    async def create(self, new: NewHost) -> Host:
        """Create a host. Raises: ValidationError, ConflictError (TOO_MANY_HOSTS)."""
        if len(self._entries) >= _MAX_HOSTS:
            raise ConflictError(f"there are {_MAX_HOSTS} hosts already: delete one first", code="TOO_MANY_HOSTS")
        id = str(uuid.uuid4())
        check_hostname(new.hostname)
        given = _Given(new.password, new.private_key, new.pem_file_url)
        secret, url = await self._secret(id, new.auth_type, given)
        moment = now()
        host = Host(
            id=id,
            name=new.name,
            hostname=new.hostname,
            port=new.port,
            user=new.user,
            auth_type=new.auth_type,
            secret=secret,
            pem_file_url=url,
            is_active=new.is_active,
            legacy_algorithms=new.legacy_algorithms,
            created_at=moment,
            updated_at=moment,
        )
        return await self._write(host, 0)

    async def update(self, id: str, change: HostChange) -> Host:
        """What is another machine from now on has no pinned key. NotFoundError, ValidationError, RevisionError."""
        if change.hostname is not UNSET:
            check_hostname(change.hostname)
        async with self._lock:
            old, revision = self._entry(id)
            new = await self._changed(old, change)
            await self._write(msgspec.structs.replace(new, updated_at=now()), revision)
        if _reached(new) != _reached(old):
            self._tell(id)
        return self.get(id)

    async def _changed(self, old: Host, change: HostChange) -> Host:
        fields = ("name", "hostname", "port", "user", "is_active", "auth_type", "legacy_algorithms")
        new = msgspec.structs.replace(
            old, **{field: value for field in fields if (value := getattr(change, field)) is not UNSET}
        )
        given = _Given(_set(change.password), _set(change.private_key), _set(change.pem_file_url))
        # A client may send back what it was shown.
        same = not any(given) or given == _Given(None, None, old.pem_file_url)
        if not same or new.auth_type is not old.auth_type:
            secret, url = await self._secret(old.id, new.auth_type, given)
            new = msgspec.structs.replace(new, secret=secret, pem_file_url=url)
        if (new.hostname, new.port) != (old.hostname, old.port):
            new = msgspec.structs.replace(new, pins=(), status="", checked_at=None)
        return new

    async def delete(self, id: str) -> None:
        """NotFoundError, RevisionError."""
        async with self._lock:
            await self._store.delete(BUCKET, id, self._entry(id).revision)
            self._entries.pop(id, None)
        self._tell(id)

    async def pin(self, id: str, public: str) -> Host:
        """Know the host by this key from now on. NotFoundError, RevisionError."""
        pin = Pin(public, keys.fingerprint(public), now())
        async with self._lock:
            old, revision = self._entry(id)
            return await self._write(msgspec.structs.replace(old, pins=(pin,)), revision)

    async def unpin(self, id: str) -> Host:
        """Forget the key: the next one that the host shows is pinned. NotFoundError, RevisionError."""
        async with self._lock:
            old, revision = self._entry(id)
            host = await self._write(msgspec.structs.replace(old, pins=()), revision)
        self._tell(id)
        return host

    async def note(self, id: str, status: str) -> None:
        """Remember what a check has found, unless it was deleted meanwhile. RevisionError."""
        async with self._lock:
            entry = self._entries.get(id)
            if entry is not None:
                host = msgspec.structs.replace(entry.host, status=status, checked_at=now())
                await self._write(host, entry.revision)

    def login(self, host: Host) -> Login:
        """SecretError where it cannot be opened."""
        secret = self._vault.open(host.secret, _about(host.id))
        return Login(secret, "") if host.auth_type is AuthType.PASSWORD else Login("", secret)

    async def _secret(self, id: str, auth_type: AuthType, given: _Given) -> tuple[str, str]:
        """Sealed, and the URL of the upload that it was taken of. ValidationError unless it is what is needed."""
        check_given(auth_type, given)
        if given.password is not None:
            return self._vault.seal(given.password, _about(id)), ""
        key, url = given.private_key, given.url or ""
        if key is None:
            try:
                key = await self._pem.text(url)
            except NotFoundError as error:
                raise ValidationError([FieldError("pem_file_url", error.message)]) from error
        else:
            key = await keys.checked(key, "private_key")
        return self._vault.seal(key, _about(id)), url

    async def _write(self, host: Host, revision: int) -> Host:
        others = sum(len(one.host.secret) for id, one in self._entries.items() if id != host.id)
        if others + len(host.secret) > _MAX_SECRETS:
            said = (
                f"the keys of all hosts take {others} bytes already, and may take {_MAX_SECRETS}: delete a host first"
            )
            raise ConflictError(said, code="TOO_MANY_HOSTS")
        revision = await self._store.put(BUCKET, host.id, msgspec.json.encode(host), revision)
        self._entries[host.id] = _Entry(host, revision)
        return host

    def _entry(self, id: str) -> _Entry:
        entry = self._entries.get(id)
        if entry is None:
            raise NotFoundError(f"Host '{id[:64]}' not found", code="HOST_NOT_FOUND")
        return entry

    def _tell(self, id: str) -> None:
        for listener in self._listeners:
            listener(id)


def check_given(auth_type: AuthType, given: _Given) -> None:
    """ValidationError unless there is exactly the secret that `auth_type` needs."""
    errors: list[FieldError] = []
    if auth_type is AuthType.PASSWORD:
        if given.password is None:
            errors.append(FieldError("password", "must be given where auth_type is password"))
        errors += [
            FieldError(field, "is only for auth_type key")
            for field, value in (("private_key", given.private_key), ("pem_file_url", given.url))
            if value
        ]
    else:
        if given.password is not None:
            errors.append(FieldError("password", "is only for auth_type password"))
        if given.private_key is None and not given.url:
            errors.append(FieldError("private_key", "must be given, or pem_file_url, where auth_type is key"))
        if given.private_key is not None and given.url:
            errors.append(FieldError("pem_file_url", "cannot be given beside private_key"))
    if errors:
        raise ValidationError(errors)


def check_hostname(text: str) -> None:
    """ValidationError unless it is a name, or an address of IPv4 or IPv6."""
    labels = text.removesuffix(".").split(".")
    named = len(text) <= 253 and all(_LABEL.fullmatch(label) for label in labels)
    # What looks like an IPv4 address is one.
    if named and not labels[-1].isdigit():
        return
    try:
        if "%" not in text or re.fullmatch(r"[0-9A-Fa-f:.]+%[A-Za-z0-9_.-]{1,15}", text):
            ip_address(text)
            return
    except ValueError:
        pass
    raise ValidationError([FieldError("hostname", "must be a host's name, or an IPv4 or IPv6 address")])


def _reached(host: Host) -> tuple[object, ...]:
    return host.hostname, host.port, host.user, host.secret, host.legacy_algorithms


def _set(value: str | UnsetType | None) -> str | None:
    # An empty URL is what is shown where there is none.
    return value or None if isinstance(value, str) else None


def _about(id: str) -> str:
    return f"{BUCKET}/{id}"


def _decode(record: Record) -> Host:
    host = msgspec.json.decode(record.value, type=Host)
    if host.id != record.key or host.created_at.tzinfo is None:
        raise ValueError(f"it is the host {host.id}")
    return host
