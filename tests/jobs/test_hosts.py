"""Hosts and uploaded keys: what is taken, and that no secret is ever seen again."""

import logging
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed import validation
from homed.clock import now
from homed.errors import ConflictError, NotFoundError, SecretError, ValidationError
from homed.jobs import hosts as records
from homed.jobs import pem
from homed.jobs.hosts import AuthType, Host, HostChange, Hosts, Login, NewHost
from homed.jobs.pem import PemFiles
from homed.store.sqlite import SqliteStore
from homed.vault import Vault

KEY = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
OTHER = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
PUBLIC = " ".join(asyncssh.import_private_key(KEY).export_public_key().decode().split()[:2])
SECRET = "correct horse"
LOCKED = "is protected by a passphrase"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "homed.db")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def files(store: SqliteStore) -> PemFiles:
    return PemFiles(store, Vault(bytes(32)))


@pytest.fixture
def hosts(store: SqliteStore, files: PemFiles) -> Hosts:
    return Hosts(store, Vault(bytes(32)), files)


def with_password(**fields: object) -> NewHost:
    new = NewHost(name="web", hostname="10.0.0.1", user="me", auth_type=AuthType.PASSWORD, password=SECRET)
    return msgspec.structs.replace(new, **fields)


def with_key(**fields: object) -> NewHost:
    new = NewHost(name="web", hostname="10.0.0.1", user="me", auth_type=AuthType.KEY, private_key=KEY)
    return msgspec.structs.replace(new, **fields)


async def test_a_host_is_kept_with_all_that_was_said_of_it(hosts: Hosts, store: SqliteStore, files: PemFiles) -> None:
    host = await hosts.create(with_password(port=2222, is_active=False))
    assert (host.name, host.hostname, host.port, host.user, host.is_active) == ("web", "10.0.0.1", 2222, "me", False)
    again = Hosts(store, Vault(bytes(32)), files)
    await again.load()
    assert again.all() == [host]
    assert again.all(active_only=True) == []
    assert again.login(again.get(host.id)) == Login(SECRET, "")


async def test_no_secret_is_seen_again(
    hosts: Hosts, files: PemFiles, store: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    new, keyed = with_password(), with_key()
    made = [await hosts.create(new), await hosts.create(keyed)]
    made.append(await hosts.update(made[0].id, HostChange(password=f"{SECRET} battery")))
    upload = await files.put("k.pem", KEY.encode())
    body = KEY.splitlines()[2]
    shown = repr((new, keyed, made, upload, HostChange(password=SECRET), hosts.login(made[0]), hosts.login(made[1])))
    shown += caplog.text + msgspec.json.encode(made).decode() + str(made)
    with pytest.raises(ValidationError) as refused:
        await hosts.create(with_password(private_key=KEY))
    shown += repr(refused.value) + str(refused.value.details)
    on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for secret in (SECRET, body):
        assert secret not in shown
        assert secret.encode() not in on_disk


async def test_a_sealed_secret_is_of_one_host_and_one_board(hosts: Hosts, store: SqliteStore, files: PemFiles) -> None:
    one, other = await hosts.create(with_password()), await hosts.create(with_password())
    with pytest.raises(SecretError):
        hosts.login(msgspec.structs.replace(one, secret=other.secret))
    with pytest.raises(SecretError, match="given again"):
        Hosts(store, Vault(bytes(31) + b"1"), files).login(one)


@pytest.mark.parametrize(
    ("new", "field"),
    [
        (with_password(password=None), "password"),
        (with_password(private_key=KEY), "private_key"),
        (with_password(pem_file_url="/pem-files/a"), "pem_file_url"),
        (with_key(private_key=None), "private_key"),
        (with_key(password=SECRET), "password"),
        (with_key(pem_file_url="/pem-files/a"), "pem_file_url"),
        (with_key(private_key="no key"), "private_key"),
        (with_key(private_key=PUBLIC), "private_key"),
        (with_key(private_key=None, pem_file_url="/etc/shadow"), "pem_file_url"),
        (with_password(hostname=""), "hostname"),
    ],
)
async def test_exactly_the_secret_that_is_needed(hosts: Hosts, new: NewHost, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        await hosts.create(new)
    assert [error.field for error in caught.value.errors] == [field]
    assert hosts.all() == []


@pytest.mark.parametrize("form", ["PEM", "PKCS8", "RFC4716"])
async def test_a_key_of_any_form_is_taken_and_one_with_a_passphrase_says_why_not(
    hosts: Hosts, tmp_path: Path, form: str
) -> None:
    made = ["ssh-keygen", "-q", "-t", "rsa", "-m", form, "-C", "", "-f"]
    for name, passphrase in (("open", ""), ("locked", "secret")):
        subprocess.run([*made, tmp_path / name, "-N", passphrase], check=True)
    await hosts.create(with_key(private_key=(tmp_path / "open").read_text()))
    with pytest.raises(ValidationError, match=LOCKED):
        await hosts.create(with_key(private_key=(tmp_path / "locked").read_text()))


@pytest.mark.parametrize(
    "name",
    ["localhost", "a", "db.example.com", "a_b.example.", "192.168.1.100", "::1", "fe80::1%eth0", "xn--bcher-kva"],
)
def test_a_name_or_an_address_is_taken(name: str) -> None:
    records.check_hostname(name)


@pytest.mark.parametrize(
    "name",
    ["", "-oProxyCommand=id", "a b", "a\nb", "a\0", "a..b", "1.2.3", "1.2.3.4.5", "300.1.1.1", "fe80::1%e;id", "a/b",
     "a" * 64, "a." * 127 + "com", "[::1]", "user@host", "grüße"],
)  # fmt: skip
def test_what_is_neither_a_name_nor_an_address_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="hostname"):
        records.check_hostname(name)


@given(st.text(max_size=300))
def test_no_hostname_that_is_taken_holds_anything_but_what_names_have(name: str) -> None:
    try:
        records.check_hostname(name)
    except ValidationError:
        return
    assert name.isascii()
    assert not name.startswith("-")
    assert all(each.isalnum() or each in "._-:%" for each in name)


@pytest.mark.parametrize(
    ("field", "value"),
    [("user", "-l"), ("user", "a b"), ("user", "a\n"), ("user", ""), ("port", 0), ("port", 65536), ("name", "a\nb"),
     ("name", ""), ("auth_type", "agent"), ("password", "")],
)  # fmt: skip
def test_a_field_that_is_wrong_is_named(field: str, value: object) -> None:
    raw = {"name": "a", "hostname": "h", "user": "u", "auth_type": "password", "password": "p", field: value}
    with pytest.raises(ValidationError) as caught:
        validation.convert(raw, NewHost)
    assert [error.field for error in caught.value.errors] == [field]


async def test_a_change_keeps_what_it_does_not_name(hosts: Hosts) -> None:
    host = await hosts.create(with_password())
    told: list[str] = []
    hosts.listen(told.append)
    changed = await hosts.update(host.id, HostChange(name="db", is_active=False))
    assert (changed.name, changed.is_active, changed.hostname) == ("db", False, host.hostname)
    assert changed.updated_at > host.updated_at
    assert hosts.login(changed) == Login(SECRET, "")
    assert told == []
    await hosts.update(host.id, HostChange(port=23))
    assert told == [host.id]


async def test_another_way_in_needs_its_secret(hosts: Hosts, files: PemFiles) -> None:
    host = await hosts.create(with_password())
    with pytest.raises(ValidationError, match="private_key"):
        await hosts.update(host.id, HostChange(auth_type=AuthType.KEY))
    with pytest.raises(ValidationError, match="private_key"):
        await hosts.update(host.id, HostChange(private_key=KEY))
    assert hosts.get(host.id) == host
    changed = await hosts.update(host.id, HostChange(auth_type=AuthType.KEY, private_key=KEY))
    assert hosts.login(changed) == Login("", KEY)
    upload = await files.put("other.pem", OTHER.encode())
    changed = await hosts.update(host.id, HostChange(pem_file_url=upload.url))
    assert (hosts.login(changed), changed.pem_file_url) == (Login("", OTHER), upload.url)
    # What a client was shown may be sent back, and then changes nothing.
    same = await hosts.update(host.id, HostChange(pem_file_url=upload.url, name=changed.name))
    assert same.secret == changed.secret
    back = await hosts.update(host.id, HostChange(auth_type=AuthType.PASSWORD, password="p", pem_file_url=""))
    assert (hosts.login(back), back.pem_file_url) == (Login("p", ""), "")


async def test_a_pinned_key_is_of_one_machine(hosts: Hosts) -> None:
    host = await hosts.create(with_password())
    pinned = await hosts.pin(host.id, PUBLIC)
    (pin,) = pinned.pins
    assert pin.fingerprint == asyncssh.import_public_key(PUBLIC).get_fingerprint()
    assert (await hosts.update(host.id, HostChange(name="same machine"))).pins == (pin,)
    assert (await hosts.update(host.id, HostChange(hostname="10.0.0.2"))).pins == ()
    await hosts.pin(host.id, PUBLIC)
    assert (await hosts.unpin(host.id)).pins == ()


async def test_a_host_that_is_deleted_is_gone(hosts: Hosts, store: SqliteStore) -> None:
    host = await hosts.create(with_password())
    told: list[str] = []
    hosts.listen(told.append)
    await hosts.delete(host.id)
    assert (hosts.all(), await store.list("hosts"), told) == ([], [], [host.id])
    with pytest.raises(NotFoundError) as caught:
        await hosts.delete(host.id)
    assert caught.value.code == "HOST_NOT_FOUND"
    await hosts.note(host.id, "connected")


async def test_an_upload_is_kept_under_its_name_and_another_beside_it(files: PemFiles) -> None:
    one = await files.put("../../etc/my key.pem", KEY.encode())
    other = await files.put("my_key.pem", OTHER.encode())
    assert (one.name, one.url, one.size) == ("my_key.pem", "/pem-files/my_key.pem", len(KEY))
    assert other.name == "my_key-2.pem"
    assert await files.text(one.url) == KEY
    assert await files.text(other.url) == OTHER


async def test_what_is_no_key_is_not_kept(files: PemFiles, store: SqliteStore) -> None:
    for data in (b"", b"no key", b"\xff\xfe", PUBLIC.encode(), KEY.encode() + b"\n" * 70_000):
        with pytest.raises(ValidationError, match="pem_file"):
            await files.put("k.pem", data)
    assert await store.list("pem-files") == []
    with pytest.raises(NotFoundError):
        await files.text("/pem-files/k.pem")


async def test_of_uploads_the_newest_are_kept(
    files: PemFiles, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pem, "_MOST", 3)
    for number in range(5):
        await files.put(f"{number}.pem", KEY.encode())
    assert [record.key for record in await store.list("pem-files")] == ["2.pem", "3.pem", "4.pem"]


@given(st.text(max_size=300))
def test_a_name_of_a_file_is_made_harmless(name: str) -> None:
    safe = pem.sanitised(name)
    assert 0 < len(safe) <= 100
    assert not safe.startswith((".", "-"))
    assert all(each.isascii() and (each.isalnum() or each in "._-") for each in safe)


def test_a_host_shows_nothing_of_its_secret() -> None:
    assert "secret" not in repr(
        Host(id="i", name="n", hostname="h", user="u", auth_type=AuthType.KEY, secret="secret",
             created_at=now(), updated_at=now())
    )  # fmt: skip


async def test_the_hosts_and_their_keys_are_bounded(
    hosts: Hosts, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await hosts.create(with_key())
    monkeypatch.setattr(records, "_MAX_SECRETS", len(first.secret) + 200)
    await hosts.create(with_password())
    with pytest.raises(ConflictError) as error:
        await hosts.create(with_key())
    assert error.value.code == "TOO_MANY_HOSTS"
    await hosts.update(first.id, HostChange(name="other"))
    monkeypatch.setattr(records, "_MAX_HOSTS", 2)
    with pytest.raises(ConflictError):
        await hosts.create(with_password())
    assert len(await store.list("hosts")) == 2
