"""A user's files: sent through, owned here, shown to the tutor, deleted everywhere."""

import asyncio
import json
import uuid
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


@pytest.mark.parametrize(
    ("name", "data", "media_type"),
    [
        ("a.jpg", JPEG, "image/jpeg"),
        ("a.JPEG", JPEG, "image/jpeg"),
        ("a.gif", GIF, "image/gif"),
        ("a.webp", WEBP, "image/webp"),
        ("a.pdf", PDF, "application/pdf"),
        ("a.txt", TEXT, "text/plain"),
        ("a.md", TEXT, "text/plain"),
        ("photo", PNG, "image/png"),
        ("x", b"7", "text/plain"),
    ],
)
async def test_what_a_file_is_its_bytes_say(
    client: Client, name: str, data: bytes, media_type: str
) -> None:
    made = await send(client, name, data)
    assert (made["filename"], made["media_type"], made["bytes"]) == (name, media_type, len(data))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("homework.png", JPEG),
        ("homework.png", TEXT),
        ("homework.txt", PNG),
        ("homework.pdf", PNG),
        ("setup.exe", PNG),
        ("letter.docx", TEXT),
        ("drawing.svg", b"<svg onload='alert(1)'/>"),
        ("a.txt", b"MZ\x90\x00\x03"),
        ("a.txt", b"PK\x03\x04\x14\x00"),
        ("a", b"\x7fELF\x02\x01\x01"),
        ("a.txt", b"fine so far" * 9000 + b"\xff"),
        ("a.txt", b"cut in a letter \xed\x95"),
        ("a.txt", b""),
        ("..", PNG),
        ("/", PNG),
    ],
)
async def test_liars_and_strangers_are_refused_and_leave_nothing(
    shared: Stack, client: Client, name: str, data: bytes
) -> None:
    found = await send(client, name, data, 422)
    assert found["code"] == "file_refused"
    assert name not in json.dumps(found) or len(name) < 3
    assert (await client.call("GET", "/v1/files", 200))["data"] == []
    user = (await client.call("GET", "/v1/me", 200))["id"]
    left = "SELECT count(*) FROM upstream_objects WHERE user_id = $1 AND retired_at IS NULL"
    assert await shared.fetchval(left, user) == 0


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\Ann\\homework.png", "homework.png"),
        ("a\u202egnp.txt", "agnp.txt"),
        ("숙제 1.png", "숙제 1.png"),
        ('say "hi".png', 'say "hi".png'),
        ("x" * 300 + ".png", "x" * 251 + ".png"),
    ],
)
async def test_names_are_one_line_and_name_no_place(
    shared: Stack, client: Client, name: str, shown: str
) -> None:
    data = TEXT if shown.endswith(".txt") or shown == "passwd" else PNG
    made = await send(client, name, data)
    assert made["filename"] == shown
    upstream = [found for found in await upstream_names(shared) if made["id"] in found]
    assert upstream == [f"{made['id']}-{shown}"[:255]]


@pytest.mark.parametrize("raw", [b"a\r\nb.png", b"a\x00b.png", b"%0D%0Aab.png"])
async def test_no_name_breaks_a_line(client: Client, raw: bytes) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + raw + b'"\r\n\r\n'
    response = await client.http.post(
        "/v1/files",
        content=head + PNG + b"\r\n--b--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    if response.status_code == 201:
        assert response.json()["filename"] == "ab.png"
    else:
        assert response.status_code in {400, 422}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"json": {"file": "x"}}, 415),
        ({"content": b"", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400),
        ({"content": b"--b", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400),
        ({"content": b"--b", "headers": {"Content-Type": "multipart/form-data"}}, 415),
        ({"files": {"picture": ("a.png", PNG)}}, 422),
        ({"files": {"file": ("a.png", PNG)}, "data": {"purpose": "vision"}}, 422),
        ({"files": [("file", ("a.png", PNG)), ("file", ("b.png", PNG))]}, 400),
        ({"files": {"file": ("a.png", PNG)}, "data": {"x": "y" * 70_000}}, 413),
    ],
)
async def test_wrong_forms_are_refused(client: Client, body: Any, status: int) -> None:
    await client.call("POST", "/v1/files", status, **body)
    assert (await client.call("GET", "/v1/files", 200))["data"] == []


async def test_files_are_their_owners_alone(shared: Stack, client: Client) -> None:
    made = await send(client)
    path = f"/v1/files/{made['id']}"
    for other in (shared.client(), shared.client(user=client.user, tenant="elsewhere")):
        for method, more in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            await other.call(method, f"{path}{more}", 404)
        assert (await other.call("GET", "/v1/files", 200))["data"] == []
        await other.call("GET", "/v1/files", 404, params={"after": made["id"]})
        session = await other.open_session()
        for kind in ("image", "file"):
            content = [{"type": "text", "text": "x"}, {"type": kind, "file_id": made["id"]}]
            posted = {"content": content}
            await other.call("POST", f"/v1/sessions/{session}/messages", 422, json=posted)
        messages = await other.call("GET", f"/v1/sessions/{session}/messages", 200)
        assert messages["data"] == []
    assert await client.call("GET", path, 200) == made


async def test_pages_are_cut_by_cursors(client: Client) -> None:
    made = [(await send(client, f"{n}.png"))["id"] for n in range(5)]
    first = await client.call("GET", "/v1/files", 200, params={"limit": 2})
    assert [item["id"] for item in first["data"]] == made[:2:-1]
    assert first["has_more"]
    after = {"limit": 3, "after": first["last_id"]}
    rest = await client.call("GET", "/v1/files", 200, params=after)
    assert [item["id"] for item in rest["data"]] == made[2::-1]
    assert not rest["has_more"]


async def test_a_repeated_upload_is_done_once(client: Client) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    made = await send(client, headers=key)
    assert await send(client, headers=key) == made
    assert [item["id"] for item in (await client.call("GET", "/v1/files", 200))["data"]] == [
        made["id"]
    ]
    found = await send(client, "other.png", headers=key, expect=422)
    assert found["code"] == "idempotency_key_reused"
    await client.call("DELETE", f"/v1/files/{made['id']}", 204)
    again = await send(client, headers=key)
    assert again["id"] != made["id"]


async def test_me_tells_what_is_left(client: Client) -> None:
    before = (await client.call("GET", "/v1/me", 200))["remaining"]
    await send(client)
    after = (await client.call("GET", "/v1/me", 200))["remaining"]
    assert after["files"] == before["files"] - 1
    assert after["files_bytes"] == before["files_bytes"] - len(PNG)


async def test_content_is_given_back_where_the_upstream_gives_it(
    shared: Stack, client: Client
) -> None:
    made = await send(client, 'a "b".txt', TEXT)
    path = f"/v1/files/{made['id']}/content"
    assert (await client.call("GET", path, 409))["code"] == "file_not_downloadable"
    # What the upstream's own tools make may be read; so may what is for a batch.
    data = TEXT * 50_000
    url = f"http://127.0.0.1:{shared.sandbox_port}/v1/files"
    async with httpx2.AsyncClient(headers={"Authorization": "Bearer x"}) as http:
        form: Any = {"data": {"purpose": "batch"}, "files": {"file": ("x", data)}}
        upstream = (await http.post(url, **form)).json()["id"]
    await shared.fetch(
        "UPDATE upstream_objects SET upstream_id = $2 WHERE name = $1", made["id"], upstream
    )
    response = await client.http.get(path)
    assert response.status_code == 200
    assert response.content == data
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"].startswith("attachment;")
    assert "sandbox" in response.headers["content-security-policy"]
    async with client.http.stream("GET", path) as cut:
        await anext(cut.aiter_raw())
    async with httpx2.AsyncClient(headers={"Authorization": "Bearer x"}) as http:
        await http.delete(f"{url}/{upstream}")
    await client.call("GET", path, 404)


async def test_an_upstream_that_says_no_leaves_nothing(shared: Stack, client: Client) -> None:
    for status, expected in ((500, 502), (429, 502), (401, 502)):
        rule = {
            "method": "POST",
            "path": "/v1/files",
            "action": {"type": "status", "status": status, "after_work": True},
        }
        await shared.admin("POST", "faults", rule)
        found = await send(client, expect=expected)
        assert found["code"].startswith("upstream_")
    assert (await client.call("GET", "/v1/files", 200))["data"] == []
    user = (await client.call("GET", "/v1/me", 200))["id"]
    query = "SELECT name FROM upstream_objects WHERE user_id = $1"
    names = [row["name"] for row in await shared.fetch(query, user)]
    assert len(names) == 3

    async def are_gone() -> bool:
        # The upstream had taken each, though we never heard its id.
        found = await upstream_names(shared)
        return not any(name in upstream for name in names for upstream in found)

    await until(are_gone, within=90)
    await until(lambda: _deleted(shared, names[0]), within=60)


async def test_many_at_once_are_all_kept(client: Client) -> None:
    made = await asyncio.gather(*(send(client, f"{n}.png") for n in range(8)))
    found = await client.call("GET", "/v1/files", 200)
    assert {item["id"] for item in found["data"]} == {item["id"] for item in made}
