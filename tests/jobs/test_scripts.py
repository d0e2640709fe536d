"""Text that was written with another system's editor."""

import pytest

from homed.jobs.scripts import is_shell, normal_lines, normal_script


@pytest.mark.parametrize(
    "interpreter",
    [
        "sh",
        "/bin/sh",
        "bash",
        "/usr/bin/bash-5.2",
        "dash",
        "ash",
        "zsh",
        "ksh93",
        "mksh",
        "fish",
        "csh",
        "tcsh",
        "busybox",
    ],
)
def test_a_shell_gets_no_byte_order_mark_and_no_carriage_returns(interpreter: str) -> None:
    script = "\ufeff#!/bin/sh\r\necho hi\r\nprintf 'a\rb'\n"
    assert normal_script(script, interpreter) == "#!/bin/sh\necho hi\nprintf 'a\rb'\n"


@pytest.mark.parametrize("interpreter", ["python3", "/usr/bin/perl", "node", "/bin/cat", "ruby", "ssh-agent"])
def test_another_interpreter_keeps_its_ends_of_lines(interpreter: str) -> None:
    assert not is_shell(interpreter)
    assert normal_script("\ufeffprint('''a\r\nb''')\r\n", interpreter) == "print('''a\r\nb''')\r\n"
    assert normal_script("#!/usr/bin/perl -w\r\n1;\r\n", interpreter) == "#!/usr/bin/perl -w\n1;\r\n"
    assert normal_script("", interpreter) == ""


def test_a_command_of_several_lines_is_one_for_a_shell() -> None:
    assert normal_lines("\ufeffecho hi\r\necho ho\r\n") == "echo hi\necho ho\n"
