"""Files: kept, listed, given back as far as their purpose allows, deleted."""

import asyncio
import logging
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from openai import AsyncOpenAI

from app.sandbox.config import SandboxConfig
from tests.contract.sandbox.conftest import KEY, MODEL, Sandbox, serving

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8


async def test_a_file_is_made_read_and_deleted(client: AsyncOpenAI, sandbox: Sandbox) -> None:
    made = await client.files.create(file=("homework.png", PICTURE), purpose="vision")
    assert made.id.startswith("file-")
    assert (made.filename, made.bytes, made.purpose) == ("homework.png", len(PICTURE), "vision")
    assert made.expires_at is None
    assert await client.files.retrieve(made.id) == made
    assert (await sandbox.stats())["files"] == 1
    gone = await client.files.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True)
    for call in (client.files.retrieve, client.files.delete, client.files.content):
        with pytest.raises(openai.NotFoundError) as caught:
            await call(made.id)
        assert caught.value.body == {
            "message": f"No such File object: {made.id}",
            "type": "invalid_request_error",
            "param": "id",
            "code": None,
        }
    assert (await sandbox.stats())["files"] == 0


async def test_content_comes_back_byte_for_byte_unless_the_purpose_forbids(
    client: AsyncOpenAI,
) -> None:
    data = b"--\r\n--b\r\n\r\n\x00\xff" + PICTURE + b"\r\n"
    made = await client.files.create(file=('a "b".jsonl', data), purpose="batch")
    assert (await client.files.content(made.id)).content == data
    assert made.filename == 'a "b".jsonl'
    assert made.expires_at is not None
    for purpose in ("assistants", "vision", "user_data"):
        kept = await client.files.create(file=("x.txt", b"1+1"), purpose=purpose)  # type: ignore[arg-type]
        with pytest.raises(openai.BadRequestError, match=f"of purpose: {purpose}"):
            await client.files.content(kept.id)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_files_are_paged_and_chosen_by_purpose(client: AsyncOpenAI, order: Any) -> None:
    made = [
        await client.files.create(file=(f"{n}.txt", b"x"), purpose="user_data") for n in range(5)
    ]
    await client.files.create(file=("other.txt", b"x"), purpose="assistants")
    found = [each async for each in client.files.list(limit=2, order=order, purpose="user_data")]
    assert found == (made if order == "asc" else made[::-1])
    assert len((await client.files.list()).data) == 6
    with pytest.raises(openai.BadRequestError):
        await client.files.list(limit=10_001)


async def test_an_expiry_is_taken_within_its_bounds(client: AsyncOpenAI) -> None:
    made = await client.files.create(
        file=("x.txt", b"x"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert made.expires_at == made.created_at + 3600
    with pytest.raises(openai.BadRequestError):
        await client.files.create(
            file=("x.txt", b"x"),
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 3599},
        )


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"data": {"purpose": "vision"}, "files": {"other": b"x"}}, 400),
        ({"files": {"file": b"x"}}, 400),
        ({"data": {"purpose": "homework"}, "files": {"file": b"x"}}, 400),
        ({"data": {"purpose": "vision"}, "files": {"file": b""}}, 400),
        ({"json": {"purpose": "vision"}}, 415),
        (
            {
                "content": b"--b\r\nnonsense",
                "headers": {"content-type": "multipart/form-data; boundary=b"},
            },
            400,
        ),
    ],
)
async def test_a_wrong_form_is_refused(
    sandbox: Sandbox, form: dict[str, Any], status: int
) -> None:
    answer = await sandbox.http.post(f"{sandbox.url}/v1/files", **form)
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert (await sandbox.stats())["files_made"] == 0


async def test_a_fault_meets_files_as_it_meets_everything(
    sandbox: Sandbox, client: AsyncOpenAI
) -> None:
    await sandbox.fault({"type": "status", "status": 503}, method="POST", path="/v1/files")
    with pytest.raises(openai.InternalServerError):
        await client.files.create(file=("x.txt", b"x"), purpose="user_data")
    await sandbox.fault(
        {"type": "status", "status": 500, "after_work": True}, method="DELETE", path="/v1/files/*"
    )
    made = await client.files.create(file=("x.txt", b"x"), purpose="user_data")
    with pytest.raises(openai.InternalServerError):
        await client.files.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.files.delete(made.id)


async def test_memory_for_files_is_bounded() -> None:
    config = SandboxConfig(max_file_bytes=1000, max_files_bytes=1500)
    with serving(config) as port:
        async with AsyncOpenAI(
            api_key=KEY, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0
        ) as client:
            first = await client.files.create(file=("x", b"x" * 1000), purpose="user_data")
            with pytest.raises(openai.PermissionDeniedError):
                await client.files.create(file=("y", b"x" * 1000), purpose="user_data")
            with pytest.raises(openai.APIStatusError, match="413"):
                await client.files.create(file=("z", b"x" * 200_000), purpose="user_data")
            await client.files.delete(first.id)
            await client.files.create(file=("y", b"x" * 1000), purpose="user_data")


async def test_a_text_that_is_attached_is_read_and_a_picture_is_not(client: AsyncOpenAI) -> None:
    text = await client.files.create(file=("q.txt", b"why is 2x = 6?"), purpose="user_data")
    picture = await client.files.create(file=("q.png", PICTURE), purpose="vision")
    content: list[Any] = [
        {"type": "input_text", "text": "look"},
        {"type": "input_file", "file_id": text.id},
    ]
    asked: Any = [{"role": "user", "content": content}]
    answer = await client.responses.create(model=MODEL, input=asked)
    assert "look\nwhy is 2x = 6?" in answer.output_text
    assert "can't look at pictures" not in answer.output_text
    content.append({"type": "input_image", "file_id": picture.id, "detail": "auto"})
    answer = await client.responses.create(model=MODEL, input=asked)
    assert "can't look at pictures" in answer.output_text
    assert "2x = 6" in answer.output_text


async def test_what_is_not_there_or_no_picture_is_refused(client: AsyncOpenAI) -> None:
    text = await client.files.create(file=("q.txt", b"2x = 6"), purpose="user_data")
    for part in (
        {"type": "input_file", "file_id": "file-none"},
        {"type": "input_image", "file_id": text.id, "detail": "auto"},
    ):
        asked: Any = [{"role": "user", "content": [part]}]
        with pytest.raises(openai.BadRequestError):
            await client.responses.create(model=MODEL, input=asked)
        with pytest.raises(openai.BadRequestError):
            await client.conversations.create(items=asked)
    asked = [{"role": "user", "content": [{"type": "input_file", "file_id": text.id}]}]
    opened = await client.conversations.create(items=asked)
    await client.files.delete(text.id)
    with pytest.raises(openai.BadRequestError, match="were not found"):
        await client.responses.create(model=MODEL, input="and?", conversation=opened.id)


async def test_who_leaves_within_an_upload_leaves_nothing_and_is_no_defect(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    place = urlsplit(sandbox.url)
    _, writer = await asyncio.open_connection(place.hostname, place.port)
    head = (
        "POST /v1/files HTTP/1.1\r\nHost: sandbox\r\nAuthorization: Bearer k\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvis'
    )
    with caplog.at_level(logging.DEBUG):
        writer.write(head.encode())
        await writer.drain()
        await asyncio.sleep(0.1)  # until it is being read
        writer.close()
        await asyncio.sleep(0.1)
        assert (await sandbox.stats())["files"] == 0
    assert "Traceback" not in caplog.text
