"""What `/api/v1/servers` is asked and answers. No secret is in any answer."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from homed.errors import FieldError, ValidationError
from homed.jobs.hosts import Host, HostChange, NewHost, Pin
from homed.jobs.ssh import keys

_UNKNOWN = "unknown"
Key = Annotated[str, Meta(max_length=keys.LONGEST)]


class ServerShown(msgspec.Struct, frozen=True, kw_only=True):
    """A server. `status` is the result of the last check: connected, disconnected, or unknown. `host_key` is the pinned
    fingerprint of the host; `legacy_algorithms` allows broken algorithms with it.
    """

    id: str
    name: str
    hostname: str
    port: int
    user: str
    auth_type: str
    pem_file_url: str | None
    is_active: bool
    legacy_algorithms: bool
    status: str
    last_checked_at: datetime | None
    host_key: str | None
    created_at: datetime
    updated_at: datetime


class ServerList(msgspec.Struct, frozen=True):
    servers: Sequence[ServerShown]


class Deleted(msgspec.Struct, frozen=True):
    """The result of a deletion. `cancelled_jobs` were waiting and are cancelled. `deleted_jobs` is always 0: the
    server's jobs are kept as long as other jobs.
    """

    id: str
    status: str
    message: str
    deleted_jobs: int
    cancelled_jobs: int


class Tested(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a connection test: `status` is connected, or disconnected (503, with an `error`)."""

    server_id: str
    status: str
    response_time_ms: int | None
    test_command: str
    test_output: str
    message: str
    timestamp: datetime


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the last check: `status` is connected, disconnected, or error if the first check did not end in
    time. `name` equals `server_name`.
    """

    server_id: str
    server_name: str
    name: str
    hostname: str
    port: int
    status: str
    response_time_ms: int | None
    message: str
    checked_at: datetime


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    total_checked: int
    connected: int
    disconnected: int
    check_duration_ms: int


class CheckedAll(msgspec.Struct, frozen=True, kw_only=True):
    """The results of all servers' last checks; `disconnected` counts all that are not connected."""

    servers: Sequence[Checked]
    summary: Summary
    total_servers: int
    connected: int
    disconnected: int


class Uploaded(msgspec.Struct, frozen=True, kw_only=True):
    """An uploaded PEM file. `pem_file_url` equals `url`; it is the field name in a server."""

    filename: str
    url: str
    pem_file_url: str
    size: int
    uploaded_at: datetime
    message: str


class NewServer(NewHost, frozen=True, kw_only=True):
    """`pem_file` is another name for `private_key`."""

    pem_file: Key | None = None

    def host(self) -> NewHost:
        """Return the host to create. Raises: ValidationError."""
        key = _one_key(self.private_key, self.pem_file)
        return NewHost(**{name: getattr(self, name) for name in NewHost.__struct_fields__} | {"private_key": key})


class ServerChange(HostChange, frozen=True, kw_only=True):
    """`pem_file` is another name for `private_key`."""

    pem_file: Key | UnsetType | None = UNSET

    def change(self) -> HostChange:
        """Return the change of the host. Raises: ValidationError."""
        fields = {name: getattr(self, name) for name in HostChange.__struct_fields__}
        if self.pem_file is not UNSET:
            fields["private_key"] = _one_key(self.private_key or None, self.pem_file)
        return HostChange(**fields)


class Active(msgspec.Struct, frozen=True):
    """Only hosts to which jobs are sent; both names are in use."""

    active_only: bool = False
    active: bool = False

    @property
    def only(self) -> bool:
        return self.active_only or self.active


class Deleting(msgspec.Struct, frozen=True):
    """With `force`, also where there are jobs of it: those that wait are cancelled, those that ended are kept."""

    force: bool = False


class Upload(msgspec.Struct, frozen=True):
    """A form with one file: a private key, as PEM."""

    pem_file: Annotated[str, Meta(extra_json_schema={"format": "binary"})]


def _one_key(private_key: str | None, pem_file: str | None) -> str | None:
    if private_key and pem_file and private_key != pem_file:
        raise ValidationError([FieldError("pem_file", "cannot be given beside another private_key")])
    return private_key or pem_file


def shown(host: Host) -> ServerShown:
    pin: Pin | None = host.pins[-1] if host.pins else None
    return ServerShown(
        id=host.id,
        name=host.name,
        hostname=host.hostname,
        port=host.port,
        user=host.user,
        auth_type=str(host.auth_type),
        pem_file_url=host.pem_file_url or None,
        is_active=host.is_active,
        legacy_algorithms=host.legacy_algorithms,
        status=host.status or _UNKNOWN,
        last_checked_at=host.checked_at,
        host_key=pin.fingerprint if pin is not None else None,
        created_at=host.created_at,
        updated_at=host.updated_at,
    )
