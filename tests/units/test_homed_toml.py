"""The configuration that homed is shipped with tells the truth about every option."""

import re
import tomllib
from pathlib import Path

import msgspec

from homed.config import Config, check, read_file
from homed.config.section import Section

FILE = Path(__file__).resolve().parents[2] / "units" / "homed.toml"


def test_shipped_file_changes_nothing() -> None:
    assert check(read_file(FILE)) == Config()


def test_options_taken_out_of_their_comments_are_the_defaults() -> None:
    told = tomllib.loads(uncommented())

    assert check(told) == Config()
    assert paths(told) == {path for path, default in defaults(Config()) if default is not None}


def test_options_without_a_default_are_told_of_by_example() -> None:
    for path, default in defaults(Config()):
        if default is None:
            table, _, name = path.rpartition(".")
            (section,) = re.findall(rf"^\[{re.escape(table)}\]\n(.*?)(?=^\[|\Z)", FILE.read_text(), re.M | re.S)
            assert re.search(rf"^#   {name} = \S", section, re.M), path


def test_the_examples_of_tables_are_right() -> None:
    lines = [line[4:] for line in FILE.read_text().splitlines() if re.match(r"#   \S", line)]
    start = next(i for i, line in enumerate(lines) if line.startswith("[["))
    told = check(tomllib.loads("\n".join(lines[start:])))

    assert len(told.updates.checks) == 2
    assert [one.name for one in told.backups.schedules] == ["nightly", "check"]
    assert [one.url.partition(":")[0] for one in told.backups.targets] == ["sftp", "s3", "https"]


def uncommented() -> str:
    """The file with a `#` that has no space after it taken away."""
    return re.sub(r"^#(?=\S)", "", FILE.read_text(), flags=re.M)


def defaults(section: Section, above: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for field in msgspec.structs.fields(type(section)):
        value = getattr(section, field.name)
        path = f"{above}{field.name}"
        found += defaults(value, f"{path}.") if isinstance(value, Section) else [(path, value)]
    return found


def paths(table: dict[str, object], above: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in table.items():
        found |= paths(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}"}
    return found
