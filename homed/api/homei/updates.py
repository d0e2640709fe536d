"""`/api/v1/update`: the system's slots, what is being installed into them, and what came of earlier updates."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from homed.access.scopes import Scope
from homed.api import transfers
from homed.api.routes import Call, Handler, Route
from homed.clock import now
from homed.errors import FieldError, NotFoundError, ValidationError
from homed.updates import download
from homed.updates.bundle import Inspection
from homed.updates.records import Bundle, Complaint, Failure, Reboot, Source, State, Step, Update
from homed.updates.slots import Slot
from homed.updates.updater import Request, Updater

PATH = "/api/v1/update"
BundlePath = Annotated[
    str, Meta(min_length=1, max_length=4096, pattern=r"^/[^\x00]*$(?!\n)", description="an absolute path")
]


class Install(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A bundle on the board, or a URL that homed downloads it from; what is not given is as configured."""

    bundle_path: BundlePath | None = None
    bundle_url: Annotated[str, Meta(min_length=8, max_length=4096)] | None = None
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}$(?!\n)", description="64 hexadecimal digits")] | None = None
    reboot: Literal["now", "never", "window"] | None = None
    require_confirmation: bool | None = None
    allow_downgrade: bool | None = None
    ignore_compatible: bool = False


class Inspect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bundle_path: BundlePath


class MarkBad(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`booted`, `other` or a slot's name."""

    slot: Annotated[str, Meta(min_length=1, max_length=64)] = "booted"


class Progress(msgspec.Struct, frozen=True):
    percentage: int
    message: str


class JudgementShown(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be healthy again, what is not yet, and until when; `boots` counts the boots into the new system."""

    required: Sequence[str]
    waiting_on: Sequence[Complaint]
    started_at: datetime
    deadline_at: datetime
    healthy_since: datetime | None
    verdict: str | None
    boots: int


class UpdateShown(msgspec.Struct, frozen=True, kw_only=True):
    """One update. `waiting_for` is confirmation, window, reboot or rauc, where it waits."""

    id: str
    kind: str
    state: State
    waiting_for: str | None
    source: Source
    bundle: Bundle | None
    from_slot: str | None
    to_slot: str | None
    reboot: Reboot
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    progress: Progress | None
    error: Failure | None
    judgement: JudgementShown | None
    steps: Sequence[Step]
    interruptions: int
    has_journal: bool
    state_restored: bool


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """RAUC's view of the board, as it was at `as_of`, and the update under way."""

    compatible: str
    variant: str
    booted: str | None
    primary: str | None
    operation: str
    progress: Progress
    last_error: str
    rauc: Literal["available", "unavailable"]
    as_of: datetime | None
    slots: Sequence[Slot]
    update: UpdateShown | None


class Started(msgspec.Struct, frozen=True):
    status: str
    message: str
    id: str


class Done(msgspec.Struct, frozen=True):
    status: str
    message: str


class HistoryAnswer(msgspec.Struct, frozen=True):
    updates: Sequence[UpdateShown]


def routes(updater: Updater) -> list[Route]:
    resource = _Resource(updater)

    def read(path: str, handler: Handler, summary: str, response: object, **more: object) -> Route:
        # Not of the class of those that change something: who waits for an update has to look often.
        return Route("GET", f"{PATH}{path}", handler, summary, "Updates", "system", response=response, **more)  # type: ignore[arg-type]

    def act(path: str, handler: Handler, summary: str, response: object, change: str | None, **more: object) -> Route:
        more = {"errors": (409, 500, 503), **more}
        return Route(
            "POST", f"{PATH}{path}", handler, summary, "Updates", "updates", scope=Scope.OPERATE,
            response=response, change=change, **more,  # type: ignore[arg-type]
        )  # fmt: skip

    identity = {"update_id": "The update's id."}
    return [
        read("/status", resource.status, "Get the slots and the update under way", Status),
        act("/install", resource.install, "Install an update", Started, "update.install", body=Install,
            errors=(400, 404, 409, 422, 500, 502, 503, 507)),
        act("/inspect", resource.inspect, "Say what a bundle would install", Inspection, None, body=Inspect,
            errors=(400, 404, 409, 422, 500, 503)),
        act("/confirm", resource.confirm, "Let the update that waits for it go on", Started, "update.confirm"),
        act("/cancel", resource.cancel, "Cancel the update, before RAUC writes", Started, "update.cancel"),
        act("/mark-good", resource.mark_good, "Mark the booted slot as good", Done, "update.mark_good"),
        act("/mark-bad", resource.mark_bad, "Mark a slot as bad", Done, "update.mark_bad", body=MarkBad,
            errors=(400, 409, 500, 503)),
        act("/rollback", resource.rollback, "Start the other slot, where it is good", Started, "update.rollback"),
        read("/history", resource.history, "List the updates, the newest first", HistoryAnswer),
        read("/history/{update_id}", resource.get, "Get an update", UpdateShown, params=identity, errors=(404,)),
        read("/history/{update_id}/journal", resource.journal, "Get the journal of the boot that failed", None,
             params=identity, errors=(404,), streams=("text/plain",)),
    ]  # fmt: skip


class _Resource:
    def __init__(self, updater: Updater):
        self._updater = updater

    async def status(self, call: Call) -> Status:
        facts = await self._updater.facts()
        watch = self._updater.watch
        update = self._updater.ledger.current()
        return Status(
            compatible=facts.compatible,
            variant=facts.variant,
            booted=facts.booted,
            primary=facts.primary,
            operation=watch.operation,
            progress=Progress(*watch.progress),
            last_error=facts.last_error,
            rauc="available" if watch.available else "unavailable",
            as_of=watch.as_of,
            slots=facts.slots,
            update=None if update is None else self._shown(update),
        )

    async def install(self, call: Call) -> Started:
        wanted: Install = call.body
        if (wanted.bundle_path is None) == (wanted.bundle_url is None):
            raise ValidationError([FieldError("bundle_path", "either it or bundle_url must be given")])
        update = await self._updater.install(
            Request(
                source=Source(wanted.bundle_path, wanted.bundle_url),
                sha256=wanted.sha256,
                reboot=None if wanted.reboot is None else Reboot(wanted.reboot),
                require_confirmation=wanted.require_confirmation,
                allow_downgrade=wanted.allow_downgrade,
                ignore_compatible=wanted.ignore_compatible,
            )
        )
        return Started("installing", "Update installation started", update.id)

    async def inspect(self, call: Call) -> Inspection:
        return await self._updater.inspect(call.body.bundle_path)

    async def confirm(self, call: Call) -> Started:
        return Started("installing", "Update confirmed", (await self._updater.confirm()).id)

    async def cancel(self, call: Call) -> Started:
        return Started("cancelled", "Update cancelled", (await self._updater.cancel()).id)

    async def mark_good(self, call: Call) -> Done:
        await self._updater.mark_good()
        return Done("success", "Current slot marked as good")

    async def mark_bad(self, call: Call) -> Done:
        slot = await self._updater.mark_bad(call.body.slot)
        return Done("success", f"Slot {slot.name} marked as bad")

    async def rollback(self, call: Call) -> Started:
        update = await self._updater.rollback()
        return Started("rebooting", f"The board reboots into {update.to_slot}", update.id)

    async def history(self, call: Call) -> HistoryAnswer:
        return HistoryAnswer([self._shown(update) for update in self._updater.ledger.all()])

    async def get(self, call: Call) -> UpdateShown:
        return self._shown(self._updater.ledger.get(call.path["update_id"]))

    async def journal(self, call: Call) -> web.StreamResponse:
        update = self._updater.ledger.get(call.path["update_id"])
        path = self._updater.desk.journal_of(update)
        if not update.has_journal:
            raise NotFoundError(f"no journal of update {update.id} was kept", code="JOURNAL_NOT_FOUND")
        return await transfers.send(call.request, path, "text/plain; charset=utf-8", inline=True)

    def _shown(self, update: Update) -> UpdateShown:
        desk = self._updater.desk
        runs = not update.ended
        return UpdateShown(
            id=update.id,
            kind=update.kind,
            state=update.state,
            waiting_for=desk.waiting_for if runs else None,
            source=shown(update.source),
            bundle=update.bundle,
            from_slot=update.from_slot,
            to_slot=update.to_slot,
            reboot=update.reboot,
            created_at=update.created_at,
            updated_at=update.updated_at,
            finished_at=update.finished_at,
            progress=Progress(*desk.progress) if runs and desk.progress is not None else None,
            error=update.failure,
            judgement=self._judgement(update),
            steps=update.steps,
            interruptions=update.interruptions,
            has_journal=update.has_journal,
            state_restored=update.state_restored,
        )

    def _judgement(self, update: Update) -> JudgementShown | None:
        judgement, live = update.judgement, self._updater.desk.live
        if judgement is None:
            return None
        runs = update.state is State.JUDGING and live is not None
        since = judgement.healthy_since
        if runs and live is not None and live.healthy_since is not None:
            since = now() - timedelta(seconds=max(0.0, self._updater.boot_clock() - live.healthy_since))
        return JudgementShown(
            required=update.required,
            waiting_on=live.complaints if runs and live is not None else judgement.waiting_on,
            started_at=judgement.started_at,
            deadline_at=judgement.deadline_at,
            healthy_since=since,
            verdict=judgement.verdict,
            boots=len(update.boots),
        )


def shown(source: Source) -> Source:
    """The source without what must not be seen."""
    return source if source.url is None else Source(url=download.shown(source.url))
