"""What a run's client owes it: the outputs of the functions that its tutor wants called."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.domain import ids
from app.domain.errors import NoActionRequiredError, NotFoundError, ToolOutputsMismatchError
from app.domain.events import RunChanged, StepChanged
from app.domain.models import JsonObject, Run, RunStatus, User
from app.domain.steps import FUNCTION, RunStep, StepStatus, call_details
from app.ports import Database, RequestKey, UnitOfWork
from app.services.idempotency import first_answer, keep_answer
from app.services.relay import Relay
from app.services.runs import append
from app.services.sessions import owned


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a function returned."""

    call_id: str
    output: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a submission."""

    run: Run
    """Back in the queue."""
    seq: int
    """Place of the first event that this caused."""


class ActionService:
    """Outputs of one caller's functions."""

    def __init__(self, database: Database, relay: Relay) -> None:
        self._database = database
        self._relay = relay

    async def submit(
        self,
        user: User,
        session_id: str,
        run_id: str,
        outputs: Sequence[ToolOutput],
        *,
        wants_stream: bool = False,
    ) -> Submitted:
        """Take the outputs of all open calls, and let the run go on.

        They commit with its way back into the queue, where it comes before all that its session
        has waiting: a worker that dies after this has nothing to ask the client for again.

        Raises:
            NotFoundError: There is no such run, or it is somebody else's.
            NoActionRequiredError: It waits for nothing.
            ToolOutputsMismatchError: Not each open call is answered, and that once.
            TooManyStreamsError: The rest could not be streamed.
        """
        async with self._database.transaction() as uow:
            if wants_stream:
                self._relay.check_room(user)
            return await _submit(uow, user, session_id, run_id, outputs)

    async def submit_once(
        self,
        user: User,
        session_id: str,
        run_id: str,
        outputs: Sequence[ToolOutput],
        request: RequestKey | None,
    ) -> JsonObject:
        """Do so for a request that may be sent again; return the run's body.

        Raises:
            DomainError: Any that `submit` raises.
            IdempotencyKeyReusedError, RequestInFlightError: As `first_answer`.
        """
        async with self._database.transaction() as uow:
            if again := await first_answer(uow, user, request):
                return again
            submitted = await _submit(uow, user, session_id, run_id, outputs)
            body = submitted.run.body()
            return await keep_answer(uow, user, request, body, session_id=session_id)


async def _submit(
    uow: UnitOfWork, user: User, session_id: str, run_id: str, outputs: Sequence[ToolOutput]
) -> Submitted:
    session = await owned(uow, user, session_id, for_update=True)
    run = await uow.runs.get(user.id, session_id, run_id)
    if run is None:
        raise NotFoundError
    if run.status is not RunStatus.REQUIRES_ACTION:
        raise NoActionRequiredError(run.status)
    open_calls = [call.id for call in run.tool_calls]
    given = [output.call_id for output in outputs]
    if sorted(given) != sorted(open_calls):
        raise ToolOutputsMismatchError(open_calls, given)
    ended = _answered(run, await uow.runs.steps(run), outputs)
    queued = RunChanged(replace(run, status=RunStatus.QUEUED, tool_calls=()))
    await append(uow, session, ended, queued)
    uow.wake_workers(new_run=True)
    return Submitted(queued.run, session.last_seq + 1)


def _answered(run: Run, steps: Sequence[RunStep], outputs: Sequence[ToolOutput]) -> StepChanged:
    """Return the step that asked, ended with all its outputs."""
    given = {output.call_id: output.output for output in outputs}
    asking = [
        step for step in steps if step.kind == FUNCTION and step.status is StepStatus.IN_PROGRESS
    ]
    if not asking:
        # A worker of an earlier release asked: it kept no steps.
        details = call_details(run.tool_calls)
        identity, status = ids.new_id(ids.STEP), StepStatus.IN_PROGRESS
        asking = [RunStep(identity, run.session_id, run.id, FUNCTION, status, details)]
    step = asking[-1]
    calls = [replace(call, output=given.get(call.id, call.output)) for call in step.calls]
    done = replace(step, status=StepStatus.COMPLETED, details=call_details(calls))
    return StepChanged(done, is_new=not step.seq)
