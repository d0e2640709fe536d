"""The owner's own checks: real programs, and a real server."""

import asyncio
import contextlib
import os
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from homed.config import UpdateCheck
from homed.updates.checks import run
from homed.updates.judgement import Finding
from tests.support.wait import until


async def reason(*command: str, timeout: float = 20) -> str | None:
    found = await run([UpdateCheck(name="own", command=command, timeout=timeout)])
    assert list(found) == ["check:own"]
    return found["check:own"].reason


async def test_a_command_that_ends_with_0_is_healthy() -> None:
    assert await reason("true") is None
    assert await reason("sh", "-c", "echo all is well") is None


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "exited with 3"),
        ("echo the disk is full; exit 1", "exited with 1: the disk is full"),
        ("echo both >&2; exit 1", "exited with 1: both"),
        ("kill -9 $$", "exited with -9"),
        (r"printf '\377\n'; exit 1", "exited with 1: \N{REPLACEMENT CHARACTER}"),
    ],
)
async def test_how_a_command_failed_is_told(script: str, said: str) -> None:
    assert await reason("sh", "-c", script) == said


async def test_of_much_output_the_end_is_told() -> None:
    found = await reason("sh", "-c", "yes x | head -c 1000000; echo the end; exit 1")
    assert found is not None and found.endswith("the end") and len(found) < 400


async def test_what_reads_finds_nothing() -> None:
    assert await reason("sh", "-c", "! read line") is None


@pytest.mark.parametrize("command", [("/no/such/program",), ("/etc/passwd",), ("true\0",)])
async def test_what_cannot_be_run_is_told(command: tuple[str, ...]) -> None:
    found = await reason(*command)
    assert found is not None and "Error" in found


def gone(pid: Path) -> bool:
    """Whether the process that wrote its id there has ended, or is but a zombie of its reaper's."""
    if not pid.exists() or not pid.read_text():
        return False
    with contextlib.suppress(FileNotFoundError):
        return "\nState:\tZ" in Path(f"/proc/{int(pid.read_text())}/status").read_text()
    return True


@pytest.mark.parametrize(
    "script",
    [
        "echo $$ > {pid}; exec sleep 600",
        "sh -c 'echo $$ > {pid}; exec sleep 600'; true",
        # It has ended itself; what it left holds its output open.
        "sh -c 'echo $$ > {pid}; exec sleep 600' & while [ ! -s {pid} ]; do sleep 0.01; done; exit 0",
        "trap '' TERM; echo $$ > {pid}; while :; do sleep 600; done",
    ],
)
async def test_a_command_that_does_not_end_is_killed_with_all_that_it_started(tmp_path: Path, script: str) -> None:
    pid = tmp_path / "pid"
    said = await reason("sh", "-c", script.format(pid=shlex.quote(str(pid))), timeout=1)
    assert said == "did not end within 1 s"
    await asyncio.to_thread(until, "the end of what it started", lambda: gone(pid))


async def test_a_command_is_killed_when_it_is_not_asked_for_any_more(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    asked = asyncio.ensure_future(reason("sh", "-c", f"echo $$ > {shlex.quote(str(pid))}; exec sleep 600"))
    await asyncio.to_thread(until, "its start", lambda: pid.exists() and pid.read_text())
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await asyncio.to_thread(until, "its end", lambda: gone(pid))


@pytest.fixture
async def server() -> AsyncIterator[str]:
    """Answers with the status that is the path; /slow does so at the end only."""
    end = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/slow":
            await end.wait()
            return web.Response()
        return web.Response(status=int(request.path[1:]), headers={"Location": "/500"})

    application = web.Application()
    application.router.add_get("/{status}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    yield f"http://127.0.0.1:{port}"
    end.set()
    await runner.cleanup()


async def asked(url: str, timeout: float = 20) -> str | None:
    return (await run([UpdateCheck(name="own", url=url, timeout=timeout)]))["check:own"].reason


@pytest.mark.parametrize("status", [200, 204, 302, 399])
async def test_an_address_that_answers_is_healthy(server: str, status: int) -> None:
    assert await asked(f"{server}/{status}") is None


@pytest.mark.parametrize("status", [400, 401, 404, 500, 503])
async def test_an_address_that_refuses_is_not(server: str, status: int) -> None:
    assert await asked(f"{server}/{status}") == f"answered {status}"


async def test_an_address_that_does_not_answer_in_time_is_not(server: str) -> None:
    assert await asked(f"{server}/slow", timeout=0.5) == "did not end within 0.5 s"


async def test_an_address_at_which_nobody_listens_is_not(server: str, unused_tcp_port: int) -> None:
    said = await asked(f"http://127.0.0.1:{unused_tcp_port}/")
    assert said is not None and "Error" in said


async def test_what_is_no_address_is_not() -> None:
    said = await asked("http://[::1/")
    assert said is not None and "http://[::1/" in said


async def test_what_is_no_http_is_not() -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ESMTP\r\n")
        writer.close()

    listener = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with listener:
        said = await asked(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/")
    assert said is not None and "220 mail" in said


async def test_all_are_asked_at_once_and_each_tells_for_itself(tmp_path: Path) -> None:
    """Each of two waits for the other one."""
    script = "touch {own}; while [ ! -e {other} ]; do sleep 0.01; done"
    a, b = (shlex.quote(str(tmp_path / name)) for name in "ab")
    found = await run(
        [
            UpdateCheck(name="a", command=("sh", "-c", script.format(own=a, other=b)), timeout=30),
            UpdateCheck(name="b", command=("sh", "-c", script.format(own=b, other=a)), timeout=30),
            UpdateCheck(name="c", command=("false",)),
        ]
    )
    assert found == {"check:a": Finding(), "check:b": Finding(), "check:c": Finding("exited with 1")}


async def test_without_checks_nothing_is_found() -> None:
    assert await run([]) == {}


async def test_nothing_is_left_open(server: str) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    await run([UpdateCheck(name="own", command=("true",)), UpdateCheck(name="web", url=f"{server}/200")])
    before = descriptors()
    for _ in range(10):
        await run([UpdateCheck(name="own", command=("true",)), UpdateCheck(name="web", url=f"{server}/200")])
    await asyncio.to_thread(until, "what was opened to be closed", lambda: descriptors() <= before)
