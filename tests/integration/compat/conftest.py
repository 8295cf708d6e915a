"""The real SDK, told nothing but where the face is and whose token to use."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.stack import Stack, token

# Whoever still has these clients knows that the vendor gave them up.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

EQUATION = "3x**2 + 11x - 10 = 0"
QUESTION = f"다음의 방정식을 풀고 싶습니다. `{EQUATION}`. 수학선생님 도와주실 수 있나요?"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "integration/compat" in item.nodeid:
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))


def sdk_at(url: str, user: str | None = None, **claims: Any) -> AsyncOpenAI:
    """Return a strict client of a fresh user, or of a given one."""
    return AsyncOpenAI(
        api_key=token(user or f"user-{uuid.uuid4().hex[:12]}", **claims),
        base_url=f"{url}/openai/v1",
        max_retries=0,
        timeout=60,
        _strict_response_validation=True,
    )


NewSdk = Callable[..., AsyncOpenAI]


@pytest.fixture
async def new_sdk(shared: Stack) -> AsyncIterator[NewSdk]:
    """Make clients of the shared stack."""
    made: list[AsyncOpenAI] = []

    def make(user: str | None = None, *, at: int = 0, **claims: Any) -> AsyncOpenAI:
        made.append(sdk_at(shared.api_urls[at], user, **claims))
        return made[-1]

    yield make
    await asyncio.gather(*(client.close() for client in made))


@pytest.fixture
def sdk(new_sdk: NewSdk) -> AsyncOpenAI:
    """A client of a user that nobody else is."""
    return new_sdk()


async def tutor(sdk: AsyncOpenAI, **fields: Any) -> str:
    """Make an assistant; return its id."""
    made = await sdk.beta.assistants.create(model="gpt-4o-mini", **fields)
    return made.id


async def text_of(sdk: AsyncOpenAI, thread_id: str, run_id: str) -> str:
    """Return what a run answered."""
    page = await sdk.beta.threads.messages.list(thread_id, run_id=run_id)
    (message,) = page.data
    (part,) = message.content
    assert part.type == "text"
    return part.text.value
