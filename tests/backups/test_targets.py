"""Targets of the configuration, as the worker gets them: complete, their secrets read, or an error that says why."""

from pathlib import Path

import pytest

from homed.backups.targets import load, settings
from homed.config.backups import BackupTarget
from homed.errors import ConfigError

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
SFTP = {"key_file": KEY, "known_hosts_file": "vault ssh-ed25519 AAAA\n"}
S3 = {"credentials_file": "ACCESS_KEY_ID=who\nSECRET_ACCESS_KEY=a=b/c+\n"}
BOARD = {"key_file": "homed_key\n"}


def test_sftp() -> None:
    target = BackupTarget(name="vault", url="sftp://backup%40home@vault.example:2222//srv/boards/", tries=7)

    assert settings(target, SFTP) == {
        "name": "vault",
        "kind": "sftp",
        "tries": "7",
        "host": "vault.example",
        "port": "2222",
        "user": "backup@home",
        "path": "/srv/boards",
        "key": KEY,
        "known_hosts": "vault ssh-ed25519 AAAA\n",
    }
    assert settings(BackupTarget(name="vault", url="sftp://me@vault"), SFTP)["port"] == "22"


def test_a_key_with_the_line_ends_of_another_system_is_made_right() -> None:
    target = BackupTarget(name="vault", url="sftp://me@vault/")

    assert settings(target, SFTP | {"key_file": KEY.replace("\n", "\r\n")})["key"] == KEY


def test_s3() -> None:
    target = BackupTarget(name="cloud", url="s3://bucket/some/prefix/", endpoint="https://s3.example", region="eu")

    assert settings(target, S3 | {"ca_file": "a certificate"}) == {
        "name": "cloud",
        "kind": "s3",
        "tries": "5",
        "bucket": "bucket",
        "path": "some/prefix",
        "endpoint": "https://s3.example",
        "region": "eu",
        "access_key_id": "who",
        "secret_access_key": "a=b/c+",
        "ca": "a certificate",
    }


@pytest.mark.parametrize(
    "text",
    [
        "AWS_ACCESS_KEY_ID=who\nexport AWS_SECRET_ACCESS_KEY='hush'\n",
        "[default]\naws_access_key_id = who\naws_secret_access_key = hush\n",
    ],
)
def test_credentials_are_read_as_other_programs_write_them(text: str) -> None:
    found = settings(BackupTarget(name="cloud", url="s3://bucket"), {"credentials_file": text})

    assert (found["access_key_id"], found["secret_access_key"], found["path"]) == ("who", "hush", "")


@pytest.mark.parametrize("url", ["https://board:8443", "https://board:8443/", "http://[fd00::1]:8080"])
def test_another_board(url: str) -> None:
    found = settings(BackupTarget(name="other", url=url), BOARD)

    assert found == {"name": "other", "kind": "board", "tries": "5", "url": url.rstrip("/"), "key": "homed_key"}


@pytest.mark.parametrize(
    ("url", "contents", "why"),
    [
        ("sftp://vault/srv", SFTP, "names no user"),
        ("sftp://me@/srv", SFTP, "no host"),
        ("sftp://me:secret@vault/srv", SFTP, "secrets are read from files"),
        ("sftp://me@vault:port/srv", SFTP, "cannot be read"),
        ("sftp://me@vault/srv/../etc", SFTP, "path"),
        ("sftp://me@vault/a%0Ab", SFTP, "path"),
        ("sftp://me@vault/srv", {"key_file": KEY}, "needs known_hosts_file"),
        ("sftp://me@vault/srv", SFTP | {"known_hosts_file": " \n"}, "needs known_hosts_file"),
        ("sftp://me@vault/srv", SFTP | {"key_file": "ssh-ed25519 AAAA"}, "no private key"),
        ("s3://bucket", {}, "needs credentials_file"),
        ("s3://bucket", {"credentials_file": "ACCESS_KEY_ID=who\n"}, "SECRET_ACCESS_KEY"),
        ("s3://bucket?x=y", S3, "more than"),
        ("https://board", {}, "needs key_file"),
        ("https://board/api", BOARD, "address alone"),
        ("https://me@board", BOARD, "address alone"),
        ("https://board", {"key_file": "two words"}, "one API key"),
        ("https://board", {"key_file": "naïve"}, "one API key"),
    ],
)
def test_what_cannot_be_meant_is_told_by_the_targets_name(url: str, contents: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        settings(BackupTarget(name="mine", url=url), contents)

    assert "'mine'" in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_files_are_read(tmp_path: Path) -> None:
    key, known = tmp_path / "key", tmp_path / "known"
    key.write_text(KEY)
    known.write_text(SFTP["known_hosts_file"])
    target = BackupTarget(name="vault", url="sftp://me@vault/", key_file=str(key), known_hosts_file=str(known))

    assert load(target) == settings(target, SFTP)


@pytest.mark.parametrize("what", ["missing", "a folder", "bytes", "large"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, what: str) -> None:
    path = tmp_path / "key"
    if what == "a folder":
        path.mkdir()
    elif what != "missing":
        path.write_bytes(b"\xff\xfe" if what == "bytes" else b"x" * 2_000_000)
    target = BackupTarget(name="vault", url="https://board", key_file=str(path))

    with pytest.raises(ConfigError, match=f"key_file '{path}'"):
        load(target)
