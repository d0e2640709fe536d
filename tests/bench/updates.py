"""An installation by homed beside `rauc install`, the way of RAUC's progress to a client, and a download's memory."""

import asyncio
import os
import re
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.bench import progress
from tests.bench.bed import Bed
from tests.bench.figures import Figure, at_most, in_turn, medians, ratios
from tests.boards.rig.process import command, spawn
from tests.rauc.bundles import Bundles
from tests.rauc.machine import ENDED, Machine
from tests.support.api import Api
from tests.support.homed import free_port
from tests.support.rauc import COMPATIBLE
from tests.support.wait import until

_MB: Final = 10**6
_ROUNDS: Final = 9
_IMAGE: Final = 384 * 2**20
_DOWNLOADED: Final = 10**9
_QUIET: Final = 5.0
# Of the machine's own files: how well an image packs says how much of it RAUC has to verify.
_SYSTEM: Final = (Path("/usr/lib"), Path("/usr/bin"), Path("/usr/share"))
_MANIFEST: Final = f"""[update]
compatible={COMPATIBLE}
version=2.0

[bundle]
format=plain

[image.rootfs]
filename=rootfs.img
"""


def run(bed: Bed) -> Iterator[Figure]:
    bundles = Bundles(bed.folder / "bundles")
    with Machine(bed.folder / "machine", bundles) as machine:
        _as_on_a_board(machine)
        machine.boot()
        # The first: what a download is the first to touch counts too.
        yield _memory(machine)
        yield progress.run(machine, bundles.good())
        yield _overhead(machine, _system_bundle(bundles, bed.folder / "system.raucb"))


def _as_on_a_board(machine: Machine) -> None:
    """Slots for a whole system; homed with its own defaults, in the environment that its unit gives it."""
    for slot in machine.rauc.slots.values():
        os.truncate(machine.folder / f"{slot.name}.img", _IMAGE)
        command("losetup", "--set-capacity", slot.device)
    homed = machine.homed
    homed.tables = {name: homed.tables[name] for name in ("api", "api.limits")}
    homed.tables["containers"] = {"engine": f"unix://{machine.folder}/no-engine.sock"}
    homed.checks = []
    homed.write_config()
    homed.within = ("env", "MALLOC_ARENA_MAX=2")


# An installation.


def _overhead(machine: Machine, bundle: Path) -> Figure:
    parts: list[list[float]] = []

    def ours() -> float:
        seconds, update = asyncio.run(_by_homed(machine, bundle))
        parts.append(_parts(update))
        return seconds

    _by_rauc(machine, bundle)  # the first one finds nothing in the caches
    pairs = in_turn(_ROUNDS, ours, lambda: _by_rauc(machine, bundle))
    verifying, copying, installing = (statistics.median(values) for values in zip(*parts, strict=True))
    note = (
        f"{medians(pairs, 's')}; homed has RAUC verify {bundle.stat().st_size / _MB:.0f} MB first ({verifying:.2f} s), "
        f"copies its state ({copying:.2f} s), has it installed ({installing:.2f} s)"
    )
    return at_most("POST of an update to installed, of `rauc install`", 1.1, ratios(pairs), note=note)


async def _by_homed(machine: Machine, bundle: Path) -> tuple[float, Mapping[str, Any]]:
    async with (
        aiohttp.ClientSession(machine.api.url) as session,
        session.ws_connect("/ws/events?type=update.state") as events,
    ):
        started = time.perf_counter()
        async with session.post("/api/v1/update/install", json={"bundle_path": str(bundle)}) as answer:
            answer.raise_for_status()
            identity = str((await answer.json())["id"])
        while (state := (await events.receive_json())["data"]["state"]) != "installed":
            if state in ENDED:
                raise RuntimeError(f"update {identity} is {state}: {machine.homed.log[-2000:]}")
        seconds = time.perf_counter() - started
        return seconds, await progress.take_back(session, identity)


def _by_rauc(machine: Machine, bundle: Path) -> float:
    started = time.perf_counter()
    machine.rauc.command("install", bundle)
    seconds = time.perf_counter() - started
    # RAUC says that it has done before it is ready for the next.
    until("RAUC to be idle", lambda: machine.status()["operation"] == "idle")
    return seconds


def _parts(update: Mapping[str, Any]) -> list[float]:
    """Seconds until it was verified, from there until RAUC was asked to install, and until that was done."""
    at = {step["state"]: datetime.fromisoformat(step["at"]) for step in update["steps"]}
    times = [at[state] for state in ("downloading", "verified", "installing", "installed")]
    return [(later - earlier).total_seconds() for earlier, later in pairwise(times)]


def _system_bundle(bundles: Bundles, path: Path) -> Path:
    """A plain bundle with an image that is as full and packs as well as a system's: the machine's own files."""
    source = path.with_suffix(".d")
    source.mkdir()
    with (source / "rootfs.img").open("wb") as image:
        for file in (file for folder in _SYSTEM for file in sorted(folder.rglob("*"))):
            if image.tell() >= _IMAGE:
                break
            if file.is_file() and not file.is_symlink():
                image.write(file.read_bytes())
        image.truncate(_IMAGE)
    (source / "manifest.raucm").write_text(_MANIFEST)
    by = bundles.signer
    command("rauc", "--cert", by.certificate, "--key", by.key, "bundle", source, path, timeout=600)
    return path


# A download.


def _memory(machine: Machine) -> Figure:
    folder = machine.folder / "served"
    folder.mkdir()
    with (folder / "large.raucb").open("wb") as large:
        large.truncate(_DOWNLOADED)
    port = free_port()
    arguments = ["-m", "http.server", "--bind", "127.0.0.1", "--directory", str(folder), str(port)]
    with (machine.folder / "server.log").open("ab") as log:
        server = spawn([sys.executable, *arguments], dict(os.environ), log)
    try:
        until("the server to answer", lambda: _answers(port))
        time.sleep(_QUIET)
        return _download(machine, f"http://127.0.0.1:{port}/large.raucb")
    finally:
        server.kill()
        server.wait()


def _download(machine: Machine, url: str) -> Figure:
    process = Path(f"/proc/{machine.homed.pid}")
    idle = _status(process, "VmRSS")
    # From here on the peak is that of what comes.
    (process / "clear_refs").write_text("5")
    started = time.perf_counter()
    machine.install_without_waiting(url)
    update = until("the download's end", lambda: _ended(machine), deadline=900, every=0.2)
    seconds = time.perf_counter() - started
    if update["error"]["code"] not in ("UPDATE_BUNDLE", "UPDATE_SIGNATURE"):
        # It is no bundle, which is told once it is there and RAUC has looked at it.
        raise RuntimeError(f"it was not downloaded: {update['error']}")
    note = f"{idle:.1f} MB before, RSS; {seconds:.0f} s with its check"
    grown = _status(process, "VmHWM") - idle
    return at_most(f"peak while {_DOWNLOADED / _MB:,.0f} MB are downloaded, above idle", 20, [grown], "MB", note=note)


def _ended(machine: Machine) -> dict[str, Any]:
    newest = next(iter(machine.history()), None)
    return newest if newest is not None and newest["source"]["url"] and newest["state"] in ENDED else {}


def _status(process: Path, name: str) -> float:
    """MB of a field of /proc/PID/status."""
    found = re.search(rf"^{name}:\s+(\d+) kB", (process / "status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / _MB


def _answers(port: int) -> bool:
    try:
        return Api(port).get("/", timeout=5).status == 200
    except OSError:
        return False
