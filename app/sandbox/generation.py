"""From a plan to a response: its events in order, its final body, its usage."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from app.sandbox.ids import new_call_id, new_id
from app.sandbox.items import Item, text_of
from app.sandbox.state import StoredResponse
from app.sandbox.wire import DeltaEncoder, count_tokens, split_tokens, sse

_log = logging.getLogger(__name__)
_YIELD_EVERY: Final = 8
"""Deltas after which others get their turn when nothing else makes us wait."""
_CALL_TOKENS: Final = 12
"""Rough cost of a function call besides its arguments."""


@dataclass(frozen=True, slots=True)
class Say:
    """The tutor answers with a text, and cites what it was taken from."""

    text: str
    annotations: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """The tutor wants a function called; `arguments` is JSON."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class RunCode:
    """The upstream runs code, which prints something."""

    code: str
    logs: str
    container_id: str


@dataclass(frozen=True, slots=True)
class Search:
    """The upstream searches files."""

    queries: list[str]
    results: list[dict[str, Any]]


Plan = list[Say | Call | RunCode | Search]


@dataclass(frozen=True, slots=True)
class Ending:
    """A fault inside the upstream, after some events: it fails, stops, or never starts."""

    kind: Literal["fail", "error", "incomplete", "stuck"]
    after_deltas: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Job:
    """What one generation needs to know."""

    response: StoredResponse
    plan: Callable[[], Awaitable[Plan]]
    tokens_per_second: float
    max_output_tokens: int | None
    obfuscate: bool
    include: frozenset[str]
    ending: Ending | None
    on_completed: Callable[[], None]


class _EndedError(Exception):
    """An injected ending was reached."""


class Generation:
    """Yields a response's events as bytes and keeps its body up to date."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._response = job.response
        self._sequence = 0
        self._deltas = 0
        self._tokens = 0
        self._started = 0.0

    async def events(self) -> AsyncIterator[bytes]:
        """Generate to the end.

        The body is final, and the conversation written and free, before the last event
        is yielded: whoever reads `response.completed` may go on at once.
        """
        body = self._response.body
        yield self._snapshot("response.created")
        if self._response.background:
            yield self._snapshot("response.queued")
        if self._job.ending is not None and self._job.ending.kind == "stuck":
            await asyncio.Event().wait()
        body["status"] = "in_progress"
        yield self._snapshot("response.in_progress")
        try:
            plan = await self._job.plan()
        except Exception:  # noqa: BLE001 - whatever it was, the response has failed
            _log.exception("the tutor failed")
            self._fail("The tutor failed.")
            yield self._snapshot("response.failed")
            return
        self._started = time.monotonic()
        complete = True
        try:
            for index, part in enumerate(plan):
                async for event in self._take_part(index, part):
                    yield event
                complete = body["incomplete_details"] is None
                if not complete:
                    break
            self._check_ending(final=True)
        except _EndedError:
            yield self._ended()
            return
        self._settle("completed" if complete else "incomplete")
        yield self._snapshot(f"response.{body['status']}")

    def _take_part(self, index: int, part: Say | Call | RunCode | Search) -> AsyncIterator[bytes]:
        match part:
            case Say():
                return self._say(index, part)
            case Call():
                return self._call(index, part)
            case RunCode():
                return self._run_code(index, part)
            case Search():
                return self._search(index, part)

    async def _say(self, index: int, part: Say) -> AsyncIterator[bytes]:
        item: Item = {
            "id": new_id("msg"),
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        place = {"item_id": item["id"], "output_index": index, "content_index": 0}
        yield self._event("response.output_item.added", output_index=index, item=item)
        yield self._event("response.content_part.added", **place, part=_text_part(""))
        encoder = DeltaEncoder(
            "response.output_text.delta",
            {**place, "logprobs": []},
            obfuscate=self._job.obfuscate,
        )
        written: list[str] = []
        status = "completed"
        self._response.body["output"].append(item)
        for token in split_tokens(part.text):
            limit = self._job.max_output_tokens
            if limit is not None and self._tokens >= limit:
                status = "incomplete"
                self._response.body["incomplete_details"] = {"reason": "max_output_tokens"}
                break
            try:
                await self._pace()
            except _EndedError:
                item["content"] = [_text_part("".join(written))]
                raise
            written.append(token)
            yield encoder.encode(token, self._take())
        text = "".join(written)
        notes = [note for note in part.annotations if note["index"] <= len(text)]
        for number, note in enumerate(notes):
            yield self._event(
                "response.output_text.annotation.added",
                **place,
                annotation_index=number,
                annotation=note,
            )
        item |= {"status": status, "content": [_text_part(text, notes)]}
        yield self._event("response.output_text.done", **place, text=text, logprobs=[])
        yield self._event("response.content_part.done", **place, part=_text_part(text, notes))
        yield self._event("response.output_item.done", output_index=index, item=item)

    async def _call(self, index: int, part: Call) -> AsyncIterator[bytes]:
        item: Item = {
            "id": new_id("fc"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": new_call_id(),
            "name": part.name,
            "arguments": "",
        }
        place = {"item_id": item["id"], "output_index": index}
        yield self._event("response.output_item.added", output_index=index, item=item)
        encoder = DeltaEncoder(
            "response.function_call_arguments.delta", place, obfuscate=self._job.obfuscate
        )
        self._response.body["output"].append(item)
        for token in split_tokens(part.arguments):
            await self._pace()
            yield encoder.encode(token, self._take())
        item |= {"status": "completed", "arguments": part.arguments}
        self._tokens += _CALL_TOKENS
        yield self._event(
            "response.function_call_arguments.done",
            **place,
            name=part.name,
            arguments=part.arguments,
        )
        yield self._event("response.output_item.done", output_index=index, item=item)

    async def _run_code(self, index: int, part: RunCode) -> AsyncIterator[bytes]:
        item: Item = {
            "id": new_id("ci"),
            "type": "code_interpreter_call",
            "status": "in_progress",
            "code": "",
            "container_id": part.container_id,
            "outputs": None,
        }
        place = {"item_id": item["id"], "output_index": index}
        yield self._event("response.output_item.added", output_index=index, item=item)
        yield self._event("response.code_interpreter_call.in_progress", **place)
        encoder = DeltaEncoder(
            "response.code_interpreter_call_code.delta", place, obfuscate=self._job.obfuscate
        )
        self._response.body["output"].append(item)
        for token in split_tokens(part.code):
            await self._pace()
            yield encoder.encode(token, self._take())
        yield self._event("response.code_interpreter_call_code.done", **place, code=part.code)
        yield self._event("response.code_interpreter_call.interpreting", **place)
        yield self._event("response.code_interpreter_call.completed", **place)
        item |= {"status": "completed", "code": part.code}
        if "code_interpreter_call.outputs" in self._job.include:
            item["outputs"] = [{"type": "logs", "logs": part.logs}]
        yield self._event("response.output_item.done", output_index=index, item=item)

    async def _search(self, index: int, part: Search) -> AsyncIterator[bytes]:
        item: Item = {
            "id": new_id("fs"),
            "type": "file_search_call",
            "status": "in_progress",
            "queries": [],
            "results": None,
        }
        place = {"item_id": item["id"], "output_index": index}
        yield self._event("response.output_item.added", output_index=index, item=item)
        self._response.body["output"].append(item)
        yield self._event("response.file_search_call.in_progress", **place)
        yield self._event("response.file_search_call.searching", **place)
        await self._pace()
        yield self._event("response.file_search_call.completed", **place)
        item |= {"status": "completed", "queries": part.queries}
        if "file_search_call.results" in self._job.include:
            item["results"] = part.results
        yield self._event("response.output_item.done", output_index=index, item=item)

    async def _pace(self) -> None:
        """Wait for the next token's time; the clock is absolute, so delays do not add up."""
        self._check_ending(final=False)
        self._deltas += 1
        self._tokens += 1
        pace = self._job.tokens_per_second
        if pace > 0:
            wait = self._started + self._deltas / pace - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
                return
        if self._deltas % _YIELD_EVERY == 0:
            await asyncio.sleep(0)

    def _check_ending(self, *, final: bool) -> None:
        ending = self._job.ending
        if ending is not None and (final or self._deltas >= ending.after_deltas):
            raise _EndedError

    def _ended(self) -> bytes:
        ending, body = self._job.ending, self._response.body
        if ending is None:
            raise AssertionError("only an injected ending ends a generation")
        _close_output(body["output"])
        if ending.kind == "incomplete":
            body["incomplete_details"] = {"reason": "content_filter"}
            self._settle("incomplete")
            return self._snapshot("response.incomplete")
        self._fail(ending.message, ending.code)
        if ending.kind == "error":
            return self._event("error", code=ending.code, message=ending.message, param=None)
        return self._snapshot("response.failed")

    def _fail(self, message: str, code: str = "server_error") -> None:
        self._response.body["error"] = {"code": code, "message": message}
        self._settle("failed")

    def _settle(self, status: str) -> None:
        """Make the body final; only finished turns reach the conversation."""
        response, body = self._response, self._response.body
        body["status"] = status
        body["usage"] = self.usage()
        if status == "completed":
            body["completed_at"] = time.time()
            self._job.on_completed()
        if status in {"completed", "incomplete"} and response.conversation is not None:
            response.conversation.add(response.input_items)
            response.conversation.add(body["output"])
        response.close()

    def usage(self) -> dict[str, Any]:
        """Count what was read and written so far."""
        response = self._response
        texts = [text_of(item) for item in [*response.history, *response.input_items]]
        spent = sum(count_tokens(text) + 4 for text in texts)
        spent += count_tokens(response.body["instructions"] or "")
        spent += sum(count_tokens(str(tool)) for tool in response.body["tools"])
        return {
            "input_tokens": spent,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": self._tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": spent + self._tokens,
        }

    def _snapshot(self, kind: str) -> bytes:
        body = self._response.body
        if body["status"] in {"queued", "in_progress"}:
            none_yet: list[Item] = []
            body = {**body, "output": none_yet}
        return self._event(kind, response=body)

    def _event(self, kind: str, **fields: Any) -> bytes:
        return sse({"type": kind, "sequence_number": self._take(), **fields})

    def _take(self) -> int:
        number = self._sequence
        self._sequence += 1
        return number


def _text_part(text: str, notes: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": list(notes), "logprobs": []}


def _close_output(output: list[Item]) -> None:
    for item in output:
        if item["status"] == "in_progress":
            item["status"] = "incomplete"
