"""What a job's unit may do, by what it is and by the configuration."""

from pathlib import Path
from typing import Any

import pytest

from homed.bus.systemd1_jobs import Program
from homed.clock import now
from homed.config.jobs import JobLimits
from homed.config.jobs import Jobs as Config
from homed.jobs.launch import launch
from homed.jobs.output.outputs import Outputs
from homed.jobs.records import Archive, Command, Job, Origin, Script, Task, Work
from homed.jobs.runners import sandbox


def program(tmp_path: Path, work: Work, config: Config | None = None, **fields: Any) -> Program:
    job = Job(id="j", origin=Origin.NEWREMORA, work=work, attempt=1, created_at=now(), updated_at=now(), **fields)
    config = config or Config()
    outputs = Outputs(tmp_path, lambda: 1 << 20)
    try:
        output = outputs.create("j", 1)
        return sandbox.program(job, launch(job, sandbox.place(Path("/uploads")), config), output, config)
    finally:
        outputs.close()


def test_output_goes_to_the_attempts_files_and_input_from_nowhere(tmp_path: Path) -> None:
    settings = program(tmp_path, Command("true")).settings

    assert settings["StandardOutputFileToAppend"] == str(tmp_path / "j/1/stdout")
    assert settings["StandardErrorFileToAppend"] == str(tmp_path / "j/1/stderr")
    assert settings["StandardInput"] == "null"


def test_a_secret_in_a_command_is_not_in_the_journal(tmp_path: Path) -> None:
    assert "hush" not in str(program(tmp_path, Command("login hush")).settings["Description"])


def test_what_ended_well_waits_for_homed(tmp_path: Path) -> None:
    assert program(tmp_path, Command("true")).settings["RemainAfterExit"] is True


def test_without_a_user_it_has_one_of_its_own_and_writes_nothing(tmp_path: Path) -> None:
    settings = program(tmp_path, Command("true")).settings

    assert "User" not in settings
    assert (settings["DynamicUser"], settings["ProtectSystem"]) == (True, "strict")
    assert settings["InaccessiblePaths"] == ["-/home"]
    assert (settings["NoNewPrivileges"], settings["CapabilityBoundingSet"]) == (True, 0)


def test_a_configured_user_has_its_own_files_but_no_more_power(tmp_path: Path) -> None:
    config = Config(users=("deploy",))
    settings = program(tmp_path, Command("true"), config, user="deploy").settings

    assert settings["User"] == "deploy"
    assert "InaccessiblePaths" not in settings
    assert "DynamicUser" not in settings
    assert (settings["NoNewPrivileges"], settings["CapabilityBoundingSet"], settings["PrivateTmp"]) == (True, 0, True)


def test_root_is_root_where_it_is_configured(tmp_path: Path) -> None:
    config = Config(users=("root",), user="root")
    settings = program(tmp_path, Command("true"), config).settings

    assert settings["User"] == "root"
    assert "CapabilityBoundingSet" not in settings
    assert "NoNewPrivileges" not in settings


def test_limits_are_set_where_there_are_some(tmp_path: Path) -> None:
    config = Config(limits=JobLimits(memory=1 << 20, cpu=50, tasks=3), private_network=True)
    settings = program(tmp_path, Command("true"), config, timeout=1.5).settings

    assert (settings["MemoryMax"], settings["MemorySwapMax"]) == (1 << 20, 0)
    assert (settings["CPUQuotaPerSecUSec"], settings["TasksMax"]) == (500_000, 3)
    assert settings["RuntimeMaxUSec"] == 1_500_000
    assert settings["PrivateNetwork"] is True

    free = program(tmp_path, Command("true"), Config(limits=JobLimits(tasks=0))).settings
    assert not {"MemoryMax", "CPUQuotaPerSecUSec", "TasksMax", "RuntimeMaxUSec", "PrivateNetwork"} & free.keys()


def test_a_script_is_shown_where_its_user_can_read_it(tmp_path: Path) -> None:
    made = program(tmp_path, Script("true", "/bin/sh"))

    assert made.argv == ("/bin/sh", "/tmp/homed-job/script")
    assert made.shown == [(str(tmp_path / "j/1/script"), "/tmp/homed-job/script")]


def test_an_archive_is_opened_by_systemd(tmp_path: Path) -> None:
    settings = program(tmp_path, Archive("make", "/uploads/1-a.zip", "a.zip")).settings

    assert settings["StandardInputFile"] == "/uploads/1-a.zip"


@pytest.mark.parametrize(("memory", "expected"), [(0, 512 << 20), (1 << 20, 1 << 20), (1 << 40, 512 << 20)])
def test_an_expression_gets_nothing_of_the_board(tmp_path: Path, memory: int, expected: int) -> None:
    work = Task("python_eval", {"expression": "1"})
    config = Config(users=("root",), limits=JobLimits(memory=memory))
    made = program(tmp_path, work, config, user="root")

    assert made.settings["DynamicUser"] is True
    assert "User" not in made.settings
    assert made.settings["PrivateNetwork"] is True
    assert made.settings["RestrictAddressFamilies"] == (True, [])
    assert made.settings["MemoryMax"] == expected
    assert made.settings["StandardInputFile"] == str(tmp_path / "j/1/expression")
    assert made.shown == ()
    assert "@privileged" in made.denied
    assert "/var/lib" in made.hidden
