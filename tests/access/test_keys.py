"""Keys are shown once, kept as hashes, and void as soon as they are revoked."""

import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homed.access import keys as keys_module
from homed.access.keys import BUCKET, GIVEN_ID, Keys, NewKey
from homed.access.scopes import Principal, Scope
from homed.clock import now
from homed.errors import ConflictError, NotFoundError, ValidationError
from homed.store.sqlite import SqliteStore

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "homed.db")
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def keys(store: SqliteStore) -> Keys:
    made = Keys(store)
    await made.load()
    return made


async def test_a_key_says_who_holds_it(keys: Keys) -> None:
    made = await keys.create("grafana", Scope.READ)
    principal = keys.identify(made.text)
    assert principal == ("key:grafana", Scope.READ, made.key.id, False)


async def test_the_secret_is_not_kept(keys: Keys, store: SqliteStore, tmp_path: Path) -> None:
    made = await keys.create("a", Scope.ADMIN)
    secret = made.text.rpartition("_")[2]
    for record in await store.list(BUCKET):
        assert secret.encode() not in record.value
    await store.close()
    assert all(secret.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    assert secret not in repr(made.key)


async def test_no_two_keys_are_alike(keys: Keys) -> None:
    made = [await keys.create("same", Scope.READ) for _ in range(20)]
    assert len({one.text for one in made}) == len({one.key.id for one in made}) == 20


async def test_a_key_ends_when_it_expires(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await keys.create("a", Scope.READ, now() + timedelta(hours=1))
    assert keys.identify(made.text) is not None
    monkeypatch.setattr(keys_module, "now", lambda: now() + timedelta(hours=1))
    assert keys.identify(made.text) is None and keys.get(made.key.id) is None


async def test_a_revoked_key_is_void_at_once_and_for_ever(keys: Keys, store: SqliteStore) -> None:
    made, other = await keys.create("a", Scope.READ), await keys.create("b", Scope.READ)
    assert (await keys.revoke(made.key.id)).name == "a"
    assert keys.identify(made.text) is None and keys.identify(other.text) is not None
    again = Keys(store)
    await again.load()
    assert again.identify(made.text) is None and [key.name for key in again.all()] == ["b"]
    with pytest.raises(NotFoundError) as raised:
        await keys.revoke(made.key.id)
    assert raised.value.code == "KEY_NOT_FOUND"


_ELSEWHERE = """
import asyncio, pathlib, sys
from homed.access.keys import Keys
from homed.access.scopes import Principal, Scope
from homed.store.sqlite import SqliteStore
async def main():
    store = SqliteStore(pathlib.Path(sys.argv[1]))
    await store.open()
    keys = Keys(store)
    if sys.argv[2] == "create":
        print((await keys.create("theirs", Scope.READ)).text)
    else:
        await keys.revoke(sys.argv[2])
    await store.close()
asyncio.run(main())
"""


def elsewhere(path: Path, act: str) -> str:
    """The same, by another process."""
    command = [sys.executable, "-c", _ELSEWHERE, str(path), act]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


async def test_what_another_process_does_is_seen_within_a_second(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mono = 1000.0
    monkeypatch.setattr("homed.access.keys.time.monotonic", lambda: mono)
    await keys.load()
    text = elsewhere(tmp_path / "homed.db", "create")
    mono += 1.0
    await keys.look()
    principal = keys.identify(text)
    assert principal is not None and principal.key_id is not None
    elsewhere(tmp_path / "homed.db", principal.key_id)
    mono += 0.5
    await keys.look()
    mono += 0.5
    await keys.look()
    assert keys.identify(text) is None


@pytest.mark.parametrize("name", ["", " a", "a" * 65, "a\n", "a/b", "é", "-a", "a\x00"])
async def test_a_wrong_name_is_refused(keys: Keys, name: str) -> None:
    with pytest.raises(ValidationError) as raised:
        await keys.create(name, Scope.READ)
    assert [error.field for error in raised.value.errors] == ["name"]
    assert keys.all() == []


async def nearly(made: NewKey) -> list[str]:
    prefix, identity, secret = made.text.split("_")
    return [
        "", "_", "__", prefix, f"{prefix}_", f"{prefix}_{identity}", f"{prefix}_{identity}_", f"{prefix}__{secret}",
        f"{identity}_{secret}", f"HK_{identity}_{secret}", f"{prefix}_{identity}_{secret[:-1]}",
        f"{prefix}_{identity}_{secret}0", f"{prefix}_{identity}_{secret.upper()}", f" {made.text}",
        f"{prefix}_00000000_{secret}", f"{prefix}_{identity}_{made.key.digest}", f"{prefix}_00000000_{'0' * 64}",
        f"{made.text}\udcff", f"hk_\udcff_{secret}",
    ]  # fmt: skip


async def test_what_is_nearly_a_key_is_none(keys: Keys) -> None:
    for text in await nearly(await keys.create("a", Scope.ADMIN)):
        assert keys.identify(text) is None, text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(max_size=80) | st.text(st.characters(categories=["Cs", "Ll", "Nd"]), max_size=20).map("hk_{}".format))
async def test_no_text_is_a_key_by_chance(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    made = Keys(SqliteStore(tmp_path_factory.getbasetemp() / "never-opened.db"))
    assert made.identify(text) is None


GIVEN = "a-key-that-is-given-at-the-start!"


async def test_a_key_that_is_given_at_the_start_is_known_in_memory_only(store: SqliteStore, tmp_path: Path) -> None:
    keys = Keys(store, GIVEN)
    await keys.load()
    assert keys.any()
    principal = keys.identify_given(GIVEN)
    assert principal is not None and principal == Principal("key:--api-key", Scope.ADMIN, GIVEN_ID)
    assert await keys.holds(principal)
    assert keys.identify_given(f"{GIVEN}x") is None and keys.identify_given("") is None
    assert [key.id for key in keys.all()] == [GIVEN_ID]
    with pytest.raises(ConflictError) as raised:
        await keys.revoke(GIVEN_ID)
    assert raised.value.code == "KEY_GIVEN"
    assert await store.list(BUCKET) == []
    await store.close()
    assert all(GIVEN.encode() not in path.read_bytes() for path in tmp_path.iterdir())


async def test_there_is_a_key_as_long_as_one_is_valid(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not keys.any() and keys.identify_given("") is None
    await keys.create("a", Scope.READ, now() + timedelta(hours=1))
    assert keys.any()
    later = now() + timedelta(hours=2)
    monkeypatch.setattr(keys_module, "now", lambda: later)
    assert not keys.any() and keys.all()


async def test_the_number_of_keys_is_bounded(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homed.access.keys._MAX_KEYS", 2)
    keys = Keys(store)
    made = [await keys.create(name, Scope.READ) for name in ("a", "b")]
    with pytest.raises(ConflictError) as error:
        await keys.create("c", Scope.READ)
    assert error.value.code == "TOO_MANY_KEYS"
    await keys.revoke(made[0].key.id)
    await keys.create("c", Scope.READ)
