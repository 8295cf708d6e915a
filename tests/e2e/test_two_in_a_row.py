"""One instance relays to another: `UPSTREAM_API=assistants` at the face of a second one."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI

from tests.conftest import NewDatabase
from tests.e2e.crew import QUESTION, WORD, Asked, Hand, hire, under_way
from tests.e2e.invariants import check, check_logs
from tests.e2e.test_dialogue import (
    FIRST,
    SECOND,
    WORDS,
    assert_both_roots,
    assert_explains,
    text_of,
)
from tests.integration.test_tools import BOTH, CALCULATE, PLOT, calls_of, opened, submit, waiting
from tests.integration.test_tools import text_of as parts_of
from tests.stack import Client, Process, Stack, free_port, token, until

# Whoever still has these clients knows that the vendor gave them up.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

DELTAS = "SELECT count(*) FROM events WHERE run_id = $1 AND type = 'message.delta'"
LEASE = {"RUN_LEASE_S": "2"}
RELAY = "the-relay-before"


@dataclass
class Row:
    """The instance that students see, and the one behind it, with its one user."""

    front: Stack
    back: Stack
    relay: Client
    sdk: AsyncOpenAI
    """Of that user, at the face."""
    front_hand: Hand | None = None
    back_hand: Hand | None = None

    async def staffed(self) -> None:
        """See to it that each has one worker."""
        if self.front_hand is None:
            self.front_hand = await hire(self.front)
        if self.back_hand is None:
            self.back_hand = await hire(self.back)

    async def replace_front(self) -> None:
        """Kill the front's worker in whatever it does; another one comes."""
        assert self.front_hand is not None
        self.front_hand.process.kill()
        self.front_hand = await hire(self.front)

    async def replace_back(self) -> None:
        """Kill the worker behind; another one comes."""
        assert self.back_hand is not None
        self.back_hand.process.kill()
        self.back_hand = await hire(self.back)

    async def thread(self, session: str) -> str:
        """Return the session of the second that a session of the first is relayed to."""
        query = "SELECT upstream_thread_id FROM sessions WHERE id = $1"
        return str(await self.front.fetchval(query, session))

    async def transcripts(self, client: Client, session: str) -> tuple[list[str], list[str]]:
        """Return the texts of a conversation as the first has them, and as the second does."""
        seen = await texts_of(client, session)
        return seen, await texts_of(self.relay, await self.thread(session))

    async def behind(self, session: str) -> list[Any]:
        """Return the runs that the second made for a session of the first."""
        query = "SELECT * FROM runs WHERE session_id = $1 ORDER BY created_at"
        return await self.back.fetch(query, await self.thread(session))


async def texts_of(client: Client, session: str) -> list[str]:
    path = f"/v1/sessions/{session}/messages"
    listed = await client.call("GET", path, 200, params={"order": "asc", "limit": 100})
    return [text_of(message) for message in listed["data"]]


@pytest.fixture(scope="module")
async def both(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Row]:
    """A second instance on a sandbox that writes slowly, and a first one that relays to it."""
    folder: Path = tmp_path_factory.mktemp("row")
    back = Stack(await new_database(), folder / "back", **LEASE)
    back.sandbox_port = free_port()
    front = Stack(await new_database(), folder / "front", **LEASE)
    try:
        await asyncio.gather(back.start_sandbox(pace=40), back.start_api())
        base = f"{back.api_urls[0]}/openai/v1"
        relays = {"UPSTREAM_API": "assistants", "OPENAI_BASE_URL": base}
        front.settings |= relays | {"OPENAI_API_KEY": token(RELAY)}
        await front.start_api()
        async with AsyncOpenAI(api_key=token(RELAY), base_url=base, max_retries=0) as sdk:
            yield Row(front, back, back.client(user=RELAY), sdk)
    finally:
        await front.close()
        await back.close()


@pytest.fixture
async def row(both: Row) -> AsyncIterator[Row]:
    """Both with a worker each; whatever a test did, their promises were kept."""
    await both.staffed()
    yield both
    await check(both.front.database_url)
    await check(both.back.database_url)
    key = both.front.settings["OPENAI_API_KEY"]
    check_logs(both.front.logs() + both.back.logs(), *WORDS, WORD, key)


async def begun(row: Row, question: str = QUESTION) -> Asked:
    """Ask, and wait for the first words."""
    client = row.front.client()
    session = await client.open_session()
    posted = await client.post(session, question)
    asked = Asked(client, session, posted["run"]["id"])
    await under_way(row.front, [asked])
    return asked


async def gone(row: Row, thread: str) -> None:
    """Wait until the second has deleted a session, and what it had upstream."""

    async def is_gone() -> bool:
        query = "SELECT count(*) FROM sessions WHERE id = $1"
        return await row.back.fetchval(query, thread) == 0

    await until(is_gone, within=90, every=0.5)


def alive(process: Process) -> bool:
    return process.popen.poll() is None


async def withdrawn(stack: Stack, run: str) -> int:
    """Count how often what a run had shown was taken back."""
    query = "SELECT count(*) FROM events WHERE run_id = $1 AND type = 'message.reset'"
    return int(await stack.fetchval(query, run))


async def test_the_tutorials_dialogue_says_the_same_through_both(row: Row) -> None:
    client = row.front.client()
    session = await client.open_session()
    first_run, first = await client.ask(session, FIRST, within=60)
    second_run, second = await client.ask(session, SECOND, within=60)
    assert_both_roots(first)
    assert_explains(second)
    seen, behind = await row.transcripts(client, session)
    assert seen == behind == [FIRST, first, SECOND, second]
    for run, other in zip([first_run, second_run], await row.behind(session), strict=True):
        assert run["attempts"] == other["attempts"] == 1
        assert run["status"] == other["status"] == "completed"
        assert run["usage"] == json.loads(other["usage"])
    assert await row.front.fetchval("SELECT count(*) FROM upstream_tutors") == 1


async def test_the_first_ones_worker_is_killed_and_the_answer_is_not_made_twice(row: Row) -> None:
    asked = await begun(row)
    await row.replace_front()
    run = await asked.client.ended(asked.session, asked.run, within=60)
    assert (run["status"], run["attempts"]) == ("completed", 1)
    seen, behind = await row.transcripts(asked.client, asked.session)
    assert seen == behind
    assert len(seen) == 2
    (other,) = await row.behind(asked.session)
    assert other["attempts"] == 1
    # What was shown before was not shown again, nor taken back.
    assert await withdrawn(row.front, asked.run) == 0
    assert run["usage"] == json.loads(other["usage"])


async def test_a_run_whose_name_was_lost_with_the_worker_is_found_in_its_thread(row: Row) -> None:
    asked = await begun(row)
    assert row.front_hand is not None
    row.front_hand.process.kill()
    # As if it had died between the request and the first event.
    forget = "UPDATE runs SET upstream_response_id = NULL WHERE id = $1 RETURNING id"
    assert await row.front.fetchval(forget, asked.run) == asked.run
    row.front_hand = await hire(row.front)
    run = await asked.client.ended(asked.session, asked.run, within=60)
    assert (run["status"], run["attempts"]) == ("completed", 1)
    assert len(await row.behind(asked.session)) == 1
    seen, behind = await row.transcripts(asked.client, asked.session)
    assert seen == behind
    assert await withdrawn(row.front, asked.run) == 0


async def test_the_second_ones_api_is_away_in_the_answer_and_the_text_goes_on(row: Row) -> None:
    asked = await begun(row)
    (api,) = [each for each in row.back.processes if each.command == ["api"] and alive(each)]
    port = row.back.api_urls[0].rpartition(":")[2]
    api.kill()
    again = row.back.start("api", PORT=port)

    async def is_up() -> bool:
        assert alive(again), again.log.read_text()
        with suppress(httpx2.HTTPError):
            return (await row.relay.http.get("/healthz")).is_success
        return False

    await until(is_up)
    run = await asked.client.ended(asked.session, asked.run, within=60)
    assert (run["status"], run["attempts"]) == ("completed", 1)
    assert len(await row.behind(asked.session)) == 1
    seen, behind = await row.transcripts(asked.client, asked.session)
    assert seen == behind
    assert await withdrawn(row.front, asked.run) == 0


async def test_the_second_ones_worker_is_killed_and_the_answer_is_its_second_one(
    row: Row,
) -> None:
    asked = await begun(row)
    await row.replace_back()
    run = await asked.client.ended(asked.session, asked.run, within=60)
    assert (run["status"], run["attempts"]) == ("completed", 1)
    (other,) = await row.behind(asked.session)
    assert other["attempts"] == 2
    assert await withdrawn(row.back, other["id"]) == 1
    seen, behind = await row.transcripts(asked.client, asked.session)
    assert seen == behind
    assert len(seen) == 2


async def test_both_workers_are_killed_in_the_tutorials_dialogue(row: Row) -> None:
    asked = await begun(row, FIRST)
    await row.replace_back()
    await row.replace_front()
    await asked.client.ended(asked.session, asked.run, within=60)
    posted = await asked.client.post(asked.session, SECOND)
    second = Asked(asked.client, asked.session, posted["run"]["id"])
    await under_way(row.front, [second])
    await row.replace_front()
    await row.replace_back()
    run = await asked.client.ended(asked.session, second.run, within=60)
    assert (run["status"], run["attempts"]) == ("completed", 1)
    seen, behind = await row.transcripts(asked.client, asked.session)
    assert seen == behind
    assert [seen[0], seen[2]] == [FIRST, SECOND]
    assert_both_roots(seen[1])
    assert_explains(seen[3])


async def test_a_run_that_fails_behind_fails_with_a_reason(row: Row) -> None:
    client = row.front.client()
    session = await client.open_session()
    action = {"type": "fail", "code": "invalid_prompt", "after_deltas": 3}
    rule = {"path": "/v1/responses", "times": 1, "action": action}
    await row.back.admin("POST", "faults", rule)
    run, text = await client.ask(session, QUESTION, within=60)
    assert (run["status"], run["attempts"]) == ("failed", 1)
    assert run["last_error"]["code"] == "upstream_rejected"
    assert text
    again, _ = await client.ask(session, SECOND, within=60)
    assert again["status"] == "completed"


async def test_the_face_of_the_first_reaches_through_both(row: Row) -> None:
    base = f"{row.front.api_urls[0]}/openai/v1"
    async with AsyncOpenAI(
        api_key=token("face-user"), base_url=base, _strict_response_validation=True
    ) as sdk:
        tutor = await sdk.beta.assistants.create(model="test-model", instructions="Be kind.")
        thread = await sdk.beta.threads.create()
        for question in (FIRST, SECOND):
            await sdk.beta.threads.messages.create(thread.id, role="user", content=question)
            run = await sdk.beta.threads.runs.create_and_poll(
                thread_id=thread.id, assistant_id=tutor.id
            )
            assert run.status == "completed", run
        messages = [
            message.content[0].text.value  # type: ignore[union-attr]
            async for message in sdk.beta.threads.messages.list(thread.id, order="asc")
        ]
    assert [messages[0], messages[2]] == [FIRST, SECOND]
    assert_both_roots(messages[1])
    assert_explains(messages[3])
    assert await texts_of(row.relay, await row.thread(thread.id)) == messages


async def test_cancelling_reaches_the_second_and_the_session_goes_on(row: Row) -> None:
    asked = await begun(row, FIRST)
    thread = await row.thread(asked.session)
    path = f"/v1/sessions/{asked.session}/runs/{asked.run}/cancel"
    await asked.client.call("POST", path, 202)
    run = await asked.client.ended(asked.session, asked.run)
    assert run["status"] == "cancelled"

    async def is_cancelled() -> bool:
        query = "SELECT status FROM runs WHERE session_id = $1"
        return [found["status"] for found in await row.back.fetch(query, thread)] == ["cancelled"]

    await until(is_cancelled)
    # In context: the question is not repeated.
    ended, text = await asked.client.ask(asked.session, SECOND, within=60)
    assert ended["status"] == "completed"
    assert_explains(text)
    assert await row.thread(asked.session) != thread


async def test_a_thread_that_another_run_holds_is_waited_for(row: Row) -> None:
    client = row.front.client()
    session = await client.open_session()
    await client.ask(session, "Solve 2x = 6", within=60)
    thread = await row.thread(session)
    posted = await row.relay.post(thread, QUESTION)
    run, text = await client.ask(session, "Solve 5x = 10", within=60)
    assert (run["status"], run["attempts"]) == ("completed", 1)
    assert "2" in text
    assert await row.thread(session) == thread
    other = await row.relay.run(thread, posted["run"]["id"])
    assert other["status"] == "completed"
    assert len(await row.behind(session)) == 3


async def test_a_run_that_waits_for_functions_nobody_calls_makes_way(row: Row) -> None:
    client = row.front.client()
    session = await client.open_session()
    await client.ask(session, "Solve 2x = 6", within=60)
    thread = await row.thread(session)
    function = {"name": "draw_graph", "parameters": {"type": "object", "properties": {}}}
    tutor = await row.sdk.beta.assistants.create(
        model="test-model", tools=[{"type": "function", "function": function}]
    )
    waiting = await row.sdk.beta.threads.runs.create_and_poll(
        thread_id=thread,
        assistant_id=tutor.id,
        additional_messages=[{"role": "user", "content": "Use draw_graph"}],
    )
    assert waiting.status == "requires_action"
    run, _ = await client.ask(session, "Solve 5x = 10", within=60)
    assert (run["status"], run["attempts"]) == ("completed", 1)
    assert await row.thread(session) == thread
    assert (await row.relay.run(thread, waiting.id))["status"] == "cancelled"


async def test_functions_are_called_before_the_first_and_the_run_behind_goes_on(row: Row) -> None:
    client, session = await opened(row.front, CALCULATE, PLOT)
    run = await waiting(client, session, BOTH)
    # One call was the server's own: only the other one comes through.
    assert [call["function"]["name"] for call in calls_of(run)] == ["plot"]
    await submit(client, session, run, plot="A straight line.")
    ended = await client.ended(session, run["id"], within=60)
    assert (ended["status"], ended["attempts"]) == ("completed", 2)
    announced, answer = await parts_of(client, session, ended)
    assert "`plot`" in announced
    assert "A straight line." in answer
    (other,) = await row.behind(session)
    assert ended["usage"] == json.loads(other["usage"])
    seen, behind = await row.transcripts(client, session)
    assert seen == behind
    assert await withdrawn(row.front, run["id"]) == 0
    # The thread goes on.
    _, text = await client.ask(session, "Solve 2x = 6", within=60)
    assert "3" in text
    assert len(await row.behind(session)) == 2


async def test_workers_are_killed_while_functions_are_called(row: Row) -> None:
    client, session = await opened(row.front, PLOT)
    run = await waiting(client, session, "Announce: plot `x + 1`")
    await row.replace_back()
    await row.replace_front()
    await submit(client, session, run, plot="A line. " * 40)
    second = Asked(client, session, run["id"])
    before = await row.front.fetchval(DELTAS, run["id"])
    await under_way(row.front, [second], deltas=before + 3)
    await row.replace_front()
    ended = await client.ended(session, run["id"], within=60)
    assert (ended["status"], ended["attempts"]) == ("completed", 2)
    seen, behind = await row.transcripts(client, session)
    assert seen == behind
    assert seen[1].count("A line.") >= 40
    assert len(await row.behind(session)) == 1
    assert await withdrawn(row.front, run["id"]) == 0


async def test_a_run_that_waits_for_functions_is_cancelled_and_its_thread_is_given_up(
    row: Row,
) -> None:
    client, session = await opened(row.front, PLOT)
    run = await waiting(client, session, "Announce: plot `x + 1`")
    thread = await row.thread(session)
    await client.call("POST", f"/v1/sessions/{session}/runs/{run['id']}/cancel", 202)
    assert (await client.ended(session, run["id"]))["status"] == "cancelled"
    ended, text = await client.ask(session, "Solve 2x = 6", within=60)
    assert (ended["status"], ended["attempts"]) == ("completed", 1)
    assert "3" in text
    assert await row.thread(session) != thread
    await gone(row, thread)


async def test_a_thread_that_the_second_lost_is_rebuilt_in_context(row: Row) -> None:
    client = row.front.client()
    session = await client.open_session()
    _, first = await client.ask(session, FIRST, within=60)
    lost = await row.thread(session)
    await row.relay.call("DELETE", f"/v1/sessions/{lost}", 204)
    run, second = await client.ask(session, SECOND, within=60)
    assert (run["status"], run["attempts"]) == ("completed", 1)
    assert_explains(second)
    assert await row.thread(session) != lost
    seen, behind = await row.transcripts(client, session)
    assert seen == behind == [FIRST, first, SECOND, second]


async def test_a_deleted_session_is_deleted_at_the_second(row: Row) -> None:
    client = row.front.client()
    session = await client.open_session()
    await client.ask(session, "Solve 2x = 6", within=60)
    thread = await row.thread(session)
    await row.relay.call("GET", f"/v1/sessions/{thread}", 200)
    await client.call("DELETE", f"/v1/sessions/{session}", 204)
    await gone(row, thread)
    await row.relay.call("GET", f"/v1/sessions/{thread}", 404)


async def test_a_tutor_upstream_is_what_the_version_says_and_made_anew_when_it_is_lost(
    row: Row,
) -> None:
    teacher = row.front.client(scope="assistants:write")
    made = {"name": "Poet", "model": "test-model", "instructions": "Rhyme, if you can."}
    tutor = await teacher.call("POST", "/v1/assistants", 201, json=made)
    session = await teacher.open_session(assistant_id=tutor["id"])

    async def answered() -> str:
        """Ask; return the assistant of the second that answered."""
        run, _ = await teacher.ask(session, "Solve 2x = 6", within=60)
        assert (run["status"], run["attempts"]) == ("completed", 1)
        return str((await row.behind(session))[-1]["assistant_id"])

    first = await row.sdk.beta.assistants.retrieve(await answered())
    assert (first.name, first.instructions) == ("Poet", "Rhyme, if you can.")
    assert await answered() == first.id
    change = {"instructions": "Never rhyme."}
    await teacher.call("PATCH", f"/v1/assistants/{tutor['id']}", 200, json=change)
    second = await row.sdk.beta.assistants.retrieve(await answered())
    assert (second.instructions, second.id != first.id) == ("Never rhyme.", True)
    await row.sdk.beta.assistants.delete(second.id)
    third = await row.sdk.beta.assistants.retrieve(await answered())
    assert (third.instructions, third.id != second.id) == ("Never rhyme.", True)
    known = {found["tutor_id"] for found in await row.front.fetch("SELECT * FROM upstream_tutors")}
    assert {first.id, third.id} <= known
    assert second.id not in known
