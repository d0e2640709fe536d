"""Direct mode: what one command is in a text of several lines."""

import pytest

from homed.jobs import direct


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("npm install\nnpm test\n", ["npm install", "npm test"]),
        ("\n  \necho a\n\n", ["echo a"]),
        ("", []),
        ("for i in 1 2; do\n  echo $i\ndone\necho after", ["for i in 1 2; do\n  echo $i\ndone", "echo after"]),
        ("echo 'two\nlines'\necho b", ["echo 'two\nlines'", "echo b"]),
        ("echo a \\\n  b\necho c", ["echo a \\\n  b", "echo c"]),
        ("echo a \\\\\necho c", ["echo a \\\\", "echo c"]),
        ("cat <<EOF\nin it\nEOF\necho b", ["cat <<EOF\nin it\nEOF", "echo b"]),
        ("cat <<-'E'\n\tin it\n\tE\necho b", ["cat <<-'E'\n\tin it\n\tE", "echo b"]),
        ("# it's a comment\necho b", ["# it's a comment", "echo b"]),
        ("fi\necho b", ["fi", "echo b"]),
        ("echo 'open\necho b", ["echo 'open", "echo b"]),
        ("cat <<EOF\nno end", ["cat <<EOF", "no end"]),
        ("echo $((1 << 2))\necho b", ["echo $((1 << 2))", "echo b"]),
    ],
)
def test_a_line_is_a_command_unless_the_shell_needs_more(text: str, commands: list[str]) -> None:
    assert direct.split(text, direct.understands) == commands


def test_a_text_of_nothing_but_beginnings_is_looked_at_so_often_only() -> None:
    looked: list[str] = []

    def never(command: str) -> bool:
        looked.append(command)
        return False

    assert direct.split("(\n" * 300, never) == ["("] * 300
    assert len(looked) <= 100 * 300 and max(command.count("\n") for command in looked) < 100


def test_each_line_of_a_command_is_shown() -> None:
    assert direct.header("for i in 1; do\ndone") == f"> for i in 1; do\n> done\n{'-' * 80}"
