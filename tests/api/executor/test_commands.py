"""What a form's commands mean, and what stands around their output."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.api.executor import commands


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (r"npm install\nnpm test", "npm install\nnpm test"),
        ("npm install\nnpm test", "npm install\nnpm test"),
        ("echo a\r\necho b\r\n", "echo a\necho b\n"),
        (r"printf 'a\nb'", r"printf 'a\nb'"),
        (r'printf "a\nb"\necho c', 'printf "a\\nb"\necho c'),
        (r"tr \\n ' '", r"tr \\n ' '"),
        (r"echo \'\necho b", "echo \\'\necho b"),
        (r"echo 'it'\''s'\necho b", "echo 'it'\\''s'\necho b"),
        (r"# don't\necho b", "# don't\necho b"),
        (r"echo a#'\n'", r"echo a#'\n'"),
        (r"echo a \ b\n", "echo a \\ b\n"),
        ("", ""),
        ("\\", "\\"),
    ],
)
def test_a_line_break_may_be_written_as_the_documentation_does(sent: str, meant: str) -> None:
    assert commands.lines(sent) == meant


@given(st.text(alphabet="ab '\"\\n#;$\n", max_size=40))
def test_only_what_means_nothing_else_becomes_a_line_break(text: str) -> None:
    made = commands.lines(text)
    assert made.replace("\n", "\\n") == text.replace("\n", "\\n")


@pytest.mark.parametrize("quoted", [r"'a\nb'", r'"a\nb"', r"a\\nb"])
def test_a_shell_gets_what_was_quoted_as_it_was(quoted: str) -> None:
    def said(line: str) -> bytes:
        return subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True, timeout=10).stdout

    line = f"printf '%s' {quoted}"
    assert said(commands.lines(line)) == said(line)


def test_the_output_ends_with_a_rule_and_how_it_ended() -> None:
    assert commands.footer(ran=True, stopped=False, why="it ended with 3") == f"\n{'=' * 80}\nExecution completed!\n"
    assert commands.footer(ran=False, stopped=True, why="").endswith("Execution stopped!\n")
    assert commands.footer(ran=False, stopped=False, why="it was lost").endswith("Execution failed: it was lost\n")
