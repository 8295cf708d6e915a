"""Files and pictures over the face, with the strict SDK."""

import uuid
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from tests.integration.compat.conftest import NewSdk, tutor
from tests.integration.test_files import PNG, TEXT
from tests.stack import Stack, token


def words_of(message: Any) -> str:
    return "".join(part.text.value for part in message.content if part.type == "text")


async def test_files_are_made_listed_read_and_deleted(sdk: AsyncOpenAI) -> None:
    made = [
        await sdk.files.create(file=("q.txt", TEXT), purpose="assistants"),
        await sdk.files.create(file=("q.png", PNG), purpose="vision"),
        await sdk.files.create(file=("q.md", TEXT), purpose="user_data"),
    ]
    assert [item.purpose for item in made] == ["assistants", "vision", "user_data"]
    assert [item.bytes for item in made] == [len(TEXT), len(PNG), len(TEXT)]
    assert await sdk.files.retrieve(made[0].id) == made[0]
    found = [item async for item in sdk.files.list(limit=2, order="asc")]
    assert found == made
    assert (await sdk.files.list()).data == made[::-1]
    for item in made:
        assert (await sdk.files.list(purpose=item.purpose)).data == [item]
        with pytest.raises(openai.BadRequestError, match=f"of purpose: {item.purpose}"):
            await sdk.files.content(item.id)
    gone = await sdk.files.delete(made[0].id)
    assert (gone.id, gone.deleted) == (made[0].id, True)
    for call in (sdk.files.retrieve, sdk.files.content, sdk.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            await call(made[0].id)
        assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "wanted",
    [
        {"file": ("q.png", TEXT), "purpose": "vision"},
        {"file": ("q.txt", b""), "purpose": "assistants"},
        {"file": ("q.jsonl", TEXT), "purpose": "fine-tune"},
        {"file": ("q.jsonl", TEXT), "purpose": "batch"},
        {
            "file": ("q.txt", TEXT),
            "purpose": "assistants",
            "expires_after": {"anchor": "created_at", "seconds": 3600},
        },
    ],
)
async def test_what_can_not_be_honoured_is_refused(sdk: AsyncOpenAI, wanted: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        await sdk.files.create(**wanted)
    assert (await sdk.files.list()).data == []


async def test_the_purpose_may_come_behind_the_file(shared: Stack) -> None:
    """As Node's SDK sends it."""
    headers = {"Authorization": f"Bearer {token(f'user-{uuid.uuid4().hex[:12]}')}"}
    files: Any = [("file", ("q.txt", TEXT)), ("purpose", (None, b"assistants"))]
    url = f"{shared.api_urls[0]}/openai/v1/files"
    async with httpx2.AsyncClient(headers=headers) as http:
        answer = await http.post(url, files=files)
        assert answer.json()["purpose"] == "assistants", answer.text
        files[1] = ("purpose", (None, b"fine-tune"))
        assert (await http.post(url, files=files)).status_code == 400
        assert (await http.post(url, files=files[:1])).status_code == 400
        assert (await http.post(url, data={"purpose": "vision"}, files={})).status_code >= 400
        assert len((await http.get(url)).json()["data"]) == 1


async def test_a_picture_is_shown_and_told_of(sdk: AsyncOpenAI) -> None:
    picture = await sdk.files.create(file=("q.png", PNG), purpose="vision")
    assistant = await tutor(sdk)
    shown = {"type": "image_file", "image_file": {"file_id": picture.id, "detail": "auto"}}
    text = {"type": "text", "text": "Solve 2x = 6, as here:"}
    first: Any = [{"role": "user", "content": [text, shown]}]
    thread = await sdk.beta.threads.create(messages=first)
    run = await sdk.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant)
    assert run.status == "completed"
    messages = (await sdk.beta.threads.messages.list(thread.id, order="asc")).data
    assert messages[0].content[1].to_dict() == shown
    assert "pictures" in words_of(messages[1])
    assert "x = 3" in words_of(messages[1])
    with pytest.raises(openai.NotFoundError):
        await sdk.files.retrieve("file-abc")


async def test_pictures_of_others_and_by_address_are_refused(
    sdk: AsyncOpenAI, new_sdk: NewSdk
) -> None:
    picture = await new_sdk().files.create(file=("q.png", PNG), purpose="vision")
    text = await sdk.files.create(file=("q.txt", TEXT), purpose="user_data")
    own = await sdk.files.create(file=("q.png", PNG), purpose="vision")
    thread = await sdk.beta.threads.create()
    refused: list[Any] = [
        {"type": "image_file", "image_file": {"file_id": picture.id}},
        {"type": "image_file", "image_file": {"file_id": text.id}},
        {"type": "image_file", "image_file": {"file_id": own.id, "detail": "high"}},
        {"type": "image_file", "image_file": {"file_id": "file-none"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    for part in refused:
        content: Any = [{"type": "text", "text": "Look."}, part]
        with pytest.raises(openai.BadRequestError):
            await sdk.beta.threads.messages.create(thread.id, role="user", content=content)
        with pytest.raises(openai.BadRequestError):
            await sdk.beta.threads.create(messages=[{"role": "user", "content": content}])
    content = [{"type": "image_file", "image_file": {"file_id": own.id}}]
    with pytest.raises(openai.BadRequestError):
        await sdk.beta.threads.messages.create(thread.id, role="assistant", content=content)
    assert (await sdk.beta.threads.messages.list(thread.id)).data == []


async def test_a_file_of_the_other_face_is_an_attachment(shared: Stack, new_sdk: NewSdk) -> None:
    user = f"user-{uuid.uuid4().hex[:12]}"
    sdk, client = new_sdk(user), shared.client(user=user)
    text = await sdk.files.create(file=("q.txt", TEXT), purpose="user_data")
    session = await client.open_session()
    content = [{"type": "text", "text": "Please:"}, {"type": "file", "file_id": text.id}]
    path = f"/v1/sessions/{session}/messages"
    await client.call("POST", path, 202, json={"content": content, "run": False})
    (message,) = (await sdk.beta.threads.messages.list(session)).data
    assert words_of(message) == "Please:"
    assert len(message.content) == 1
    assert [attached.file_id for attached in message.attachments or []] == [text.id]
