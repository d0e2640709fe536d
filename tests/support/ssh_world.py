"""Hosts, their connections and the runner, with a real store and real output; the sshd is somebody else's."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from homed.clock import now
from homed.config.jobs import JobSsh
from homed.jobs.hosts import AuthType, Host, Hosts, NewHost
from homed.jobs.output.order import Stream
from homed.jobs.output.output import Output
from homed.jobs.output.outputs import Outputs
from homed.jobs.pem import PemFiles
from homed.jobs.ports import Attempt
from homed.jobs.records import Command, Handle, Job, Origin, Result, Script
from homed.jobs.ssh.connections import Connections
from homed.jobs.ssh.runner import SshRunner
from homed.store.sqlite import SqliteStore
from homed.vault import Vault
from tests.support.sshd import ACCOUNT, PASSWORD, Sshd

LIMIT = 1 << 20


class Run:
    """A job that a runner was given. `handle` is set when it was told to run."""

    def __init__(self, job: Job, output: Output, runner: SshRunner):
        self.job = job
        self.output = output
        self.handle: Handle | None = None
        self._runner = runner
        self.began = asyncio.Event()
        self.work = asyncio.create_task(self._run())

    async def _run(self) -> Result:
        async def started(handle: Handle) -> None:
            self.handle = handle
            self.began.set()

        try:
            return await self._runner.run(Attempt(self.job, self.output, started, lambda part: None))
        finally:
            await self.output.finish()

    async def printed(self, text: str) -> None:
        """Wait until that stands in its standard output."""
        while text not in self.stdout:
            assert not self.work.done(), (self.work, self.stdout, self.stderr)
            await asyncio.sleep(0.02)

    async def kill(self) -> Result:
        await self._runner.kill(self.job)
        return await self.work

    @property
    def stdout(self) -> str:
        return self.output.read(Stream.STDOUT).decode()

    @property
    def stderr(self) -> str:
        return self.output.read(Stream.STDERR).decode()


class SshWorld:
    def __init__(self, folder: Path, store: SqliteStore, config: JobSsh):
        self.vault = Vault(bytes(32))
        self.pem = PemFiles(store, self.vault)
        self.hosts = Hosts(store, self.vault, self.pem)
        self.config = config
        self.connections = Connections(self.hosts, lambda: self.config)
        self.runner = SshRunner(self.connections)
        self.outputs = Outputs(folder / "jobs", lambda: LIMIT)

    async def by_key(self, server: Sshd, *, hostname: str = "127.0.0.1", key: str = "", port: int = 0) -> Host:
        return await self.hosts.create(
            NewHost(
                name="by key",
                hostname=hostname,
                port=port or server.port,
                user=server.user,
                auth_type=AuthType.KEY,
                private_key=key or server.key,
            )
        )

    async def by_password(self, server: Sshd, password: str = PASSWORD) -> Host:
        return await self.hosts.create(
            NewHost(
                name="by password",
                hostname="127.0.0.1",
                port=server.port,
                user=ACCOUNT,
                auth_type=AuthType.PASSWORD,
                password=password,
            )
        )

    def start(self, host: Host, work: Command | Script | str, **fields: object) -> Run:
        job = self.job(host, work, **fields)
        return Run(job, self.outputs.create(job.id, job.attempt), self.runner)

    async def run(self, host: Host, work: Command | Script | str) -> tuple[Result, Run]:
        run = self.start(host, work)
        return await run.work, run

    def job(self, host: Host, work: Command | Script | str, **fields: object) -> Job:
        moment = now()
        job = Job(
            id=str(uuid.uuid4()),
            origin=Origin.NEWREMORA,
            work=Command(work) if isinstance(work, str) else work,
            host=host.id,
            attempt=1,
            token=7,
            created_at=moment,
            updated_at=moment,
        )
        return msgspec.structs.replace(job, **fields)


@contextlib.asynccontextmanager
async def ssh_world(folder: Path, **config: float) -> AsyncIterator[SshWorld]:
    store = SqliteStore(folder / "homed.db")
    await store.open()
    world = SshWorld(folder, store, msgspec.convert(config, JobSsh))
    await world.hosts.load()
    try:
        yield world
    finally:
        await world.connections.close()
        world.outputs.close()
        await store.close()
