"""homed is killed with -9, again and again, while a job prints: nothing is lost, nothing has two places."""

import asyncio
import contextlib
import sys
from pathlib import Path

from homed.jobs.output.order import Stream
from homed.jobs.output.outputs import Outputs
from tests.support.filesystems import in_memory

_HOMED = """
import asyncio, sys
from pathlib import Path
from homed.jobs.output.outputs import Outputs

async def main(root, position):
    outputs = Outputs(Path(root), lambda: 1 << 20)
    watch = asyncio.create_task(outputs.run())
    async for piece in outputs.create("job", 1).follow(int(position)):
        print(int(piece.stream), piece.text.encode().hex(), piece.position_after, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""
_JOB = "import os, time\nfor n in range(300): os.write(1 + n % 3 % 2, b'%d \\xe2\\x82\\xac\\n' % n); time.sleep(0.01)"


async def test_who_follows_over_many_kills_sees_each_line_once(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path, lambda: 1 << 20)
    output = outputs.create("job", 1)
    with output.path(Stream.STDOUT).open("ab") as stdout, output.path(Stream.STDERR).open("ab") as stderr:
        job = await asyncio.create_subprocess_exec(sys.executable, "-c", _JOB, stdout=stdout, stderr=stderr)
    seen, position = ["", ""], 0
    while job.returncode is None:
        homed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _HOMED, str(tmp_path), str(position), stdout=asyncio.subprocess.PIPE
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.7):
                await homed.wait()
        homed.kill()
        said, _ = await homed.communicate()
        for line in said.splitlines(keepends=True):
            # The last one may have been torn.
            if line.endswith(b"\n"):
                number, text, after = line.split()
                seen[int(number)] += bytes.fromhex(text.decode()).decode()
                position = int(after)
    again = Outputs(tmp_path, lambda: 1 << 20)
    last = again.create("job", 1)
    await last.finish()
    async for piece in last.follow(position):
        seen[piece.stream] += piece.text
    for stream in Stream:
        lines = (f"{n} €\n" for n in range(300) if n % 3 % 2 == stream)
        assert seen[stream] == "".join(lines) == last.read(stream).decode()
    outputs.close()
    again.close()


async def test_a_job_whose_disk_is_full_ends_and_others_go_on(tmp_path: Path) -> None:
    with in_memory(tmp_path / "small") as small:
        outputs = Outputs(small, lambda: 1 << 30)
        watch = asyncio.create_task(outputs.run())
        full, other = outputs.create("full", 1), outputs.create("other", 1)
        with full.path(Stream.STDOUT).open("ab") as stdout:
            job = await asyncio.create_subprocess_exec(
                "head", "-c", "64M", "/dev/zero", stdout=stdout, stderr=asyncio.subprocess.DEVNULL
            )
            assert await job.wait() != 0
        await full.finish()
        assert full.finished
        kept = full.read(Stream.STDOUT)
        assert kept == bytes(len(kept)) != b""
        await asyncio.to_thread(outputs.remove, "full")
        await other.write(Stream.STDERR, b"there is room again\n")
        await other.finish()
        assert other.combined() == "there is room again\n"
        assert not watch.done()
        watch.cancel()
        outputs.close()
