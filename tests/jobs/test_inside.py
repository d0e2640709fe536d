"""What homed itself runs inside of jobs, through the runner that starts it."""

import io
import os
import pwd
from pathlib import Path

import pytest

from homed.config.jobs import Jobs as Config
from homed.config.jobs import JobWorkers
from homed.jobs import inside
from homed.jobs.records import Archive, Job, Task
from tests.support.hostile_archives import Entry, as_tar, as_zip
from tests.support.subprocess_world import World, job, world

_CONFIG = Config()


def _archive(w: World, made: io.BytesIO, command: str) -> Job:
    w.uploads.mkdir(exist_ok=True)
    (w.uploads / "1-a.zip").write_bytes(made.getvalue())
    return job(Archive(command, "/uploads/1-a.zip", "a.zip"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
async def test_nothing_of_it_is_roots_although_homed_may_lie_where_only_root_reads(root: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    async with world(root, _CONFIG) as w:
        one = _archive(w, as_zip([Entry("a", b"a")]), "id -u; id -G; stat -c %u a; grep CapPrm /proc/self/status")
        assert (await w.run(one)).good, w.text(one, "stderr")
    user, groups, owner, powers = w.text(one).splitlines()[2:]
    assert user == owner == str(nobody.pw_uid)
    assert groups == str(nobody.pw_gid)
    assert int(powers.split()[1], 16) == 0


async def test_commands_run_in_the_unpacked_archive(root: Path) -> None:
    made = as_zip([Entry("run", b"#!/bin/sh\necho ran $1\n", mode=0o755), Entry("d/x", b"in d\n")])
    async with world(root, _CONFIG) as w:
        one = _archive(w, made, "./run it\r\ncat d/x\r\nls -A\r\ncat\r\ngrep SigIgn /proc/self/status")
        assert (await w.run(one)).good, w.text(one, "stderr")
    *lines, ignored = w.text(one).splitlines()
    commands = ("./run it", "cat d/x", "ls -A", "cat", "grep SigIgn /proc/self/status")
    assert [line for line in lines if line.startswith("> ")] == [f"> {command}" for command in commands]
    assert lines.count("-" * 80) == 5
    assert [line for line in lines if not line.startswith(("> ", "-"))] == ["ran it", "in d", "d", "run"]
    assert int(ignored.split()[1], 16) & ~(0b11 << 31) == 0


async def test_a_command_that_fails_stops_no_other_and_gives_the_exit_code(root: Path) -> None:
    async with world(root, _CONFIG) as w:
        one = _archive(w, as_tar([Entry("a")]), "echo 1\nexit 3\nif\nno-such-command\ncd /\nls; echo err >&2\n(exit 9)")
        assert (await w.run(one)).exit_code == 3
    text, rule = w.text(one), "-" * 80
    assert text.startswith(f"> echo 1\n{rule}\n1\n> exit 3\n{rule}\n> if\n{rule}\n")
    assert "Syntax error" in text and "no-such-command: not found" in text
    assert text.endswith(f"> cd /\n{rule}\n> ls; echo err >&2\n{rule}\na\nerr\n> (exit 9)\n{rule}\n"), "in order"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (as_zip([Entry("../x", b"")]), "UNSAFE_ARCHIVE"),
        (as_zip([Entry(str(n)) for n in range(11)]), "UNSAFE_ARCHIVE"),
        (io.BytesIO(b"no archive"), "BAD_ARCHIVE"),
    ],
)
async def test_an_archive_that_is_not_taken_runs_nothing(root: Path, made: io.BytesIO, said: str) -> None:
    config = Config(workers=JobWorkers(members=10))
    async with world(root, config) as w:
        one = _archive(w, made, "echo ran")
        assert (await w.run(one)).exit_code == 125
    refused = inside.refusal(125, w.text(one, "stderr"))
    assert refused is not None
    assert refused[0] == said
    assert inside.refusal(1, w.text(one, "stderr")) is None
    assert w.text(one) == ""


async def test_an_expression_is_evaluated(root: Path) -> None:
    async with world(root, _CONFIG) as w:
        one = job(Task("python_eval", {"expression": "6 * 7"}))
        assert (await w.run(one)).good, w.text(one, "stderr")
    assert w.text(one) == '{"result":42}'


def test_a_wrong_call_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert inside.main(["archive"]) == 2
    assert "usage" in capsys.readouterr().err
