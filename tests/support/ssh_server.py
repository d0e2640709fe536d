"""Servers of SSH as no sshd of Debian's is: old ones, and hostile ones."""

import asyncio

import asyncssh


async def by_sh(process: "asyncssh.SSHServerProcess[bytes]") -> None:
    """Run each command as an sshd does for an account whose login shell is /bin/sh."""
    shell = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", process.command or "", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await shell.communicate(await process.stdin.read())
    process.stdout.write(out)
    process.stderr.write(err)
    process.exit(shell.returncode or 0)


class AnybodyMayLogIn(asyncssh.SSHServer):
    """Asks for nothing."""

    def begin_auth(self, username: str) -> bool:
        return False
