"""A user's files: sent through, owned here, shown to the tutor, deleted everywhere."""

from typing import Any

import httpx2
import pytest

from tests.stack import Client, Stack, until

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
JPEG = b"\xff\xd8\xff\xe0" + bytes(200)
PDF = b"%PDF-1.7\n" + bytes(200)
GIF = b"GIF89a" + bytes(20)
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8 "
TEXT = "Solve 3x + 4 = 19 (방정식)\n".encode()


@pytest.fixture
def client(shared: Stack) -> Client:
    return shared.client()


async def send(
    client: Client, name: str = "homework.png", data: bytes = PNG, expect: int = 201, **more: Any
) -> Any:
    return await client.call("POST", "/v1/files", expect, files={"file": (name, data)}, **more)


async def kept(stack: Stack, file_id: str) -> Any:
    (row,) = await stack.fetch("SELECT * FROM upstream_objects WHERE name = $1", file_id)
    return row


async def is_upstream(stack: Stack, upstream_id: str) -> bool:
    url = f"http://127.0.0.1:{stack.sandbox_port}/v1/files/{upstream_id}"
    async with httpx2.AsyncClient(headers={"Authorization": "Bearer x"}) as http:
        return (await http.get(url)).status_code == 200


async def upstream_names(stack: Stack) -> list[str]:
    url = f"http://127.0.0.1:{stack.sandbox_port}/v1/files"
    async with httpx2.AsyncClient(headers={"Authorization": "Bearer x"}) as http:
        return [item["filename"] for item in (await http.get(url)).json()["data"]]


async def test_a_file_is_sent_read_listed_and_deleted(shared: Stack, client: Client) -> None:
    made = await send(client)
    assert made == {
        "id": made["id"],
        "object": "file",
        "filename": "homework.png",
        "bytes": len(PNG),
        "media_type": "image/png",
        "created_at": made["created_at"],
    }
    assert await client.call("GET", f"/v1/files/{made['id']}", 200) == made
    assert (await client.call("GET", "/v1/files", 200))["data"] == [made]
    upstream = (await kept(shared, made["id"]))["upstream_id"]
    assert await is_upstream(shared, upstream)
    await client.call("DELETE", f"/v1/files/{made['id']}", 204)
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        await client.call(method, f"/v1/files/{made['id']}{path}", 404)

    async def is_gone() -> bool:
        return not await is_upstream(shared, upstream)

    await until(is_gone, within=60)
    record = await kept(shared, made["id"])
    await until(lambda: _deleted(shared, made["id"]), within=30)
    assert record["retired_at"] is not None


async def _deleted(stack: Stack, name: str) -> bool:
    return (await kept(stack, name))["deleted_at"] is not None
