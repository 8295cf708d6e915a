"""Runs of a thread: created, also together with it, streamed, polled, cancelled."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from app.api import present
from app.api.compat import bodies, objects
from app.api.compat.deps import Caller, ThreadId, WireCursor
from app.api.compat.errors import WireError, WireRoute, missing
from app.api.compat.translate import Translator, block
from app.api.deps import PageOf, RunId, Services
from app.api.stream import EventStreamResponse
from app.container import ApiServices
from app.domain.errors import (
    NoActionRequiredError,
    NotFoundError,
    NothingToAnswerError,
    RunEndedError,
    SessionBusyError,
    ToolOutputsMismatchError,
)
from app.domain.models import AssistantConfig, Run, User
from app.services.relay import NewRun
from app.services.threads import NO_ASSISTANT

router = APIRouter(route_class=WireRoute)

_RUNS: Final = "/threads/{thread_id}/runs"


@contextmanager
def _ordering(assistant_id: str, thread_id: str) -> Generator[None]:
    """Say in the wire's words, which clients look for, why there is no run."""
    try:
        yield
    except SessionBusyError as error:
        raise WireError(
            f"Thread {thread_id} already has an active run {error.active_run_id}."
        ) from None
    except NothingToAnswerError:
        raise WireError(f"Thread {thread_id} has no message of the user to answer.") from None
    except NotFoundError as error:
        if error.detail != NO_ASSISTANT:
            raise
        raise WireError(missing("assistant", assistant_id), status=404) from None


async def _config(services: ApiServices, user: User, run: Run) -> AssistantConfig:
    versions = await services.assistants.used_by([run])
    return objects.config_of(user, run, versions)


async def _answer(services: ApiServices, user: User, run: Run) -> Response:
    config = await _config(services, user, run)
    headers = {"openai-poll-after-ms": str(objects.POLL_AFTER_MS)}
    return present.body(objects.run(run.body(), config), headers=headers)


async def _follow(
    services: ApiServices, user: User, new: NewRun, prologue: bytes = b""
) -> EventStreamResponse:
    translator = Translator(await _config(services, user, new.run), prologue=prologue)
    return EventStreamResponse(services.relay.follow_new_run(user, new), translator=translator)


@router.post("/threads/runs")
async def create_thread_and_run(
    user: Caller, services: Services, wanted: bodies.ThreadRunCreate
) -> Response:
    """Open a thread and enqueue its first run, or do neither."""
    thread = wanted.thread or bodies.ThreadCreate()
    said = thread.said(services.users.limits.message_chars)
    with _ordering(wanted.assistant_id, "that is new"):
        session, new = await services.threads.open_and_start(
            user, said, dict(thread.metadata or {}), wanted.order()
        )
    if wanted.stream:
        prologue = block("thread.created", objects.thread(session.body()))
        return await _follow(services, user, new, prologue)
    return await _answer(services, user, new.run)


@router.post(_RUNS)
async def create_run(
    user: Caller, services: Services, thread_id: ThreadId, wanted: bodies.RunCreate
) -> Response:
    """Enqueue a run, with messages put into the thread before it if there are any."""
    max_chars = services.users.limits.message_chars
    order = replace(
        wanted.order(),
        messages=[message.said(max_chars) for message in wanted.additional_messages or ()],
        more_instructions=wanted.additional_instructions,
    )
    with _ordering(wanted.assistant_id, thread_id):
        new = await services.threads.start(user, thread_id, order)
    if wanted.stream:
        return await _follow(services, user, new)
    return await _answer(services, user, new.run)


@router.get(_RUNS)
async def list_runs(
    user: Caller, services: Services, thread_id: ThreadId, page: PageOf
) -> Response:
    """List them by age."""
    found = await services.runs.list(user, thread_id, page)
    versions = await services.assistants.used_by(found.items)
    items = [
        objects.run(item.body(), objects.config_of(user, item, versions)) for item in found.items
    ]
    return objects.page(items, has_more=found.has_more)


@router.get(f"{_RUNS}/{{run_id}}")
async def retrieve_run(
    user: Caller, services: Services, thread_id: ThreadId, run_id: RunId
) -> Response:
    """Poll one."""
    return await _answer(services, user, await services.runs.get(user, thread_id, run_id))


@router.post(f"{_RUNS}/{{run_id}}")
async def update_run(
    user: Caller, services: Services, thread_id: ThreadId, run_id: RunId, wanted: bodies.Annotation
) -> Response:
    """Replace its metadata."""
    if "metadata" not in wanted.model_fields_set:
        return await retrieve_run(user, services, thread_id, run_id)
    metadata = dict(wanted.metadata or {})
    run = await services.threads.annotate_run(user, thread_id, run_id, metadata)
    return await _answer(services, user, run)


@router.post(f"{_RUNS}/{{run_id}}/cancel")
async def cancel_run(
    user: Caller, services: Services, thread_id: ThreadId, run_id: RunId
) -> Response:
    """Cancel one. What it has said is kept; it may still complete if it was about to."""
    try:
        run = await services.runs.cancel(user, thread_id, run_id)
    except RunEndedError:
        ended = await services.runs.get(user, thread_id, run_id)
        raise WireError(f"Cannot cancel run with status '{ended.status}'.") from None
    return await _answer(services, user, run)


@router.post(f"{_RUNS}/{{run_id}}/submit_tool_outputs")
async def submit_tool_outputs(
    user: Caller,
    services: Services,
    thread_id: ThreadId,
    run_id: RunId,
    wanted: bodies.ToolOutputsSubmit,
) -> Response:
    """Take what the functions returned; the run goes on, with `stream` in a second stream."""
    given = wanted.given(services.users.limits.tool_output_chars)
    try:
        submitted = await services.actions.submit(
            user, thread_id, run_id, given, wants_stream=bool(wanted.stream)
        )
    except NoActionRequiredError as error:
        words = f'Runs in status "{error.status}" do not accept tool outputs.'
        raise WireError(words) from None
    except ToolOutputsMismatchError as error:
        # What else a client may send for an id is not repeated.
        got = [call_id if call_id in error.open_calls else "…" for call_id in error.given]
        raise WireError(
            f"Expected tool outputs for call_ids {list(error.open_calls)}, got {got}",
            param="tool_outputs",
        ) from None
    run = submitted.run
    if not wanted.stream:
        return await _answer(services, user, run)
    begun = (submitted.seq, -1)
    translator = Translator(await _config(services, user, run), after=begun, reopens=True)
    stream = await services.relay.follow_run(user, thread_id, run_id, after=None)
    if stream is None:
        raise NotFoundError
    return EventStreamResponse(stream, translator=translator)


@router.get(f"{_RUNS}/{{run_id}}/events")
async def follow_run(
    user: Caller, services: Services, thread_id: ThreadId, run_id: RunId, cursor: WireCursor
) -> Response:
    """Go on with a stream after `Last-Event-ID`, or follow a run from its start: an extension."""
    run = await services.runs.get(user, thread_id, run_id)
    translator = Translator(await _config(services, user, run), after=cursor)
    stream = await services.relay.follow_run(user, thread_id, run_id, after=None)
    if stream is None:
        raise NotFoundError
    return EventStreamResponse(stream, translator=translator)
