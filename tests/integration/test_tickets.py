"""Stream tickets: what a native EventSource, which can send no header, is let in with."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from urllib.parse import urlsplit

import pytest

from tests.integration.test_streams import events_of, reading, shown
from tests.stack import Client, Stack

USED = "SELECT used_at FROM stream_tickets WHERE session_id = $1"
UNUSED_FOR_A_MINUTE = """UPDATE stream_tickets
    SET use_by = use_by - interval '61 seconds' WHERE session_id = $1"""


class Browser(Client):
    """Sends no header."""

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url, "nobody")
        del self.http.headers["Authorization"]


def browsers(stack: Stack) -> list[Browser]:
    found = [Browser(url) for url in stack.api_urls]
    stack.clients.extend(found)
    return found


async def issue(client: Client, session: str) -> str:
    made = await client.call("POST", f"/v1/sessions/{session}/stream_tickets", 201)
    assert set(made) == {"ticket", "expires_at"}
    return str(made["ticket"])


async def refused(client: Client, path: str, ticket: str) -> None:
    response = await client.http.get(path, params={"ticket": ticket})
    assert response.status_code == 401, response.text
    assert response.headers["content-type"] == "application/problem+json"
    if ticket:
        assert ticket not in response.text + repr(response.headers)


async def test_a_ticket_opens_both_streams_of_its_session_at_every_process_and_again(
    shared: Stack,
) -> None:
    client = shared.client()
    session = await client.open_session()
    posted = await client.post(session, "What is 1 + 1?")
    run_id = posted["run"]["id"]
    await client.ended(session, run_id)
    ticket = {"ticket": await issue(client, session)}
    async with reading(client, events_of(session, run_id)) as reader:
        expected = shown(await reader.ends())
    for browser in browsers(shared) * 2:
        async with reading(browser, events_of(session, run_id), params=ticket) as reader:
            assert shown(await reader.ends()) == expected
        async with reading(browser, events_of(session), params=ticket) as reader:
            await client.post(session, "Hello.", run=False)
            await reader.until(lambda each: bool(each.blocks))
        last = reader.blocks[-1].id or ""
        # As an EventSource comes back by itself: the same address, and where it stood.
        async with reading(
            browser, events_of(session), params=ticket, headers={"Last-Event-ID": last}
        ) as again:
            await client.post(session, "Hello again.", run=False)
            await again.until(lambda each: bool(each.blocks))
            assert again.blocks[0].id == str(int(last) + 1)


async def test_a_ticket_is_first_used_within_a_minute(shared: Stack) -> None:
    client = shared.client()
    browser, other = browsers(shared)
    session = await client.open_session()
    path = f"/v1/sessions/{session}/stream_tickets"
    made = await client.call("POST", path, 201)
    first_use = datetime.fromisoformat(made["expires_at"]).timestamp() - time.time()
    assert 50 < first_use < 70
    await shared.fetch(UNUSED_FOR_A_MINUTE, session)
    for each in (browser, other):
        await refused(each, events_of(session), made["ticket"])


async def test_a_ticket_that_was_used_in_time_opens_streams_later(shared: Stack) -> None:
    client = shared.client()
    browser, other = browsers(shared)
    session = await client.open_session()
    ticket = await issue(client, session)
    async with reading(browser, events_of(session), params={"ticket": ticket}):
        pass
    await shared.fetch(UNUSED_FOR_A_MINUTE, session)
    for each in (browser, other):
        async with reading(each, events_of(session), params={"ticket": ticket}):
            pass


async def test_a_ticket_dies_with_the_token_that_it_was_made_for_and_so_does_its_stream(
    shared: Stack,
) -> None:
    client = shared.client()
    session = await client.open_session()
    brief = shared.client(user=client.user, ttl=4)
    browser, other = browsers(shared)
    ticket = await issue(brief, session)
    lasting = await issue(client, session)
    async with (
        reading(browser, events_of(session), params={"ticket": ticket}) as reader,
        reading(browser, events_of(session), params={"ticket": lasting}) as beside,
    ):
        await reader.ends(within=15)
        assert not beside.is_over
    for each in (browser, other):
        await refused(each, events_of(session), ticket)


async def test_a_ticket_s_stream_carries_on(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    browser, _ = browsers(shared)
    ticket = {"ticket": await issue(client, session)}
    async with reading(browser, events_of(session), params=ticket) as reader:
        for number in range(3):
            await client.ask(session, f"What is {number} + {number}?")
        await reader.until(lambda each: each.raw.count(b"event: run.completed") == 3)
    assert reader.blocks[0].id == "1"


async def test_a_ticket_is_worth_one_session_only(shared: Stack) -> None:
    client = shared.client()
    mine, other = await client.open_session(), await client.open_session()
    stranger = shared.client()
    foreign = await stranger.open_session()
    ticket = await issue(client, mine)
    for browser in browsers(shared):
        for session in (other, foreign, "sess_unknown"):
            await refused(browser, events_of(session), ticket)
    (row,) = await shared.fetch(USED, mine)
    assert row["used_at"] is None, "what was tried elsewhere is no first use"
    async with reading(browsers(shared)[0], events_of(mine), params={"ticket": ticket}):
        pass


async def test_nobody_gets_a_ticket_for_what_is_not_theirs(shared: Stack) -> None:
    client, stranger = shared.client(), shared.client()
    session = await client.open_session()
    for path in (session, "sess_unknown"):
        await stranger.call("POST", f"/v1/sessions/{path}/stream_tickets", 404)
    for browser in browsers(shared):
        await browser.call("POST", f"/v1/sessions/{session}/stream_tickets", 401)
    assert await shared.fetch(USED, session) == []


MAKES_NO_TICKET: dict[str, Callable[[str], str]] = {
    "cut": lambda ticket: ticket[:-1],
    "longer": lambda ticket: f"{ticket}x",
    "case": lambda ticket: ticket.swapcase(),
    "empty": lambda _: "",
    "nul": lambda ticket: f"{ticket}\x00",
    "very long": lambda ticket: ticket * 200,
    "a token": lambda _: "eyJhbGciOiJub25lIn0.e30.",
    "sql": lambda _: "' OR 1=1 --",
    "letters": lambda _: "표를 주세요😀",
    "random": lambda _: "A" * 43,
}


@pytest.mark.parametrize("how", MAKES_NO_TICKET)
async def test_what_is_no_ticket_opens_nothing(shared: Stack, how: str) -> None:
    client = shared.client()
    session = await client.open_session()
    ticket = await issue(client, session)
    for browser in browsers(shared):
        await refused(browser, events_of(session), MAKES_NO_TICKET[how](ticket))
    async with reading(browsers(shared)[1], events_of(session), params={"ticket": ticket}):
        pass


async def test_bytes_that_are_no_text_are_no_ticket(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    for browser in browsers(shared):
        response = await browser.http.get(f"{events_of(session)}?ticket=%ff%fe%ed%a0%80")
        assert response.status_code == 401


async def test_a_ticket_opens_streams_and_nothing_else(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    ticket = {"ticket": await issue(client, session)}
    browser, _ = browsers(shared)
    for path in ("", "/messages", "/runs"):
        response = await browser.http.get(f"/v1/sessions/{session}{path}", params=ticket)
        assert response.status_code == 401
    header = {"Authorization": f"Bearer {ticket['ticket']}"}
    assert (await browser.http.get(events_of(session), headers=header)).status_code == 401
    bad = {"Authorization": "Bearer no-token"}
    response = await browser.http.get(events_of(session), headers=bad, params=ticket)
    assert response.status_code == 401, "a token that is sent must be good"


async def test_a_deleted_session_s_ticket_opens_nothing(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    ticket = {"ticket": await issue(client, session)}
    browser, other = browsers(shared)
    async with reading(browser, events_of(session), params=ticket) as reader:
        await client.call("DELETE", f"/v1/sessions/{session}", 204)
        await reader.ends(within=4)
    for each in (browser, other):
        assert (await each.http.get(events_of(session), params=ticket)).status_code in {401, 404}


async def test_tickets_count_as_their_user_s_streams(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    ticket = {"ticket": await issue(client, session)}
    browser, _ = browsers(shared)
    before = (await client.call("GET", "/v1/me", 200))["remaining"]["streams"]
    async with reading(browser, events_of(session), params=ticket):
        after = (await client.call("GET", "/v1/me", 200))["remaining"]["streams"]
        assert after == before - 1


async def garbled(url: str, path: str) -> None:
    """Send what the server itself refuses, and may complain of."""
    parts = urlsplit(url)
    for line in (f"GET {path} HTTP/9.9", f"GET {path}\x00 HTTP/1.1", f"{path} GET"):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(f"{line}\r\nHost: x\r\n\r\n".encode())
        writer.write_eof()
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()
        await writer.wait_closed()


async def test_neither_tickets_nor_what_they_are_sent_with_are_ever_logged_or_stored(
    shared: Stack,
) -> None:
    client = shared.client()
    session = await client.open_session()
    ticket = await issue(client, session)
    for browser in browsers(shared):
        async with reading(browser, events_of(session), params={"ticket": ticket}):
            pass
        await refused(browser, events_of(session), f"{ticket}x")
        path = f"{events_of(session)}?ticket={ticket}"
        for after in ("x", "-1", "%00"):
            assert (await browser.http.get(f"{path}&after={after}")).status_code == 400
        await garbled(str(browser.http.base_url), path)
    logs = shared.logs()
    assert ticket not in logs
    assert ticket[:-4] not in logs
    stored = await shared.fetch("SELECT t::text AS row FROM stream_tickets t")
    assert stored
    assert all(ticket not in row["row"] for row in stored)
