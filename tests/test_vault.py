"""Secrets at rest: what is sealed opens on this board, for its own record, and nowhere else."""

import concurrent.futures
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed import vault
from homed.backups.archive import state
from homed.errors import SecretError
from homed.updates import statefiles
from homed.vault import Vault

_KEY = bytes(range(32))


@given(st.text(), st.text())
def test_what_is_sealed_opens_again_for_the_same_record(text: str, about: str) -> None:
    sealed = Vault(_KEY).seal(text, about)
    assert vault.is_sealed(sealed)
    assert sealed.isascii()
    assert Vault(_KEY).open(sealed, about) == text


def test_the_same_secret_is_never_sealed_twice_the_same_way() -> None:
    own = Vault(_KEY)
    sealed = {own.seal("password", "hosts/1") for _ in range(100)}
    assert len(sealed) == 100
    assert not any("password" in one for one in sealed)


def test_a_sealed_secret_does_not_open_for_another_record() -> None:
    own = Vault(_KEY)
    with pytest.raises(SecretError, match="another record"):
        own.open(own.seal("password", "hosts/1"), "hosts/2")


def test_another_key_is_told_apart_from_damage() -> None:
    sealed = Vault(_KEY).seal("password", "hosts/1")
    with pytest.raises(SecretError, match="another key"):
        Vault(bytes(32)).open(sealed, "hosts/1")


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_damaged_secret_is_refused_wherever_the_damage_is(at: int, by: int) -> None:
    own = Vault(_KEY)
    sealed = bytearray(own.seal("password", "hosts/1"), "ascii")
    sealed[at % len(sealed)] ^= by
    try:
        opened = own.open(sealed.decode("latin-1"), "hosts/1")
    except SecretError:
        return
    # Of the last group base64 leaves bits unused, which say nothing.
    assert opened == "password"


@pytest.mark.parametrize("text", ["", "password", "sealed-1:", "sealed-1:ab", "sealed-2:ab:cd", "sealed-1::"])
def test_what_was_never_sealed_is_refused(text: str) -> None:
    with pytest.raises(SecretError):
        Vault(_KEY).open(text, "hosts/1")


def test_the_key_is_not_shown() -> None:
    assert repr(Vault(_KEY)) == f"Vault({Vault(_KEY).id})"
    assert _KEY.hex()[:8] not in repr(Vault(_KEY))


def test_a_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    made = vault.load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]
    assert (tmp_path / "secret.key").stat().st_mode & 0o7777 == 0o600
    assert vault.load(tmp_path).id == made.id


def test_two_that_make_the_key_at_once_have_the_same(tmp_path: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert len({one.id for one in pool.map(lambda _: vault.load(tmp_path), range(64))}) == 1


def test_two_boards_have_different_keys(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert vault.load(tmp_path / "a").id != vault.load(tmp_path / "b").id


def test_a_credential_goes_before_the_file_and_makes_none(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "homed.secret.key").write_bytes(_KEY)
    # As systemd gives them where the unit runs as another user.
    (credentials / "homed.secret.key").chmod(0o440)
    assert vault.load(tmp_path, credentials).id == Vault(_KEY).id
    assert not (tmp_path / "secret.key").exists()


def test_without_the_credential_its_folder_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "credentials").mkdir()
    assert vault.load(tmp_path, tmp_path / "credentials").id == vault.load(tmp_path).id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    vault.load(tmp_path)
    (tmp_path / "secret.key").chmod(mode)
    with pytest.raises(SecretError, match=f"mode {mode:04o}.*0600"):
        vault.load(tmp_path)


@pytest.mark.parametrize(("size", "said"), [(0, "0 bytes"), (31, "31 bytes"), (33, "more than 32 bytes")])
def test_a_key_of_a_wrong_size_is_refused_and_left(tmp_path: Path, size: int, said: str) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    with pytest.raises(SecretError, match=said):
        vault.load(tmp_path)
    assert path.stat().st_size == size


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="cannot be had"):
        vault.load(tmp_path / "missing")


def test_no_backup_and_no_copy_of_the_state_names_the_key() -> None:
    """Both copy what they name, and nothing else of the state."""
    backed_up = {state.DATABASE, state.OVERLAY, state.CONFIG, state.RECORDS}
    copied = {statefiles.DATABASE, *statefiles.BESIDE, *statefiles.OTHERS}
    assert vault.FILE not in backed_up | copied
    assert os.path.basename(vault.FILE) == vault.FILE
