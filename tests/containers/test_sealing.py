"""Services as they are stored: no password of a registry in the clear, and none lost that can be read."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from homed.clock import now
from homed.containers import restoring
from homed.containers.records import Service
from homed.containers.sealing import Sealing
from homed.containers.services import Services
from homed.containers.spec import LockedRegistry, Registry, ServiceSpec
from homed.errors import SecretError, ValidationError
from homed.store.sqlite import SqliteStore
from homed.vault import ClosedVault, Vault

PASSWORD = "correct horse"
OWN, OTHER = Vault(bytes(32)), Vault(bytes(31) + b"1")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "homed.db")
    await store.open()
    yield store
    await store.close()


def spec(password: str = PASSWORD, image: str = "app:1") -> ServiceSpec:
    return ServiceSpec(image=image, registry=Registry("me", password))


def service(name: str = "web", good: ServiceSpec | None = None) -> Service:
    return Service(name=name, spec=spec(), good=good, created_at=now(), updated_at=now())


def services(store: SqliteStore, vault: Vault = OWN) -> Services:
    return Services(store, lambda spec: [], Sealing(vault))


async def test_no_password_is_in_the_database(store: SqliteStore, tmp_path: Path) -> None:
    kept = services(store)
    await kept.create("web", spec(), enabled=True)
    await kept.confirm("web", spec("another horse"))
    on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"web" in on_disk
    assert b"horse" not in on_disk
    again = services(store)
    await again.load()
    assert again.get("web") == kept.get("web")
    assert again.get("web").service.good == spec("another horse")


async def test_a_record_of_a_homed_that_did_not_seal_is_read_and_sealed_when_it_is_written(store: SqliteStore) -> None:
    await store.put("services", "web", msgspec.json.encode(service()), 0)
    kept = services(store)
    await kept.load()
    assert kept.get("web").service.spec == spec()
    await kept.confirm("web", spec())
    record = await store.get("services", "web")
    assert record is not None
    assert PASSWORD.encode() not in record.value


def test_what_did_not_change_is_stored_the_same_over_restarts_of_homed() -> None:
    one = service(good=spec("another horse"))
    stored = Sealing(OWN).encode(one)
    again = Sealing(OWN)
    assert again.encode(again.decode(stored)) == stored
    # A backup's record that was sealed at another time is of the same password.
    other = Sealing(OWN)
    other.encode(one)
    assert json.loads(other.encode(other.decode(stored)))["spec"] == json.loads(stored)["spec"]


def test_a_password_that_looks_sealed_is_one_like_any_other() -> None:
    odd = msgspec.structs.replace(service(), spec=spec(OWN.seal("x", "services/web")))
    assert Sealing(OWN).decode(Sealing(OWN).encode(odd)) == odd


@pytest.mark.parametrize("vault", [OTHER, ClosedVault("there is no key")])
async def test_a_password_that_cannot_be_opened_costs_no_service(store: SqliteStore, vault: Vault) -> None:
    await services(store).create("web", spec(), enabled=True)
    before = await store.get("services", "web")
    kept = services(store, vault)
    await kept.load()
    found = kept.get("web").service
    assert isinstance(found.spec.registry, LockedRegistry)
    assert (found.spec.image, found.spec.registry.username) == ("app:1", "me")
    # It is the same container, and homed notes of it what it notes.
    assert found.digest == service().digest
    await kept.confirm("web", found.spec)
    await kept.reject("web", "d", "why")
    # With its key it opens again, whatever was written meanwhile.
    record = await store.get("services", "web")
    assert before is not None
    assert record is not None
    assert json.loads(record.value)["spec"] == json.loads(before.value)["spec"]
    assert Sealing(OWN).decode(record.value).spec == spec()


async def test_a_password_that_is_given_again_is_sealed_by_this_board(store: SqliteStore) -> None:
    await services(store, OTHER).create("web", spec(), enabled=True)
    kept = services(store)
    await kept.load()
    await kept.change("web", lambda old: msgspec.structs.replace(old, spec=spec("given again")))
    again = services(store)
    await again.load()
    assert again.get("web").service.spec == spec("given again")


async def test_without_a_key_no_new_password_is_taken_and_an_old_one_is_kept_as_it_is(store: SqliteStore) -> None:
    await store.put("services", "web", msgspec.json.encode(service()), 0)
    kept = services(store, ClosedVault("there is no key"))
    await kept.load()
    await kept.confirm("web", spec())
    with pytest.raises(SecretError, match="there is no key"):
        await kept.create("other", spec(), enabled=True)
    with pytest.raises(SecretError):
        await kept.change("web", lambda old: msgspec.structs.replace(old, spec=spec("new")))
    assert kept.get("web").service.spec == spec()


def test_a_record_of_another_service_does_not_open() -> None:
    stored = json.loads(Sealing(OWN).encode(service()))
    stolen = Sealing(OWN).decode(json.dumps({**stored, "name": "thief"}).encode())
    assert isinstance(stolen.spec.registry, LockedRegistry)


@pytest.mark.parametrize("record", [b"", b"[]", b'{"spec": 1}', b'{"spec": {"registry": {"password": 1}}}', b"\xff"])
def test_what_is_no_service_is_said_so(record: bytes) -> None:
    with pytest.raises(ValidationError, match="is not a service"):
        restoring.read("web", record, Sealing(OWN))


def test_no_password_is_shown() -> None:
    locked = Sealing(OTHER).decode(Sealing(OWN).encode(service()))
    shown = repr((service(), spec(), locked))
    assert PASSWORD not in shown
    assert "sealed-1" not in shown
