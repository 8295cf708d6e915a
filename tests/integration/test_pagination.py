"""Lists: read in pages, forwards and backwards, each item once."""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.stack import Client, Stack

SIZE = 7


@dataclass
class Shelf:
    """A list of seven items, the oldest first."""

    client: Client
    path: str
    ids: list[str]

    async def page(self, **params: Any) -> Any:
        found = await self.client.call("GET", self.path, 200, params=params)
        shown = [item["id"] for item in found["data"]]
        assert found["object"] == "list"
        assert found["first_id"] == (shown[0] if shown else None)
        assert found["last_id"] == (shown[-1] if shown else None)
        return found

    def in_order(self, order: str) -> list[str]:
        return self.ids if order == "asc" else self.ids[::-1]


async def of_sessions(stack: Stack) -> Shelf:
    client = stack.client()
    ids = [await client.open_session(title=str(n)) for n in range(SIZE)]
    return Shelf(client, "/v1/sessions", ids)


async def of_sessions_of_one_instant(stack: Stack) -> Shelf:
    shelf = await of_sessions(stack)
    await stack.fetch(
        "UPDATE sessions SET created_at = '2026-01-01Z' WHERE id = ANY($1::text[])", shelf.ids
    )
    listed = await shelf.client.call("GET", shelf.path, 200, params={"order": "asc"})
    return Shelf(shelf.client, shelf.path, [item["id"] for item in listed["data"]])


async def of_assistants(stack: Stack) -> Shelf:
    client = stack.client(scope="assistants:write", tenant=f"tenant-{uuid.uuid4().hex[:8]}")
    ids = ["asst_default"]
    for _ in range(SIZE - 1):
        made = await client.call("POST", "/v1/assistants", 201, json={"model": "m"})
        ids.append(made["id"])
    return Shelf(client, "/v1/assistants", ids)


async def of_assistants_of_one_instant(stack: Stack) -> Shelf:
    shelf = await of_assistants(stack)
    await stack.fetch(
        "UPDATE assistants SET created_at ="
        " (SELECT created_at FROM assistants WHERE id = 'asst_default')"
        " WHERE id = ANY($1::text[])",
        shelf.ids,
    )
    listed = await shelf.client.call("GET", shelf.path, 200, params={"order": "asc"})
    return Shelf(shelf.client, shelf.path, [item["id"] for item in listed["data"]])


async def of_messages(stack: Stack) -> Shelf:
    client = stack.client()
    session = await client.open_session()
    posts = [await client.post(session, str(n), run=False) for n in range(SIZE)]
    ids = [posted["message"]["id"] for posted in posts]
    return Shelf(client, f"/v1/sessions/{session}/messages", ids)


async def of_runs(stack: Stack) -> Shelf:
    client = stack.client()
    session = await client.open_session()
    posts = [await client.post(session, "Hello.", on_active_run="enqueue") for _ in range(SIZE)]
    ids = [posted["run"]["id"] for posted in posts]
    return Shelf(client, f"/v1/sessions/{session}/runs", ids)


Make = Callable[[Stack], Awaitable[Shelf]]
MAKERS: list[Make] = [
    of_sessions,
    of_sessions_of_one_instant,
    of_assistants,
    of_assistants_of_one_instant,
    of_messages,
    of_runs,
]


@pytest.fixture(scope="module", params=MAKERS, ids=lambda make: make.__name__[3:])
async def shelf(shared: Stack, request: pytest.FixtureRequest) -> Shelf:
    make: Make = request.param
    return await make(shared)


async def test_the_newest_come_first_unless_asked_otherwise(shelf: Shelf) -> None:
    plain = await shelf.page()
    assert [item["id"] for item in plain["data"]] == shelf.in_order("desc")
    assert plain["has_more"] is False
    for order in ("asc", "desc"):
        found = await shelf.page(order=order)
        assert [item["id"] for item in found["data"]] == shelf.in_order(order)


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, SIZE - 1, SIZE, SIZE + 1, 100])
async def test_a_walk_there_and_back_gives_each_item_once(
    shelf: Shelf, order: str, limit: int
) -> None:
    wanted = shelf.in_order(order)
    walked: list[str] = []
    params: dict[str, Any] = {"order": order, "limit": limit}
    found = await shelf.page(**params)
    while True:
        walked += [item["id"] for item in found["data"]]
        assert found["has_more"] is (len(walked) < SIZE)
        if not found["has_more"]:
            break
        found = await shelf.page(**params, after=found["last_id"])
    assert walked == wanted
    back = [walked[-1]]
    while True:
        found = await shelf.page(**params, before=back[0])
        back = [item["id"] for item in found["data"]] + back
        assert found["has_more"] is (len(back) < SIZE)
        if not found["has_more"]:
            break
    assert back == wanted


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_beyond_the_ends_there_is_an_empty_page(shelf: Shelf, order: str) -> None:
    wanted = shelf.in_order(order)
    for cursor in ({"after": wanted[-1]}, {"before": wanted[0]}):
        found = await shelf.page(order=order, **cursor)
        assert found["data"] == []
        assert found["has_more"] is False


async def test_items_are_shown_as_they_are_when_read_alone(shelf: Shelf) -> None:
    found = await shelf.page(limit=2)
    for item in found["data"]:
        alone = await shelf.client.call("GET", f"{shelf.path}/{item['id']}", 200)
        # A run may have gone on meanwhile.
        assert set(alone) == set(item)
        assert alone["created_at"] == item["created_at"]


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"limit": 0}, 422),
        ({"limit": 101}, 422),
        ({"limit": "x"}, 422),
        ({"order": "up"}, 422),
        ({"after": "{id}", "before": "{id}"}, 422),
        ({"after": "{id}0"}, 404),
        ({"before": "sess_none"}, 404),
    ],
    ids=str,
)
async def test_a_page_that_cannot_be_is_refused(
    shelf: Shelf, params: dict[str, Any], status: int
) -> None:
    named = {name: str(value).replace("{id}", shelf.ids[0]) for name, value in params.items()}
    await shelf.client.call("GET", shelf.path, status, params=named)


async def test_a_cursor_of_another_list_is_unknown(shared: Stack) -> None:
    client = shared.client()
    session, other = await client.open_session(), await client.open_session()
    message = (await client.post(other, "Hello.", run=False))["message"]["id"]
    for cursor in ("after", "before"):
        for named in (message, other):
            path = f"/v1/sessions/{session}/messages"
            await client.call("GET", path, 404, params={cursor: named})


async def test_a_page_goes_on_where_it_was_when_items_come_and_go(shared: Stack) -> None:
    shelf = await of_sessions(shared)
    first = await shelf.page(limit=3)
    await shelf.client.open_session(title="new")
    await shelf.client.call("DELETE", f"/v1/sessions/{shelf.ids[2]}", 204)
    rest = await shelf.page(limit=100, after=first["last_id"])
    shown = [item["id"] for item in first["data"] + rest["data"]]
    assert shown == [found for found in shelf.in_order("desc") if found != shelf.ids[2]]


async def test_the_transcript_of_one_run_is_read_in_pages_too(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    run, _ = await client.ask(session, "Solve 2x = 6")
    path = f"/v1/sessions/{session}/messages"
    answer = run["output_message_id"]
    for order in ("asc", "desc"):
        params = {"run_id": run["id"], "limit": 1, "order": order}
        found = await client.call("GET", path, 200, params=params)
        assert (found["first_id"], found["last_id"]) == (answer, answer)
        assert found["has_more"] is False
        # The question is no item of this list.
        params["after"] = run["input_message_id"]
        await client.call("GET", path, 404, params=params)
