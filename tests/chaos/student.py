"""One user of the service: asks, cancels, deletes, reads and comes back, and records it all."""

import asyncio
import random
import uuid
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2

from tests.chaos.recorder import DONE, History, Look, Operation, Try, now
from tests.stack import TERMINAL, token

PATIENCE_S: Final = 8.0
"""How long an answer is waited for: an API process may be frozen."""
TRIES: Final = 40
PAUSE_S: Final = 0.25


class Network:
    """The API processes, each at an address of its own."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self.is_closing = False
        """Set when nothing new is begun."""


@dataclass
class Talk:
    """One session as its user knows it."""

    id: str
    runs: list[str] = field(default_factory=list[str])
    is_deleted: bool = False
    """Also when its user does not know whether it is."""


class Student:
    """A user with a connection to each API process."""

    def __init__(self, name: str, network: Network, history: History, seed: random.Random) -> None:
        self.name = name
        self.network = network
        self.history = history
        self.random = seed
        self.talks: list[Talk] = []
        timeout = httpx2.Timeout(PATIENCE_S, read=PATIENCE_S + 12)
        # As many connections as there are tabs: nobody waits for another's stream to end.
        limits = httpx2.Limits(max_connections=None)
        headers = {"Authorization": f"Bearer {token(name)}"}
        self.http = [
            httpx2.AsyncClient(base_url=url, headers=headers, timeout=timeout, limits=limits)
            for url in network.urls
        ]

    async def close(self) -> None:
        """Hang up."""
        for http in self.http:
            await http.aclose()

    # ------------------------------------------------------------ doing

    def operation(self, kind: str, talk: Talk | None, **more: Any) -> Operation:
        """Begin an operation with a word of its own."""
        word = f"canary{uuid.UUID(int=self.random.getrandbits(128)).hex[:12]}"
        session = talk.id if talk else None
        return self.history.begin(Operation(kind, self.name, session, word, **more))

    def question(self, op: Operation) -> str:
        """Return a question that only its own answer fits."""
        a, b, c = self.random.randint(2, 9), self.random.randint(10, 99), self.random.randint(2, 9)
        op.says = str(b * b + 4 * a * c)
        return f"Please solve {a}x**2 + {b}x - {c} = 0 step by step, says {op.word}."

    async def send(
        self, op: Operation, method: str, path: str, body: Any = None, *, at: int | None = None
    ) -> Any:
        """Send until it is known what became of it; without a key, and unless harmless, once.

        Returns:
            The body of the answer, or None when there is none that helps.
        """
        api = self.random.randrange(len(self.http)) if at is None else at
        for _ in range(TRIES):
            found = await self.once(op, api, method, path, body)
            if not found.is_open:
                return found.body if found.status in DONE else None
            if op.key is None and op.kind != "delete":
                return None
            api = (api + 1) % len(self.http)
            await asyncio.sleep(PAUSE_S)
        return None

    async def once(self, op: Operation, api: int, method: str, path: str, body: Any) -> Try:
        """Send once, and record it from before its first byte."""
        attempt = Try(now(), float("inf"))
        op.tries.append(attempt)
        headers = {"Idempotency-Key": op.key} if op.key else {}
        try:
            async with asyncio.timeout(PATIENCE_S):
                response = await self.http[api].request(method, path, json=body, headers=headers)
            attempt.status = response.status_code
            attempt.body = response.json() if response.content else None
        except (httpx2.TransportError, TimeoutError):
            pass
        attempt.returned = now()
        return attempt

    async def open(self, *, at: int | None = None) -> Talk | None:
        """Open a session."""
        op = self.operation("open", None)
        op.key = op.word
        made = await self.send(op, "POST", "/v1/sessions", {"metadata": {"word": op.word}}, at=at)
        if made is None:
            return None
        talk = Talk(made["id"])
        self.talks.append(talk)
        return talk

    async def post(
        self,
        talk: Talk,
        *,
        policy: str = "reject",
        has_key: bool = True,
        wants_run: bool = True,
        at: int | None = None,
        op: Operation | None = None,
    ) -> str | None:
        """Ask something; return the run, if it was accepted."""
        op = op or self.operation("post" if wants_run else "store", talk)
        op.key = op.word if has_key else None
        body: dict[str, Any] = {"content": self.question(op), "run": wants_run}
        if wants_run:
            body["on_active_run"] = policy
        path = f"/v1/sessions/{talk.id}/messages"
        answer = await self.send(op, "POST", path, body, at=at)
        if answer is not None and op.key and self.random.random() < 0.2:
            # As a client does that was told and forgot: it has to be told the same.
            await self.once(op, self.random.randrange(len(self.http)), "POST", path, body)
        if answer is None or answer["run"] is None:
            return None
        talk.runs.append(answer["run"]["id"])
        return talk.runs[-1]

    async def again(self, talk: Talk) -> str | None:
        """Ask for another answer."""
        op = self.operation("again", talk)
        op.key = op.word
        body = {"on_active_run": "enqueue", "metadata": {"word": op.word}}
        run = await self.send(op, "POST", f"/v1/sessions/{talk.id}/runs", body)
        if run is None:
            return None
        talk.runs.append(run["id"])
        return talk.runs[-1]

    async def cancel(self, talk: Talk, run: str) -> None:
        """Cancel a run; whether it was in time is not this client's affair."""
        op = self.operation("cancel", talk, run=run)
        await self.send(op, "POST", f"/v1/sessions/{talk.id}/runs/{run}/cancel")

    async def delete(self, talk: Talk) -> None:
        """Delete a session, and look whether it is gone."""
        talk.is_deleted = True
        op = self.operation("delete", talk)
        await self.send(op, "DELETE", f"/v1/sessions/{talk.id}")
        for api in range(len(self.http)):
            await self.look("session", talk, None, api=api)
            await self.look("transcript", talk, None, api=api)

    # ------------------------------------------------------------ looking

    async def look(
        self, kind: str, talk: Talk, item: str | None, *, api: int | None = None, query: str = ""
    ) -> Look:
        """Read something, once."""
        api = self.random.randrange(len(self.http)) if api is None else api
        path = (
            f"/v1/sessions/{talk.id}"
            + {
                "session": "",
                "run": f"/runs/{item}",
                "message": f"/messages/{item}",
                "transcript": "/messages?limit=100&order=asc",
            }[kind]
        )
        look = Look(kind, self.name, talk.id, item, now(), float("inf"))
        try:
            response = await self.http[api].get(path + query)
            look.status = response.status_code
            look.body = response.json()
        except httpx2.TransportError:
            pass
        look.returned = now()
        return self.history.look(look)

    async def wait(self, talk: Talk, run: str) -> bool:
        """Poll a run to its end, wherever; tell whether it came to one."""
        known = ""
        while True:
            query = f"?wait={self.random.choice((0, 1, 5))}" + (f"&known={known}" if known else "")
            look = await self.look("run", talk, run, query=query)
            if look.status == 404:
                return False
            if look.status == 200:
                known = look.body["status"]
                if known in TERMINAL:
                    answer = look.body["output_message_id"]
                    if answer is not None:
                        await self.look("message", talk, answer)
                    return True
            await asyncio.sleep(PAUSE_S)

    async def last_seq(self, talk: Talk) -> int | None:
        """Return where the session's log stands; None when it is gone."""
        for _ in range(TRIES):
            look = await self.look("session", talk, None)
            if look.status in {200, 404}:
                return int(look.body["last_seq"]) if look.status == 200 else None
            await asyncio.sleep(PAUSE_S)
        return None
