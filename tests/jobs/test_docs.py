"""What docs/jobs.md says can be done: its commands are ones that there are, its scripts run, its names exist."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from homed import cli
from homed.config import FILE_ONLY, Config, under
from homed.config.section import Section
from homed.jobs.records import State
from homed.jobs.tasks.types import TYPES
from tests.boards.rig.cache import REPOSITORY
from tests.support.homed import Homed

DOCS = REPOSITORY / "docs"
TEXT = (DOCS / "jobs.md").read_text(encoding="utf-8")
CONFIGURATION = (DOCS / "configuration.md").read_text(encoding="utf-8")
_FAIL_ON_ERRORS = 'curl() { command curl --fail --silent --show-error "$@"; }\nset -euo pipefail\n'


def blocks(kind: str) -> list[str]:
    return [text for found, text in re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.M | re.S) if found == kind]


def commands() -> Sequence[str]:
    lines = [line.partition("  #")[0].strip() for text in blocks("") for line in text.splitlines()]
    inline = re.findall(r"`(?:\.venv/bin/)?(homed [^`]+)`", TEXT)
    return sorted({line for line in [*lines, *inline] if line.startswith("homed ")})


def options(section: Section, above: str) -> Iterator[str]:
    for name in section.__struct_fields__:
        value = getattr(section, name)
        path = f"{above}.{name}"
        if isinstance(value, Section):
            yield from options(value, path)
        else:
            yield path


OPTIONS = tuple(options(Config().jobs, "jobs"))


def test_there_are_commands_and_scripts() -> None:
    assert len(commands()) > 12
    assert len(blocks("sh")) == 2 and len(blocks("ini")) == 1


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_page_is_one_that_there_is(command: str) -> None:
    assert cli._parser().parse_args(shlex.split(command)[1:]).run


def test_an_option_that_is_named_is_there() -> None:
    named = set(re.findall(r"`(jobs\.[a-z_.]+)`", TEXT + (DOCS / "errors.md").read_text(encoding="utf-8")))
    assert len(named) > 8
    assert named <= {"jobs.http", *OPTIONS}


def test_every_option_is_in_the_configurations_table_and_whether_it_is_for_the_file_only() -> None:
    (section,) = re.findall(r"^## Jobs\n(.*?)^## ", CONFIGURATION, re.M | re.S)
    told: dict[str, bool] = {}
    table = ""
    for line in section.splitlines():
        if line.startswith("| `[") or line.startswith("| | `"):
            _, first, names, _, text, _ = line.split("|")
            table = first.strip(" `[]") or table
            told |= {f"{table}.{name}": text.strip().startswith("*") for name in re.findall(r"`([a-z_]+)`", names)}
    assert told == {path: bool(under(path, FILE_ONLY)) for path in OPTIONS}


def test_every_state_and_type_is_told_of() -> None:
    for state in State:
        assert re.search(rf"^\|.*`{state}`.*\|$", TEXT, re.M), state
    (tasks,) = re.findall(r"^## Typed tasks\n(.*?)^## ", TEXT, re.M | re.S)
    for kind in TYPES.values():
        (row,) = re.findall(rf"^\| `{kind.name}` \|.*$", tasks, re.M)
        for field in kind.fields:
            assert f"`{field.name}`" in row, (kind, field)


def test_every_code_that_is_named_is_an_error_that_there_is() -> None:
    errors = (DOCS / "errors.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Z]{2,}_[A-Z_]+)`", TEXT))
    assert len(named) > 5
    assert {code for code in named if f"`{code}`" not in errors} == set()


@pytest.fixture
def homed(tmp_path: Path) -> Iterator[Homed]:
    with Homed(tmp_path / "homed", f"unix://{tmp_path}/no-engine.sock") as homed:
        yield homed
        homed.stop()


def run(homed: Homed, script: str, folder: Path) -> str:
    folder.mkdir()
    ran = subprocess.run(
        ["bash", "-c", _FAIL_ON_ERRORS + script.replace("localhost:8080", f"localhost:{homed.port}")],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_first_script_runs_a_command_and_a_task(homed: Homed, tmp_path: Path) -> None:
    said = run(homed, blocks("sh")[0], tmp_path / "here")
    assert "event: complete\n" in said
    assert said.count("Filesystem") >= 3, "streamed, whole, and in the job"
    assert '"task_type":"python_eval"' in said and '"priority":"high"' in said
    assert '"command":"df","args":"-h"' in said
    assert '"status":"completed"' in said


def test_the_second_script_has_a_worker_run_an_archive(homed: Homed, tmp_path: Path) -> None:
    said = run(homed, blocks("sh")[1], tmp_path / "here")
    assert '"content":"built for me\\n"' in said
    assert '"status":"completed"' in said and '"stdout":"built for me\\n"' in said


def test_the_workers_file_is_what_its_unit_reads() -> None:
    (text,) = blocks("ini")
    given = dict(line.split("=", 1) for line in text.splitlines())
    unit = (REPOSITORY / "units" / "homed-worker.service").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ExecStart=/usr/bin/(.*)$", unit, re.M)
    assert set(re.findall(r"\$\{?(SERVER|OPTIONS)\b", line)) == set(given)
    line = line.replace("${SERVER}", given["SERVER"]).replace("$OPTIONS", given["OPTIONS"])
    told = cli._parser().parse_args(shlex.split(line)[1:])
    assert (told.server, told.slots) == ("http://board:8080", 2)


def test_what_make_run_serves_runs_jobs_although_its_state_is_named_from_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with Homed(Path("homed"), f"unix://{tmp_path}/no-engine.sock") as homed:
        assert not homed.state.is_absolute()
        assert cli.main(["job", "run", "--state", str(homed.state), "--", "printf", "%s", "a  b"]) == 0
        assert capfd.readouterr() == ("a  b", "")
        homed.stop()
