import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from homed.backups import launcher
from homed.backups.conversation import Conversation
from homed.backups.launcher import AsProcess
from homed.backups.records import Progress
from homed.backups.worker.messages import Done, Request, Verify
from homed.errors import BackupError, HomedError

# What a worker does, in a few lines each: the socket is its only argument.
HEAD = """
import json, os, socket, sys, time
work = sys.argv[1]
os.chdir(work)
one = socket.socket(socket.AF_UNIX); one.connect("socket"); lines = one.makefile("rb")
def say(**message): one.sendall(json.dumps(message).encode() + b"\\n")
def hear(): return json.loads(lines.readline() or b"null")
request = hear()
"""


def request(work: Path) -> Request:
    return Verify(name="x", folder=str(work), work=str(work))


def played(script: str) -> launcher.Start:
    async def start(work: Path) -> AsProcess:
        return AsProcess(await launcher.spawn([sys.executable, "-c", HEAD + script, str(work)], work))

    return start


async def nothing(data: Mapping[str, object]) -> Mapping[str, object]:
    return {}


async def converse(
    work: Path, script: str, *, seen: list[Progress] | None = None, warned: list[str] | None = None
) -> Done:
    async with launcher.worker(played(script), work) as connection:
        conversation = Conversation(
            connection, (seen if seen is not None else []).append, (warned if warned is not None else []).append
        )
        return await conversation.run(request(work), {"begin": nothing})


async def test_what_a_worker_says_arrives(tmp_path: Path) -> None:
    seen, warned = list[Progress](), list[str]()
    done = await converse(
        tmp_path,
        """
say(type="Told", progress={"phase": "verifying", "bytes": 5})
say(type="Warned", message="mind this")
say(type="Ask", what="begin", data={})
assert hear()["type"] == "Reply"
say(type="Done", data={"work": request["work"]})
""",
        seen=seen,
        warned=warned,
    )

    assert done.data == {"work": str(tmp_path)}
    assert seen == [Progress(phase="verifying", bytes=5)]
    assert warned == ["mind this"]
    assert not (tmp_path / "socket").exists()


async def test_a_path_longer_than_a_sockets_address_is_no_hindrance(tmp_path: Path) -> None:
    work = tmp_path / ("x" * 120)
    work.mkdir()

    assert await converse(work, 'say(type="Done", data={})') == Done()


async def test_a_failure_keeps_its_code(tmp_path: Path) -> None:
    with pytest.raises(HomedError) as caught:
        await converse(tmp_path, 'say(type="Failed", code="BACKUP_NO_SPACE", message="full")')

    assert (caught.value.code, caught.value.status) == ("BACKUP_NO_SPACE", 507)


async def test_a_worker_that_is_killed_is_noticed_at_once(tmp_path: Path) -> None:
    with pytest.raises(BackupError) as caught:
        await converse(tmp_path, "os.kill(os.getpid(), 9)")

    assert "ended without a word" in caught.value.message


async def test_a_worker_that_does_not_come_is_an_error(tmp_path: Path) -> None:
    async def start(work: Path) -> AsProcess:
        return AsProcess(await launcher.spawn([sys.executable, "-c", "raise SystemExit(7)"], work))

    with pytest.raises(BackupError) as caught:
        async with launcher.worker(start, tmp_path):
            pytest.fail("nobody came")

    assert "ended with 7" in caught.value.message


async def test_what_is_no_message_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackupError) as caught:
        await converse(tmp_path, 'one.sendall(b"not json\\n")')

    assert "cannot be understood" in caught.value.message


async def test_a_cancel_is_heard_while_homed_is_doing_its_part(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def hang(data: Mapping[str, object]) -> Mapping[str, object]:
        begun.set()
        await asyncio.Event().wait()
        return {}

    script = """
say(type="Ask", what="begin", data={})
assert hear()["type"] == "Cancel"
assert hear()["code"] == "BACKUP_CANCELLED"
say(type="Failed", code="BACKUP_CANCELLED", message="stopped", cancelled=True)
"""
    async with launcher.worker(played(script), tmp_path) as connection:
        conversation = Conversation(connection, lambda progress: None, lambda text: None)
        running = asyncio.create_task(conversation.run(request(tmp_path), {"begin": hang}))
        await begun.wait()
        await conversation.cancel()
        with pytest.raises(HomedError) as caught:
            await running

    assert caught.value.code == "BACKUP_CANCELLED"


async def test_what_cannot_be_taken_back_is_done_although_it_was_cancelled(tmp_path: Path) -> None:
    applying, go = asyncio.Event(), asyncio.Event()

    async def apply(data: Mapping[str, object]) -> Mapping[str, object]:
        applying.set()
        await go.wait()
        return {"done": True}

    script = """
say(type="Ask", what="apply", data={})
assert hear()["type"] == "Cancel"
reply = hear()
say(type="Done", data=reply["data"])
"""
    async with launcher.worker(played(script), tmp_path) as connection:
        conversation = Conversation(connection, lambda progress: None, lambda text: None)
        running = asyncio.create_task(conversation.run(request(tmp_path), {"apply": apply}))
        await applying.wait()
        await conversation.cancel()
        go.set()

        assert (await running).data == {"done": True}


async def test_a_worker_ends_by_itself_when_homed_leaves(tmp_path: Path) -> None:
    started = None

    async def start(work: Path) -> AsProcess:
        nonlocal started
        started = await AsProcess.start(work)
        return started

    async with launcher.worker(start, tmp_path):
        pass  # no request: the connection closes

    assert started is not None
    assert started._process.returncode == 0


async def test_a_worker_that_hears_nothing_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_ENDS_WITHIN", 0.5)
    started = None

    async def start(work: Path) -> AsProcess:
        nonlocal started
        started = AsProcess(await launcher.spawn([sys.executable, "-c", HEAD + "time.sleep(60)", str(work)], work))
        return started

    async with launcher.worker(start, tmp_path) as connection:
        await Conversation(connection, lambda progress: None, lambda text: None)._send(request(tmp_path))

    assert started is not None
    assert started._process.returncode == -signal.SIGKILL
    assert not os.path.exists(f"/proc/{started._process.pid}")


async def test_a_worker_that_comes_when_nobody_waits_any_more_ends(tmp_path: Path) -> None:
    started = None

    async def start(work: Path) -> AsProcess:
        nonlocal started
        started = await AsProcess.start(work)
        return started

    async def wait_for_it() -> None:
        async with launcher.worker(start, tmp_path):
            await asyncio.Event().wait()

    for delay in (0.0, 0.02, 0.05, 0.08):
        waiting = asyncio.create_task(wait_for_it())
        while started is None:
            await asyncio.sleep(0)
        await asyncio.sleep(delay)
        waiting.cancel()
        async with asyncio.timeout(20):
            await asyncio.gather(waiting, return_exceptions=True)
        assert started._process.returncode in (0, 1)
        started = None


class _Broken:
    """A reader whose connection broke while homed wrote to it, which loses what the worker had said."""

    async def readline(self) -> bytes:
        raise BrokenPipeError(32, "Broken pipe")


class _Closed:
    def write(self, data: bytes) -> None:
        pass

    async def drain(self) -> None:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize(("cancelled", "code"), [(True, "BACKUP_CANCELLED"), (False, "BACKUP_ERROR")])
async def test_a_worker_that_ended_as_it_was_told_to_was_cancelled(tmp_path: Path, cancelled: bool, code: str) -> None:
    connection = launcher.Connection(cast(asyncio.StreamReader, _Broken()), cast(asyncio.StreamWriter, _Closed()))
    conversation = Conversation(connection, lambda _: None, lambda _: None)
    if cancelled:
        await conversation.cancel()
    with pytest.raises(BackupError) as caught:
        await conversation.run(request(tmp_path), {})
    assert caught.value.code == code


async def test_an_error_of_homeds_own_is_answered_so_that_the_worker_takes_all_back(tmp_path: Path) -> None:
    async def fails(data: Mapping[str, object]) -> Mapping[str, object]:
        raise KeyError("an error of ours")

    async with launcher.worker(played(_ASKS), tmp_path) as connection:
        conversation = Conversation(connection, lambda _: None, lambda _: None)
        with pytest.raises(HomedError) as caught:
            await conversation.run(request(tmp_path), {"apply": fails})
    assert caught.value.message == "heard INTERNAL_ERROR"


_ASKS = """
say(type="Ask", what="apply")
say(type="Failed", code="BACKUP_ERROR", message="heard " + hear()["code"])
"""
