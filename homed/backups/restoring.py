"""Putting a backup back, homed's side of it: what goes where, who is stopped meanwhile, and homed's own records."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from homed.backups import boardstate, launcher, planning, secrets
from homed.backups.archive import state
from homed.backups.boardstate import BoardState, Saved
from homed.backups.catalog import Catalog
from homed.backups.conversation import Answer, Conversation
from homed.backups.creating import Board
from homed.backups.operations import Running
from homed.backups.ports import Capture, Services
from homed.backups.records import Backup, Section, Type
from homed.backups.restore_step import Step, read_step, write_step
from homed.backups.wishes import RestoreWish
from homed.backups.worker.messages import Clean, Done, Plan, Recover, Restore, Tree
from homed.backups.workplaces import JOURNAL, clear, workplace
from homed.config.backups import Backups as Config
from homed.errors import BackupConflictError, BackupError, HomedError, ValidationError

log = logging.getLogger(__name__)
_WHY = "its data is being restored"
_RUNS_WITHIN = 60.0
_OWN = "own"


class Settings(Protocol):
    """The configuration, as far as a restore changes it. `file` is the owner's."""

    @property
    def file(self) -> Path: ...

    def try_out(self, file: Path | None, overlay: Path, *, with_keys: bool = False) -> None: ...

    def plan_restore(self, file: Path, overlay: Path, *, with_keys: bool = False) -> list[str]: ...

    def restore(self, overlay: bytes | None, file: bytes | None = None) -> list[str]: ...

    def take_back(self) -> None: ...

    def apply(self) -> None: ...


class Restoring:
    def __init__(
        self,
        board: Board,
        catalog: Catalog,
        services: Services,
        own: BoardState,
        settings: Settings,
        start: launcher.Start,
        config: Callable[[], Config],
    ):
        self._board = board
        self._catalog = catalog
        self._services = services
        self._own = own
        self._settings = settings
        self._start = start
        self._config = config

    async def run(self, running: Running, backup: Backup, wish: RestoreWish) -> Mapping[str, object]:
        """Put it back, or say what would change. HomedError: then the board is as it was."""
        incremental = backup.type is Type.INCREMENTAL
        repository = None
        if incremental:
            repository = await asyncio.to_thread(secrets.repository, self._config().repository, self._board.state)
        async with workplace(self._board.work, running.id) as work:
            one = _One(self, running, backup, wish, work)
            request = Restore(
                name=backup.name,
                folder=str(self._catalog.folder),
                work=str(work),
                path="" if incremental else str(self._catalog.path(backup)),
                unlock=wish.unlock,
                repository=repository,
                record=backup if incremental else None,
            )
            try:
                done = await self._with_worker(running, work, request, one)
            finally:
                # Only now that the worker is gone it is certain whether the restore was ended.
                await asyncio.shield(one.release())
        if wish.dry_run:
            return {"plan": {**one.shown, "changes": done.data.get("changes", [])}}
        running.phase("starting")
        not_running = await self._services.settle(one.restarted, _RUNS_WITHIN)
        return {"restored": one.shown, "not_running": not_running}

    async def _with_worker(self, running: Running, work: Path, request: Restore, one: "_One") -> Done:
        async with launcher.worker(self._start, work) as connection:
            conversation = Conversation(connection, running.tell, running.warn)
            await running.stopped_by(conversation)
            try:
                return await conversation.run(request, _answers(one))
            finally:
                await running.stopped_by(None)

    async def recover(self, running: Running, work: Path) -> Mapping[str, object]:
        """End a restore that was under way when homed was killed. Its services are held until that is done, whatever
        it takes: they must not see half of it.
        """
        step = await asyncio.to_thread(read_step, work)

        async def apply(_: Mapping[str, object]) -> Mapping[str, object]:
            await self.apply(step, work)
            return {}

        async with launcher.worker(self._start, work) as connection:
            conversation = Conversation(connection, running.tell, running.warn)
            done = await conversation.run(Recover(work=str(work)), {"apply": apply})
        await clear(work)
        await self._services.release(step.held)
        return done.data

    async def clean(self, work: Path) -> list[str]:
        """Remove the leftovers of an ended restore; return the reason if that fails again. Raises: BackupError."""
        async with launcher.worker(self._start, work) as connection:
            done = await Conversation(connection, lambda _: None, log.warning).run(Clean(work=str(work)), {})
        left = done.data.get("left")
        await clear(work)
        return [str(why) for why in left] if isinstance(left, list | tuple) else []

    async def apply(self, step: Step, work: Path) -> list[str]:
        """homed's own records, once the trees are swapped: which fields need a restart. Done twice it does no more.

        HomedError: all is as it was, but for keys, which are only ever added.
        """
        saved = await asyncio.to_thread(boardstate.read, work / _OWN)
        await self._own.put(saved, keys=step.keys)
        restart: list[str] = []
        if step.config:
            file = None if step.file_settings or not saved.has_config else work / _OWN / state.CONFIG
            restart = await asyncio.to_thread(self._restore_settings, saved.overlay, file)
        try:
            await self._services.put({name: saved.services[name] for name in step.services})
            await self._own.commit()
        except HomedError:
            if step.config:
                await asyncio.to_thread(self._settings.take_back)
            raise
        if step.config:
            try:
                self._settings.apply()
            except Exception:
                # Everything is stored by now: it takes effect at the next restart at the latest.
                log.exception("The restored configuration could not be applied")
                restart = restart or ["the restored configuration"]
        return restart

    def _restore_settings(self, overlay: bytes | None, file: Path | None) -> list[str]:
        try:
            data = None if file is None else file.read_bytes()
        except OSError as error:
            raise BackupError(f"the configuration of the backup cannot be read: {error.strerror}") from error
        return self._settings.restore(overlay, data)

    async def plan(
        self, backup: Backup, saved: Saved, wish: RestoreWish, running: Running
    ) -> tuple[Plan, Step, dict[str, object]]:
        """What goes where. HomedError where it may not; for a dry run nothing is made."""
        planning.check_version(backup, wish, self._board.schema)
        chosen = planning.choose(backup, saved, wish)
        # On a thread: it looks at the disk, which may hang.
        await asyncio.to_thread(self._check, chosen, saved)
        if backup.architecture and backup.architecture != self._board.architecture:
            running.warn(
                f"it was made on {backup.architecture}, and this board is {self._board.architecture}: "
                "images and binary data may not fit"
            )
        captures = await self._services.captures()
        lies = _places(captures)
        trees = [Tree(section, await self._target(section, lies, wish)) for section in chosen.sections]
        targets = [tree.target for tree in trees if tree.target]
        held = planning.affected(captures, chosen.services, targets)
        await self._check_strangers(targets, held)
        config = wish.config and (saved.has_config or saved.overlay is not None)
        shown: dict[str, object] = {
            "services": planning.acts(chosen.services, self._services.records(), _same),
            "volumes": [_shown(tree) for tree in trees],
            "stopped_meanwhile": held,
            "config": config,
            "keys": wish.keys,
        }
        file_settings = wish.file_settings and saved.has_config
        if config and file_settings:
            trees.append(Tree(_CONFIG, str(self._own.config_file)))
        step = Step(
            held=tuple(held),
            services=tuple(chosen.services),
            config=config,
            keys=wish.keys,
            file_settings=file_settings,
        )
        return Plan(tuple(trees), wish.dry_run, _writable(captures)), step, shown

    async def targets(self, backup: Backup, wish: RestoreWish) -> Plan:
        """Return the part of the plan known from the record alone; nothing for an encrypted backup.

        Raises: ValidationError, BackupConflictError, if the record alone shows that the restore is impossible.
        """
        if not backup.sections:
            return Plan((), wish.dry_run)
        known = Saved(dict.fromkeys(backup.services, b""), {}, None, has_config=False)
        chosen = planning.choose(backup, known, wish)
        captures = await self._services.captures()
        lies = _places(captures)
        found = [(section, await self._known_target(section, lies)) for section in chosen.sections]
        trees = tuple(Tree(section, target) for section, target in found if target)
        await self._check_strangers(
            [tree.target for tree in trees],
            planning.affected(captures, chosen.services, [tree.target for tree in trees]),
        )
        return Plan(trees, wish.dry_run, _writable(captures))

    async def _known_target(self, section: Section, lies: Mapping[str, str]) -> str:
        if section.kind == "path":
            return lies.get(section.name) or section.name
        return await self._services.find_volume(section.name) or ""

    async def _check_strangers(self, targets: Sequence[str], held: Sequence[str]) -> None:
        """Check that no foreign container uses data to be replaced. Raises: BackupConflictError (BACKUP_IN_USE)."""
        strangers = await self._services.strangers(targets, held)
        if strangers:
            raise BackupConflictError(
                f"{', '.join(strangers)} uses data to be replaced, and is not homed's: stop it first",
                code="BACKUP_IN_USE",
                details={"containers": strangers},
            )

    def _check(self, chosen: planning.Chosen, saved: Saved) -> None:
        problems = self._services.problems(chosen.services)
        if problems:
            raise ValidationError(problems)
        users = {name for section in chosen.sections for name in section.users}
        theirs = {name: saved.services[name] for name in users if name in saved.services}
        allowed = self._services.paths(self._services.records())
        allowed |= {
            path
            for name, record in theirs.items()
            if not self._services.problems({name: record}, alone=True)
            for path in self._services.paths({name: record})
        }
        planning.check_paths(chosen.sections, allowed)

    async def _target(self, section: Section, lies: Mapping[str, str], wish: RestoreWish) -> str:
        if section.kind == "path" or wish.dry_run:
            return await self._known_target(section, lies)
        return await self._services.make_volume(section.name)

    def try_out(self, own: Path, saved: Saved, step: Step) -> list[str]:
        """Check that the configuration is valid on this board; list the settings that would stay unchanged, because
        only the owner's file may set them. Raises: ConfigError.
        """
        file, overlay = own / state.CONFIG, own / state.OVERLAY
        # Keys are restored first and count; whether one of them is valid is checked then.
        with_keys = step.keys and bool(saved.buckets.get("keys"))
        if saved.has_config and not step.file_settings:
            return self._settings.plan_restore(file, overlay, with_keys=with_keys)
        self._settings.try_out(file if saved.has_config else None, overlay, with_keys=with_keys)
        return []

    async def hold(self, step: Step) -> None:
        await self._services.hold(step.held, _WHY)

    async def release(self, step: Step) -> None:
        await self._services.release(step.held)


class _One:
    """One restore under way: its answers to the worker."""

    def __init__(self, restoring: Restoring, running: Running, backup: Backup, wish: RestoreWish, work: Path):
        self._restoring = restoring
        self._backup = backup
        self._running = running
        self._wish = wish
        self._work = work
        self._step: Step | None = None
        self._held = self._committed = False
        self.shown: dict[str, object] = {}

    @property
    def restarted(self) -> list[str]:
        return [] if self._step is None else sorted({*self._step.held, *self._step.services})

    async def plan(self, data: Mapping[str, object]) -> Mapping[str, object]:
        backup = msgspec.convert(data["backup"], Backup)
        saved = await asyncio.to_thread(boardstate.read, self._work / _OWN)
        own = self._work / _OWN
        plan, step, self.shown = await self._restoring.plan(backup, saved, self._wish, self._running)
        if step.config:
            # Before anything is swapped: with a file that is not valid here, homed could not even start to undo it.
            kept = await asyncio.to_thread(self._restoring.try_out, own, saved, step)
            self.shown["settings_kept"] = kept
            if kept:
                self._running.warn(
                    f"these settings stay as they are, as homed.toml alone may hold them: {', '.join(kept)}; on the "
                    "board, as root, `homed backup restore --file-settings` restores them too"
                )
        self._step = step
        if not plan.dry_run:
            await asyncio.to_thread(write_step, self._work, step)
        shown: dict[str, object] = msgspec.to_builtins(plan)
        return shown

    async def targets(self, data: Mapping[str, object]) -> Mapping[str, object]:
        shown: dict[str, object] = msgspec.to_builtins(await self._restoring.targets(self._backup, self._wish))
        return shown

    async def stop(self, data: Mapping[str, object]) -> Mapping[str, object]:
        assert self._step is not None
        self._held = True
        await self._restoring.hold(self._step)
        return {}

    async def apply(self, data: Mapping[str, object]) -> Mapping[str, object]:
        assert self._step is not None
        restart = await self._restoring.apply(self._step, self._work)
        if restart:
            self.shown["restart_required"] = restart
        return {}

    async def commit(self, data: Mapping[str, object]) -> Mapping[str, object]:
        """Make the restored state permanent: only the removal of the replaced data remains."""
        self._committed = True
        await self.release()
        return {}

    async def release(self) -> None:
        """Release the services, unless the next start completes the restore: they must not see half of it."""
        decided = self._committed or not (self._work / JOURNAL).exists()
        if self._step is not None and self._held and decided:
            self._held = False
            await self._restoring.release(self._step)


def _answers(one: _One) -> Mapping[str, Answer]:
    return {"targets": one.targets, "plan": one.plan, "stop": one.stop, "apply": one.apply, "release": one.commit}


def _places(captures: Sequence[Capture]) -> dict[str, str]:
    """Resolve the real path of each target: a link that leads to it is not replaced."""
    return {source.name: source.path for one in captures for source in one.sources if source.kind == "path"}


def _writable(captures: Sequence[Capture]) -> tuple[str, ...]:
    return tuple(sorted({source.path for capture in captures for source in capture.sources if source.path}))


_CONFIG = Section(kind="config", name="homed.toml", prefix="", single=True)


def _same(one: bytes, other: bytes) -> bool:
    """Whether two records of a service ask for the same."""
    first, second = msgspec.json.decode(one), msgspec.json.decode(other)
    return all(first.get(field) == second.get(field) for field in ("spec", "enabled", "stopped"))


def _shown(tree: Tree) -> dict[str, object]:
    section = tree.section
    return {
        "name": section.name,
        "kind": section.kind,
        "target": tree.target,
        "act": "replace" if tree.target and Path(tree.target).exists() else "create",
        "size": section.size,
        "members": section.members,
    }
