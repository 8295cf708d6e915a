"""The tutorial's conversation, as every kind of client sees it."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.e2e.crew import follow, hire, run_ended, started
from tests.e2e.invariants import check, check_logs, check_reader, shown
from tests.stack import Block, Client, blocks_of, until

FIRST = "다음의 방정식을 풀고 싶습니다. `3x**2 + 11x - 10 = 0`. 수학선생님 도와주실 수 있나요?"
SECOND = "설명이 잘 이해가 가지 않습니다. 좀 더 자세히 설명해 주실 수 있나요?"
WORDS = ("수학선생님", "설명이 잘", "3x**2")


def flat(text: str) -> str:
    """Return an answer without the marks that only set it."""
    for mark in ("\\", "{", "}", "(", ")", "$", " ", "*"):
        text = text.replace(mark, "")
    return text.replace("sqrt", "√").replace("\N{MINUS SIGN}", "-")


def assert_both_roots(text: str) -> None:
    said = flat(text)
    assert "241" in said, text
    assert "√241" in said, text
    assert "-11" in said, text
    one_by_one = "-11+√241" in said and "-11-√241" in said
    assert one_by_one or "-11±√241" in said, text


def assert_explains(text: str) -> None:
    said = flat(text)
    assert "241" in said, text
    assert "3x^2" in said or "3x²" in said, text
    assert any("가" <= letter <= "힣" for letter in text), text


def text_of(message: Any) -> str:
    assert message["status"] == "completed", message
    return "".join(part["text"] for part in message["content"])


def assert_tells(blocks: list[Block], message: Any, run: Any) -> None:
    """Check that a stream tells what the transcript and the poll say."""
    bodies = [json.loads(block.data) for block in blocks]
    grown = shown(data for data in bodies if data.get("message_id") == message["id"])
    assert "".join(grown.values()) == text_of(message)
    (completed,) = [data for data in bodies if data["type"] == "message.completed"]
    assert completed["message"] == message
    assert bodies[-1]["type"] == "run.completed"
    assert bodies[-1]["run"] == run


async def poll(client: Client, session: str, run: str) -> Any:
    """Ask again and again, as the tutorial does."""

    async def ended() -> Any:
        found = await client.run(session, run)
        return None if found["status"] in {"queued", "in_progress"} else found

    return await until(ended, within=30)


async def test_every_way_to_read_the_dialogue_says_the_same(
    database_url: str, tmp_path: Path
) -> None:
    async with started(database_url, tmp_path, pace=150) as stack:
        await hire(stack)
        client = stack.client()
        session = await client.open_session()
        whole = asyncio.create_task(
            follow(
                f"/v1/sessions/{session}/events?after=0",
                client,
                is_over=lambda seen: sum(run_ended(seen[: i + 1]) for i in range(len(seen))) == 2,
            )
        )
        # The first turn over REST, watched in every other way.
        posted = await client.post(session, FIRST)
        run_id = posted["run"]["id"]
        events = f"/v1/sessions/{session}/runs/{run_id}/events"
        polled, waited, followed = await asyncio.gather(
            poll(client, session, run_id),
            client.ended(session, run_id),
            follow(events, client),
        )
        assert polled == waited
        assert polled["status"] == "completed", polled
        messages = f"/v1/sessions/{session}/messages"
        first = await client.call("GET", f"{messages}/{polled['output_message_id']}", 200)
        assert_both_roots(text_of(first))
        assert_tells(followed, first, polled)
        assert await follow(events, client) == followed
        # The second turn as one request.
        stream = await client.stream(
            messages,
            method="POST",
            json={"content": SECOND},
            headers={"Accept": "text/event-stream"},
        )
        blocks = blocks_of(stream)
        assert blocks.pop().event == "done"
        run = json.loads(blocks[-1].data)["run"]
        assert await client.run(session, run["id"]) == run
        second = await client.call("GET", f"{messages}/{run['output_message_id']}", 200)
        assert_explains(text_of(second))
        assert_tells(blocks, second, run)
        assert await follow(f"/v1/sessions/{session}/runs/{run['id']}/events", client) == blocks
        # One reader saw both; the list has all of it.
        seen = await whole
        assert [b for b in seen if int(b.id or 0) <= int(followed[-1].id or 0)] == followed
        assert seen[len(followed) :] == blocks
        listed = await client.call("GET", messages, 200, params={"order": "asc"})
        assert [item["role"] for item in listed["data"]] == ["user", "assistant"] * 2
        assert [text_of(item) for item in listed["data"]][::2] == [FIRST, SECOND]
        assert [listed["data"][1], listed["data"][3]] == [first, second]
        assert listed["last_seq"] == int(seen[-1].id or 0)
        await check(database_url)
        await check_reader(database_url, session, seen)
        check_logs(stack.logs(), *WORDS)


async def test_a_restarted_sandbox_is_told_the_conversation_again(
    database_url: str, tmp_path: Path
) -> None:
    async with started(database_url, tmp_path) as stack:
        await hire(stack)
        client = stack.client()
        session = await client.open_session()
        _, first = await client.ask(session, FIRST)
        assert_both_roots(first)
        assert stack.sandbox is not None
        stack.sandbox.kill()
        await stack.start_sandbox()
        run, second = await client.ask(session, SECOND)
        assert run["status"] == "completed", run
        assert run["attempts"] == 1, run
        assert_explains(second)
        await check(database_url)
        check_logs(stack.logs(), *WORDS)
