r"""The commands of a form: `curl -F "commands=a\nb"`, as the documentation has it, sends a backslash and an n."""


def lines(commands: str) -> str:
    r"""With line breaks as a shell knows them, and those that are written as `\n` where they can mean nothing else.

    That is outside of quotes and not behind another backslash: there a shell takes `\n` for an n, which nobody writes
    on purpose. `printf 'a\nb'`, `tr \\n ' '` and `sed "s/a/\n/"` stay as they are.
    """
    made: list[str] = []
    quote, comment, at = "", False, 0
    text = commands.replace("\r\n", "\n")
    while at < len(text):
        char, pair = text[at], text[at : at + 2]
        if pair == "\\n" and not quote:
            made.append("\n")
            comment, at = False, at + 2
            continue
        if char == "\\" and quote != "'" and not comment:
            made.append(pair)
            at += 2
            continue
        if char == "\n":
            comment = False
        elif not comment and char in "'\"":
            quote = "" if quote == char else quote or char
        elif char == "#" and not quote and (not made or made[-1] in " \t\n;"):
            comment = True
        made.append(char)
        at += 1
    return "".join(made)


def footer(*, ran: bool, stopped: bool, why: str) -> str:
    """Return the footer of the output. It also follows failed commands, because the job's exit code tells of those."""
    if stopped:
        said = "Execution stopped!"
    elif ran:
        said = "Execution completed!"
    else:
        said = f"Execution failed: {why}"
    return f"\n{'=' * 80}\n{said}\n"
