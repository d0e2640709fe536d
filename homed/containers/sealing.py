"""Services as they are stored: passwords of registries sealed, each for its service.

A password that was sealed once is stored the same until it changes, so that records can be compared.
"""

from typing import Any, Final

import msgspec

from homed.containers.records import Service
from homed.containers.spec import LockedRegistry
from homed.errors import SecretError
from homed.vault import Vault, is_sealed

# What runs, and what is fallen back on, may be of two registries.
_SPECS: Final = ("spec", "good")


class Sealing:
    """How each password that was seen of a service is stored, by the service's name and the password."""

    def __init__(self, vault: Vault):
        self._vault = vault
        self._stored: dict[str, dict[str, str]] = {}

    def encode(self, service: Service) -> bytes:
        """SecretError where a new password cannot be sealed."""
        raw = msgspec.to_builtins(service)
        used: dict[str, str] = {}
        for field in _SPECS:
            spec = getattr(service, field)
            if spec is None or spec.registry is None:
                continue
            registry = spec.registry
            if isinstance(registry, LockedRegistry):
                stored = registry.sealed
            else:
                stored = used[registry.password] = self._seal(service.name, registry.password)
            raw[field]["registry"] = {"username": registry.username, "password": stored}
        self._stored[service.name] = used
        return msgspec.json.encode(raw)

    def decode(self, record: bytes) -> Service:
        """Also of a homed that did not seal. What cannot be opened is locked: the service is there all the same.

        msgspec.MsgspecError, ValidationError where it is no service.
        """
        raw = msgspec.json.decode(record, type=dict[str, Any])
        name, locked = str(raw.get("name", "")), {}
        for field in _SPECS:
            registry = _registry(raw.get(field))
            stored = registry.get("password")
            if not isinstance(stored, str):
                continue
            try:
                registry["password"] = self._open(name, stored)
            except SecretError:
                locked[field] = LockedRegistry(str(registry.get("username")), "-", stored)
                registry["password"] = "-"  # noqa: S105  it is none
        service = msgspec.convert(raw, Service)
        for field, one in locked.items():
            spec = msgspec.structs.replace(getattr(service, field), registry=one)
            service = msgspec.structs.replace(service, **{field: spec})
        return service

    def _seal(self, name: str, password: str) -> str:
        stored = self._stored.get(name, {}).get(password)
        if stored is not None and is_sealed(stored):
            return stored
        try:
            return self._vault.seal(password, _about(name))
        except SecretError:
            # It was stored in the clear, and what homed notes of the service must not fail for it.
            if stored is None:
                raise
            return stored

    def _open(self, name: str, stored: str) -> str:
        password = self._vault.open(stored, _about(name)) if is_sealed(stored) else stored
        self._stored.setdefault(name, {})[password] = stored
        return password


def _registry(spec: object) -> dict[str, Any]:
    """As it stands there; of what is no spec, none."""
    registry = spec.get("registry") if isinstance(spec, dict) else None
    return registry if isinstance(registry, dict) else {}


def _about(name: str) -> str:
    return f"services/{name}"
