"""The upstream adapter for threads and runs, on `AsyncOpenAI`.

A run goes on without its listener, and is found again by its name or in its thread. So a stream
that breaks costs no second generation: the run is polled, and its messages are read.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from app.adapters.assistants import decode, request
from app.adapters.assistants.steps import StepReader
from app.adapters.assistants.tail import RunName, Tail, digest_of
from app.adapters.assistants.tutors import UpstreamTutors
from app.adapters.wire.client import Hearing, Listen, UpstreamConfig, WireClient
from app.adapters.wire.errors import TUTOR_LOST, interrupted, translated
from app.adapters.wire.sse import NamedEventDecoder
from app.adapters.wire.values import ident
from app.domain.errors import ThreadBusyError, ThreadLostError, UpstreamError
from app.domain.models import RunStatus
from app.domain.steps import FUNCTION
from app.ports import Ended, Generation, Started, Thread, Turn, Tutors

BETA: Final = {"OpenAI-Beta": "assistants=v2"}
MESSAGES_A_CALL: Final = 32
"""The most that a thread may be opened with, or a run may add."""
LISTED: Final = 100
POLL_S: Final = 1.0
MAX_POLL_S: Final = 10.0
"""Between two polls, if the upstream names no time, and at most."""
_GONE: Final = frozenset({"upstream_not_found", ThreadLostError.code})
_TOLD_WHOLE: Final = frozenset(
    {RunStatus.COMPLETED, RunStatus.INCOMPLETE, RunStatus.REQUIRES_ACTION}
)
"""Ends after which what was said counts."""


class AssistantsUpstream:
    """A server that speaks threads and runs."""

    is_background = True
    """A generation always goes on when its listener is gone."""

    def __init__(self, config: UpstreamConfig, book: Tutors) -> None:
        self._wire = WireClient(config, BETA)
        self._tutors = UpstreamTutors(self._wire, book)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._wire.aclose()

    async def tidy(self) -> None:
        """Delete assistants that no run has used for long."""
        await self._tutors.tidy()

    # ------------------------------------------------------------ threads

    async def open_thread(self, turns: Sequence[Turn]) -> Thread | None:
        """Open a thread that holds `turns`."""
        messages = [request.message(turn) for turn in turns]
        with translated():
            body = {"messages": messages[:MESSAGES_A_CALL]} if messages else {}
            thread_id = ident((await self._wire.call("post", "/threads", body))["id"])
            try:
                await self._add(thread_id, messages[MESSAGES_A_CALL:])
                newest = await self._newest(thread_id) if messages else ""
            except UpstreamError:
                # Nobody knows of it yet, so nobody else would ever delete it.
                with suppress(UpstreamError):
                    await self.delete_thread(thread_id)
                raise
        return Thread(thread_id, 0, str(Tail(message_id=newest)))

    async def _add(self, thread_id: str, messages: Sequence[dict[str, Any]]) -> None:
        for message in messages:
            await self._wire.call("post", f"/threads/{thread_id}/messages", message)

    async def _newest(self, thread_id: str) -> str:
        """Return the id of the newest message."""
        query = {"limit": 1, "order": "desc"}
        page = await self._wire.call("get", f"/threads/{thread_id}/messages", query=query)
        return ident(page["data"][0]["id"])

    async def delete_thread(self, thread_id: str) -> None:
        """Delete it and what it holds; one that is gone already is fine."""
        try:
            await self._wire.call("delete", f"/threads/{thread_id}")
        except UpstreamError as error:
            if error.code not in _GONE:
                raise

    async def delete_response(self, response_id: str) -> None:
        """Do nothing: a run goes with its thread."""

    # ------------------------------------------------------------ generations

    async def generate(self, generation: Generation, listen: Listen) -> Ended:
        """Ask for one answer; `listen` hears of it as it comes.

        The turns go with the run that answers them, in one request: both are there, or neither.
        """
        thread_id = generation.thread_id
        if thread_id is None:
            raise ThreadLostError(retryable=True)
        if generation.outputs:
            return await self._submit(generation, listen)
        tail = Tail.read(generation.tail)
        messages = [request.message(turn) for turn in generation.turns]
        early, asked = messages[:-MESSAGES_A_CALL], messages[-MESSAGES_A_CALL:]
        tutor_id = await self._tutors.id_of(generation)
        path = f"/threads/{thread_id}/runs"
        try:
            await self._add(thread_id, early)
            body = request.run(generation, tutor_id, asked)
            try:
                return await self._heard(path, body, tail, listen)
            except UpstreamError as error:
                if error.code != TUTOR_LOST:
                    raise
            # Nothing was generated: it was deleted upstream, or never was of this upstream.
            await self._tutors.forget(tutor_id)
            body["assistant_id"] = await self._tutors.id_of(generation)
            return await self._heard(path, body, tail, listen)
        except UpstreamError as error:
            if isinstance(error, ThreadBusyError):
                await self._free(thread_id)
            if early and not error.generated:
                # The thread holds some of the turns now: it is looked at before it is used again.
                raise interrupted() from None
            raise

    async def _submit(self, generation: Generation, listen: Listen) -> Ended:
        """Give a run what its functions returned, and hear how it goes on."""
        asked, tail = RunName.read(generation.asked_by), Tail.read(generation.tail)
        if asked is None or asked.thread_id != generation.thread_id:
            raise ThreadLostError(retryable=True)
        try:
            body = request.outputs(generation.outputs)
            return await self._heard(f"{asked.path}/submit_tool_outputs", body, tail, listen)
        except UpstreamError as error:
            if error.code == "upstream_not_found":
                raise ThreadLostError(retryable=True) from None
            if error.code != "upstream_rejected" or error.generated:
                raise
            run = await self._wire.call("get", asked.path)
            with translated():
                if digest_of(run) == tail.calls:
                    raise
            # It has them already, or has ended meanwhile.
            raise interrupted() from None

    async def _heard(
        self, path: str, body: Mapping[str, Any], tail: Tail, listen: Listen
    ) -> Ended:
        thread_id = path.split("/")[2]
        decoder = decode.RunDecoder(thread_id, tail)
        hearing = Hearing(NamedEventDecoder().feed, decoder.decode, listen)
        ended = await self._wire.hear(path, hearing, body=body)
        if ended.status not in _TOLD_WHOLE or decoder.is_whole:
            return ended
        try:
            return await self._account(thread_id, decoder.run, tail)
        except UpstreamError:
            # Whatever keeps us from reading it, there is an answer.
            raise interrupted() from None

    async def _free(self, thread_id: str) -> None:
        """Cancel a run that waits for us to call functions: nobody will, or none would be new."""
        with suppress(UpstreamError), translated():
            runs = await self._runs(thread_id, {"limit": 1, "order": "desc"})
            if runs and runs[0]["status"] == "requires_action":
                path = f"/threads/{thread_id}/runs/{ident(runs[0]['id'])}"
                await self._wire.call("post", f"{path}/cancel")

    async def _account(self, thread_id: str, run: dict[str, Any], tail: Tail) -> Ended:
        """Return how a run ended, with what it said as the thread has it."""
        with translated():
            messages = await self._said(RunName(thread_id, run["id"], tail))
            ended = decode.ended(run, messages, tail)
            if not messages and run["status"] == "completed":
                newest = await self._newest(thread_id)
                ended = replace(ended, tail=str(Tail(run["id"], newest)))
        return ended

    async def _said(self, named: RunName) -> list[dict[str, Any]]:
        """Return a run's messages, oldest first, with the text that they have so far."""
        query = {"run_id": named.run_id, "limit": LISTED, "order": "desc"}
        path = f"/threads/{named.thread_id}/messages"
        found: list[dict[str, Any]] = []
        for message in (await self._wire.call("get", path, query=query))["data"]:
            # Not all servers know the filter, or tell whose a message is.
            if message["id"] == named.tail.message_id and not named.tail.is_open:
                break
            if message["role"] == "assistant" and message.get("run_id") in {None, named.run_id}:
                found.insert(0, message)
        return found

    async def _runs(self, thread_id: str, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        page = await self._wire.call("get", f"/threads/{thread_id}/runs", query=query)
        return list(page["data"])

    # ------------------------------------------------------------ what became of them

    async def outcome(
        self, *, response_id: str | None, thread_id: str | None, tail: str | None, listen: Listen
    ) -> Ended | None:
        """Ask what became of a generation whose end was not seen; None if nothing did."""
        with translated():
            try:
                known = Tail.read(tail)
                named = RunName.read(response_id)
                if named is None and thread_id is not None:
                    named = await self._unheard(thread_id, known, listen)
                if named is None:
                    return None
                if known.is_open or not named.tail.is_open:
                    named = replace(named, tail=known)
                return await self._settled(named, listen)
            except UpstreamError as error:
                if error.code == "upstream_not_found":
                    # Its thread may hold what we know nothing of.
                    raise ThreadLostError(retryable=True) from None
                raise

    async def _unheard(self, thread_id: str, tail: Tail, listen: Listen) -> RunName | None:
        """Find the run that was begun after a thread's known tail, if its request arrived."""
        if tail.is_open:
            return RunName(thread_id, tail.run_id, tail)
        query: dict[str, Any] = {"limit": 1, "order": "asc"}
        after = {"after": tail.message_id} if tail.message_id else {}
        path = f"/threads/{thread_id}/messages"
        if not (await self._wire.call("get", path, query=query | after))["data"]:
            return None
        after = {"after": tail.run_id} if tail.run_id else {}
        runs = await self._runs(thread_id, {"limit": LISTED, "order": "asc"} | after)
        if not runs or runs[-1]["status"] == "cancelled":
            # Turns without a run: asked again here, they would stand there twice.
            raise ThreadLostError(retryable=True)
        found = RunName(thread_id, ident(runs[-1]["id"]), tail)
        listen(Started(str(found)))
        return found

    async def _settled(self, named: RunName, listen: Listen | None = None) -> Ended | None:
        """Wait for a run's end; `listen` hears what is new of its messages meanwhile.

        None if it still waits for the functions that the thread's tail tells of.
        """
        tail, reread = named.tail, decode.Rereader()
        while True:
            run, headers = await self._wire.answer("get", named.path)
            if run["status"] not in decode.RUNNING:
                if tail.is_open and digest_of(run) == tail.calls:
                    return None
                if listen is not None:
                    await self._tell_steps(named.path, run, listen)
                return await self._account(named.thread_id, run, tail)
            if listen is not None:
                for event in reread.news(tail.fresh(await self._said(named))):
                    listen(event)
            await asyncio.sleep(_pause_s(headers))

    async def _tell_steps(self, path: str, run: dict[str, Any], listen: Listen) -> None:
        """Tell what the upstream's own tools did unheard; those of ours are told with the end."""
        if all(tool["type"] == FUNCTION for tool in run.get("tools") or ()):
            return
        reader = StepReader()
        page = await self._wire.call(
            "get", f"{path}/steps", query={"limit": LISTED, "order": "asc"}
        )
        for step in page["data"]:
            for told in reader.read(step["status"], step):
                listen(told)

    async def cancel(self, response_id: str) -> Ended | None:
        """Stop a run; return how it ended."""
        named = RunName.read(response_id)
        if named is None:
            return None
        with translated():
            try:
                await self._wire.call("post", f"{named.path}/cancel")
            except UpstreamError as error:
                if error.code in _GONE:
                    return None
                # It has ended already.
                if error.code != "upstream_rejected":
                    raise
            return await self._settled(named)


def _pause_s(headers: Mapping[str, str]) -> float:
    """Return how long to wait before the next poll, as the upstream asks."""
    try:
        asked = float(headers.get("openai-poll-after-ms", "")) / 1000
    except ValueError:
        return POLL_S
    return min(asked, MAX_POLL_S) if asked > 0 else POLL_S
