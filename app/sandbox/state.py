"""All that a sandbox remembers, in memory; forgotten by a reset as by a restart."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.sandbox.errors import (
    ApiError,
    conversation_not_found,
    file_not_found,
    response_not_found,
    store_not_found,
)
from app.sandbox.ids import new_file_id, new_id
from app.sandbox.items import Item
from app.sandbox.stores import VectorStore


@dataclass(slots=True)
class Conversation:
    """Items in their order, and the response that holds the lock."""

    id: str
    created_at: int
    metadata: dict[str, str]
    items: dict[str, Item] = field(default_factory=dict[str, Item])
    running_response_id: str | None = None

    def body(self) -> dict[str, Any]:
        """Return the conversation as clients see it."""
        return {
            "id": self.id,
            "object": "conversation",
            "created_at": self.created_at,
            "metadata": self.metadata,
        }

    def add(self, items: list[Item]) -> None:
        """Append items."""
        self.items.update((item["id"], item) for item in items)


@dataclass(slots=True, eq=False)
class StoredResponse:
    """A response, the items that it read, and the events that it can replay.

    Attributes:
        body: The response as clients see it now.
        input_items: What this request added.
        history: What it read before them.
        conversation: Where its items go once it is completed.
        events: Encoded events; an event's index is its sequence number.
        streamed: Whether it was created with `stream`.
        stored: Whether it may be retrieved.
        task: The background generation.
        usage: Counts what was spent so far.
        changed: Set, and replaced, whenever `events` or `done` change.
    """

    body: dict[str, Any]
    input_items: list[Item]
    history: list[Item]
    conversation: Conversation | None
    streamed: bool
    stored: bool
    created: float = field(default_factory=time.monotonic)
    events: list[bytes] = field(default_factory=list[bytes])
    done: bool = False
    task: asyncio.Task[None] | None = None
    usage: Callable[[], dict[str, Any]] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        """The response's id."""
        return str(self.body["id"])

    @property
    def background(self) -> bool:
        """Whether it was created with `background`."""
        return bool(self.body["background"])

    def wake(self) -> None:
        """Tell every follower to look again."""
        self.changed.set()
        self.changed = asyncio.Event()

    def close(self) -> None:
        """Nothing will change any more; the conversation is free again."""
        self.done = True
        if self.conversation is not None and self.conversation.running_response_id == self.id:
            self.conversation.running_response_id = None
        self.wake()


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file, and its content."""

    id: str
    filename: str
    content: bytes
    purpose: str
    created_at: int
    expires_at: int | None = None

    def body(self) -> dict[str, Any]:
        """Return the file as clients see it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class State:
    """Conversations, items, responses, files, vector stores and counters of one sandbox."""

    def __init__(self) -> None:
        self.conversations: dict[str, Conversation] = {}
        self.orphans: dict[str, Conversation] = {}
        self.responses: dict[str, StoredResponse] = {}
        self.files: dict[str, StoredFile] = {}
        self.stores: dict[str, VectorStore] = {}
        self.files_made = 0
        self.calls: Counter[str] = Counter()
        self.generations = 0
        self.generations_completed = 0
        self.conversations_made = 0
        self.open_streams = 0
        self.faults_fired = 0

    def conversation(self, conversation_id: str) -> Conversation:
        """Find a conversation.

        Raises:
            ApiError: 404.
        """
        found = self.conversations.get(conversation_id)
        if found is None:
            raise conversation_not_found(conversation_id)
        return found

    def new_conversation(self, metadata: dict[str, str], items: list[Item]) -> Conversation:
        """Open a conversation."""
        made = Conversation(new_id("conv"), int(time.time()), metadata)
        made.add(items)
        self.conversations[made.id] = made
        self.conversations_made += 1
        return made

    def delete_conversation(self, conversation_id: str) -> None:
        """Remove a conversation; the upstream keeps its items, and so does this.

        Raises:
            ApiError: 404.
        """
        self.orphans[conversation_id] = self.conversation(conversation_id)
        del self.conversations[conversation_id]

    def response(self, response_id: str) -> StoredResponse:
        """Find a response that may be retrieved.

        Raises:
            ApiError: 404.
        """
        found = self.responses.get(response_id)
        if found is None or not found.stored:
            raise response_not_found(response_id)
        return found

    def new_file(
        self, filename: str, content: bytes, purpose: str, *, expires_at: int | None = None
    ) -> StoredFile:
        """Keep a file."""
        made = StoredFile(new_file_id(), filename, content, purpose, int(time.time()), expires_at)
        self.files[made.id] = made
        self.files_made += 1
        return made

    def file(self, file_id: str) -> StoredFile:
        """Find a file.

        Raises:
            ApiError: 404.
        """
        self._forget_expired()
        found = self.files.get(file_id)
        if found is None:
            raise file_not_found(file_id)
        return found

    def living_files(self) -> list[StoredFile]:
        """Return all files, the oldest first."""
        self._forget_expired()
        return list(self.files.values())

    @property
    def file_bytes(self) -> int:
        """What all files take."""
        return sum(len(each.content) for each in self.living_files())

    def delete_file(self, file_id: str) -> None:
        """Remove a file, out of every store too.

        Raises:
            ApiError: 404.
        """
        del self.files[self.file(file_id).id]
        for store in self.stores.values():
            store.files.pop(file_id, None)

    def store(self, store_id: str) -> VectorStore:
        """Find a vector store.

        Raises:
            ApiError: 404.
        """
        found = self.stores.get(store_id)
        if found is None:
            raise store_not_found(store_id)
        return found

    def _forget_expired(self) -> None:
        now = time.time()
        gone = [f.id for f in self.files.values() if f.expires_at and f.expires_at <= now]
        for file_id in gone:
            del self.files[file_id]

    def count_completed(self) -> None:
        """A generation ran to its end."""
        self.generations_completed += 1

    def previous(self, response_id: str) -> StoredResponse:
        """Find the response that a new one continues.

        Raises:
            ApiError: 400, unknown or not finished.
        """
        found = self.responses.get(response_id)
        if found is None or not found.stored:
            raise ApiError(
                400,
                f"Previous response with id '{response_id}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        if found.body["status"] not in {"completed", "incomplete"}:
            raise ApiError(
                400,
                f"Previous response with id '{response_id}' is not completed.",
                param="previous_response_id",
            )
        return found

    async def reset(self) -> None:
        """Forget everything, and end everything that runs."""
        responses = list(self.responses.values())
        self.conversations, self.orphans, self.responses, self.files = {}, {}, {}, {}
        self.stores = {}
        self.calls.clear()
        self.generations = self.generations_completed = 0
        self.conversations_made = self.faults_fired = self.files_made = 0
        for response in responses:
            if response.task is not None:
                response.task.cancel()
            response.close()
