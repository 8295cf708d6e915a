"""Pictures and texts in messages: on both faces, to the upstream, and in a thread made anew."""

from typing import Any

import httpx2
import pytest

from tests.integration.test_files import TEXT, kept, send
from tests.stack import Client, Stack


@pytest.fixture
def client(shared: Stack) -> Client:
    return shared.client()


def part(kind: str, file: Any) -> dict[str, Any]:
    return {"type": kind, "file_id": file["id"]}


async def show(client: Client, session: str, *content: Any, **fields: Any) -> tuple[Any, str]:
    """Post parts, wait for the end, and return the run and the answer's text."""
    path = f"/v1/sessions/{session}/messages"
    posted = await client.call("POST", path, 202, json={"content": list(content), **fields})
    run = await client.ended(session, posted["run"]["id"], within=60)
    message = await client.call("GET", f"{path}/{run['output_message_id']}", 200)
    return run, "".join(found["text"] for found in message["content"])


async def told(stack: Stack, session: str) -> list[Any]:
    """Everything that the upstream's thread of a session holds of files."""
    thread = await stack.fetchval("SELECT upstream_thread_id FROM sessions WHERE id = $1", session)
    url = f"http://127.0.0.1:{stack.sandbox_port}/v1/conversations/{thread}/items"
    async with httpx2.AsyncClient(headers={"Authorization": "Bearer x"}) as http:
        items = (await http.get(url, params={"order": "asc", "limit": 100})).json()["data"]
    return [
        (found["type"], found.get("file_id", found.get("text")))
        for item in items
        if item["role"] == "user"
        for found in item["content"]
    ]


async def test_a_text_is_read_and_a_picture_is_shown(shared: Stack, client: Client) -> None:
    text, picture = await send(client, "q.txt", TEXT), await send(client)
    session = await client.open_session()
    words = {"type": "text", "text": "Please:"}
    run, answer = await show(client, session, words, part("file", text))
    assert run["status"] == "completed"
    assert "x = 5" in answer
    run, answer = await show(client, session, part("image", picture))
    assert run["status"] == "completed"
    assert "사진" in answer or "pictures" in answer
    ids = {
        found["id"]: (await kept(shared, found["id"]))["upstream_id"] for found in (text, picture)
    }
    assert await told(shared, session) == [
        ("input_text", "Please:"),
        ("input_file", ids[text["id"]]),
        ("input_image", ids[picture["id"]]),
    ]
    transcript = await client.call(
        "GET", f"/v1/sessions/{session}/messages", 200, params={"order": "asc"}
    )
    shown = [item["content"] for item in transcript["data"] if item["role"] == "user"]
    assert shown == [
        [{**words, "annotations": []}, part("file", text)],
        [part("image", picture)],
    ]
    assert ids[text["id"]] not in str(transcript)


async def test_a_thread_made_anew_shows_them_again(shared: Stack, client: Client) -> None:
    text = await send(client, "q.txt", TEXT)
    session = await client.open_session()
    await show(client, session, {"type": "text", "text": "Please:"}, part("file", text))
    thread = await shared.fetchval(
        "SELECT upstream_thread_id FROM sessions WHERE id = $1", session
    )
    url = f"http://127.0.0.1:{shared.sandbox_port}/v1/conversations/{thread}"
    async with httpx2.AsyncClient(headers={"Authorization": "Bearer x"}) as http:
        await http.delete(url)
    run, _ = await client.ask(session, "Explain it.", within=60)
    assert run["status"] == "completed"
    upstream = (await kept(shared, text["id"]))["upstream_id"]
    assert ("input_file", upstream) in await told(shared, session)


async def test_a_deleted_file_is_told_of_and_the_session_goes_on(
    shared: Stack, client: Client
) -> None:
    text = await send(client, "q.txt", TEXT)
    session = await client.open_session()
    await show(client, session, {"type": "text", "text": "Please:"}, part("file", text))
    await client.call("DELETE", f"/v1/files/{text['id']}", 204)
    # The upstream refuses a thread that shows what is not there: this one is a new one.
    run, _ = await client.ask(session, "Solve 2x = 6", within=60)
    assert run["status"] == "completed"
    found = await told(shared, session)
    assert ("input_text", "[A file that was here has been deleted.]") in found
    assert not [kind for kind, _ in found if kind != "input_text"]
    transcript = await client.call("GET", f"/v1/sessions/{session}/messages", 200)
    assert part("file", text) in transcript["data"][-1]["content"]
    content = [part("file", text)]
    path = f"/v1/sessions/{session}/messages"
    assert (await client.call("POST", path, 422, json={"content": content}))[
        "code"
    ] == "file_refused"


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image", "file_id": "file_none"}],
        [{"type": "image", "file_id": "\x00"}],
        [{"type": "image", "file_id": "file-AAAA"}],
        [{"type": "file", "file_id": "x" * 129}],
        [{"type": "file"}],
        [{"type": "image", "file_id": "file_1", "text": "x"}],
        [{"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}],
        [{"type": "file", "file_id": "file_1"}] * 11,
    ],
)
async def test_what_is_no_file_of_ours_is_refused(client: Client, content: Any) -> None:
    session = await client.open_session()
    path = f"/v1/sessions/{session}/messages"
    await client.call("POST", path, 422, json={"content": content})
    assert (await client.call("GET", path, 200))["data"] == []
    found = await client.call("GET", f"/v1/sessions/{session}", 200)
    assert found["last_seq"] == 0


async def test_a_text_is_no_picture(client: Client) -> None:
    text = await send(client, "q.txt", TEXT)
    session = await client.open_session()
    path = f"/v1/sessions/{session}/messages"
    await client.call("POST", path, 422, json={"content": [part("image", text)]})
    assert (await client.call("GET", path, 200))["data"] == []


async def test_a_file_that_a_run_reads_is_not_deleted(shared: Stack, client: Client) -> None:
    text = await send(client, "q.txt", b"Explain 2x = 6 at leisure")
    await shared.admin("POST", "pace", {"tokens_per_second": 2, "text": "tortoise-of-files"})
    session = await client.open_session()
    path = f"/v1/sessions/{session}/messages"
    content = [{"type": "text", "text": "tortoise-of-files"}, part("file", text)]
    posted = await client.call("POST", path, 202, json={"content": content})
    await client.run(session, posted["run"]["id"], wait=20, known="queued")
    refused = await client.call("DELETE", f"/v1/files/{text['id']}", 409)
    assert refused["active_run_id"] == posted["run"]["id"]
    await client.call("POST", f"/v1/sessions/{session}/runs/{posted['run']['id']}/cancel", 202)
    await client.ended(session, posted["run"]["id"])
    await client.call("DELETE", f"/v1/files/{text['id']}", 204)
