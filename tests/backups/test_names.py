from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.backups import names
from homed.backups.records import Type
from homed.errors import NotFoundError

AT = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)


def test_a_name_is_what_the_seed_shows() -> None:
    assert str(names.Name("manual-backup", AT, names.PLAIN)) == "manual-backup-20240115-103000.tar.gz"


@pytest.mark.parametrize("extension", [".tar.gz", ".age.tar", ""])
def test_a_name_is_read_as_it_was_written(extension: str) -> None:
    name = names.Name("a-20240101-000000", AT, extension)

    assert names.parse(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "", "backup", "backup-20240115.tar.gz", "../backup-20240115-103000.tar.gz", "a/b-20240115-103000.tar.gz",
        "-20240115-103000.tar.gz", ".x-20240115-103000.tar.gz", "backup-20240115-103000.tar.gz\n",
        "backup-20241315-103000.tar.gz", "backup-20240115-103000.tar", "ü-20240115-103000", "backup-٢٠٢٤٠١١٥-103000",
        "x" * 65 + "-20240115-103000", "backup-20240115-103000.tar.gz.json", "backup-20240115-103000\x00",
    ],
)  # fmt: skip
def test_what_is_no_name_of_a_backup_is_none(text: str) -> None:
    assert names.parse(text) is None
    with pytest.raises(NotFoundError) as caught:
        names.known(text)
    assert caught.value.code == "BACKUP_NOT_FOUND"


@given(st.text())
def test_no_text_that_is_a_name_leads_out_of_a_folder(text: str) -> None:
    name = names.parse(text)
    if name is not None:
        assert "/" not in text
        assert not text.startswith(".")
        assert str(name) == text


def test_the_extension_tells_what_stands_there() -> None:
    assert names.extension(Type.FULL, encrypted=False) == ".tar.gz"
    assert names.extension(Type.FULL, encrypted=True) == ".age.tar"
    assert names.extension(Type.INCREMENTAL, encrypted=True) == ""
