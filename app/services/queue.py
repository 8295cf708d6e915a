"""The life of a run in the queue: claim, heartbeat, hand over, expire."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from app.domain.events import Draft, RunChanged
from app.domain.models import Failure, Run, RunStatus
from app.ports import Append, Claim, Database
from app.services.unheld import cut_short, thread_after

QUEUE_EXPIRED = Failure("queue_timeout", "The tutor was too busy; please ask again.")
RUN_EXPIRED = Failure("run_timeout", "The answer took too long.")
ACTION_EXPIRED = Failure("action_timeout", "The tool's answer did not come in time.")


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How long things may take."""

    lease: timedelta
    lifetime: timedelta
    """From the first claim to `expires_at`."""
    queue_limit: timedelta
    """How long a run may wait for its first claim."""


class QueueService:
    """The queue as one worker sees it."""

    def __init__(self, database: Database, worker_id: str, policy: QueuePolicy) -> None:
        self._database = database
        self.worker_id = worker_id
        self.policy = policy

    async def claim(self, limit: int) -> Sequence[Claim]:
        """Take runs that wait: each becomes `run.in_progress`, its next attempt counted."""
        lease, lifetime = self.policy.lease, self.policy.lifetime
        async with self._database.transaction() as uow:
            claims = await uow.queue.lease_queued(
                self.worker_id, lease=lease, lifetime=lifetime, limit=limit
            )
            begun = [_begun(claim.run, lifetime) for claim in claims]
            if claims:
                await uow.log.append(
                    [_takeover(c, draft) for c, draft in zip(claims, begun, strict=True)]
                )
        return [
            replace(claim, run=draft.run, last_seq=claim.last_seq + 1)
            for claim, draft in zip(claims, begun, strict=True)
        ]

    async def take_over(self, limit: int, *, reap: bool, held: Sequence[str]) -> Sequence[Claim]:
        """Take runs that were handed over and, with `reap`, runs whose holder fell silent.

        Nothing is told of it but the fence, which keeps the earlier holder out.
        """
        async with self._database.transaction() as uow:
            claims = await uow.queue.lease_abandoned(
                self.worker_id, lease=self.policy.lease, limit=limit, reap=reap, held=held
            )
            if claims:
                await uow.log.append([_takeover(claim) for claim in claims])
        return claims

    async def heartbeat(self, run_ids: Sequence[str]) -> Mapping[str, RunStatus]:
        """Renew this worker's leases; return what it still holds."""
        async with self._database.autocommit(writes=True) as uow:
            await uow.upkeep.beat(self.worker_id)
            if not run_ids:
                return {}
            return await uow.queue.heartbeat(self.worker_id, run_ids, lease=self.policy.lease)

    async def held(self, run_ids: Sequence[str]) -> Mapping[str, RunStatus]:
        """Return what this worker still holds; renew nothing."""
        async with self._database.autocommit() as uow:
            return await uow.queue.held(self.worker_id, run_ids)

    async def hand_over(self, run_ids: Sequence[str]) -> int:
        """Give runs back, resumable by other workers at once; return how many."""
        if not run_ids:
            return 0
        async with self._database.transaction() as uow:
            uow.wake_workers()
            return await uow.queue.hand_over(self.worker_id, run_ids)

    async def expire_overdue(self) -> int:
        """End runs that nobody works on and whose time is up; return how many."""
        async with self._database.transaction() as uow:
            overdue = await uow.queue.overdue(queue_limit=self.policy.queue_limit, limit=100)
            ended = [_expired(run) for run in overdue]
            appends = [
                Append(
                    run.session_id,
                    [*await cut_short(uow, run), RunChanged(run)],
                    thread=thread_after(run),
                )
                for run in ended
            ]
            if appends:
                await uow.log.append(appends)
                uow.wake_workers()
            return len(appends)


def _begun(run: Run, lifetime: timedelta) -> RunChanged:
    begun = replace(run, status=RunStatus.IN_PROGRESS, attempts=run.attempts + 1)
    return RunChanged(begun, lifetime=lifetime if run.started_at is None else None)


def _takeover(claim: Claim, *drafts: Draft) -> Append:
    return Append(
        claim.run.session_id,
        [*drafts],
        run_id=claim.run.id,
        last_seq=claim.last_seq,
        new_fence=claim.fence,
    )


def _expired(run: Run) -> Run:
    why = ACTION_EXPIRED
    if run.status is RunStatus.QUEUED:
        why = QUEUE_EXPIRED if run.started_at is None else RUN_EXPIRED
    return replace(run, status=RunStatus.EXPIRED, last_error=why)
