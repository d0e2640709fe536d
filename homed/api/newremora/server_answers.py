"""What `/api/v1/servers` is asked and answers. No secret is in any answer."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from homed.jobs.hosts import Host, Pin

_UNKNOWN = "unknown"


class ServerShown(msgspec.Struct, frozen=True, kw_only=True):
    """`status` is what the last check has found: connected, disconnected, or unknown. `host_key` is the fingerprint by
    which the host is known.
    """

    id: str
    name: str
    hostname: str
    port: int
    user: str
    auth_type: str
    pem_file_url: str | None
    is_active: bool
    status: str
    last_checked_at: datetime | None
    host_key: str | None
    created_at: datetime
    updated_at: datetime


class ServerList(msgspec.Struct, frozen=True):
    servers: Sequence[ServerShown]


class Deleted(msgspec.Struct, frozen=True):
    id: str
    status: str
    message: str


class Tested(msgspec.Struct, frozen=True, kw_only=True):
    """One test: `status` is connected or disconnected, and `message` says why."""

    server_id: str
    status: str
    response_time_ms: int | None
    test_command: str
    test_output: str
    message: str
    timestamp: datetime


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    server_id: str
    name: str
    hostname: str
    status: str
    response_time_ms: int | None
    message: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    total_checked: int
    connected: int
    disconnected: int
    check_duration_ms: int


class CheckedAll(msgspec.Struct, frozen=True):
    servers: Sequence[Checked]
    summary: Summary


class Uploaded(msgspec.Struct, frozen=True):
    filename: str
    url: str
    size: int
    uploaded_at: datetime


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
        status=host.status or _UNKNOWN,
        last_checked_at=host.checked_at,
        host_key=pin.fingerprint if pin is not None else None,
        created_at=host.created_at,
        updated_at=host.updated_at,
    )
