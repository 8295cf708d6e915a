"""How long the upstream is asked what became of an answer: as long as it may still come."""

from collections.abc import AsyncIterator, Iterator

import pytest

from app.adapters.responses.upstream import ResponsesUpstream
from app.adapters.tools.toolbox import Toolbox
from app.adapters.wire.client import UpstreamConfig
from app.domain.models import RunStatus
from app.sandbox.config import SandboxConfig
from app.services import attempts
from app.services.execution import Execution, Executor
from tests.contract.sandbox.conftest import KEY, Sandbox, emptied, serving
from tests.integration.test_log import Desk, desk_on
from tests.integration.test_publisher import claimed, writing

DELTA = "response.output_text.delta"
TIMES = attempts.MAX_ASKED + 5


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(SandboxConfig(tokens_per_second=0)) as found:
        yield found


@pytest.fixture
async def sandbox(port: int) -> AsyncIterator[Sandbox]:
    async with emptied(port) as fresh:
        yield fresh


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    async with desk_on(database_url) as found:
        yield found


@pytest.mark.parametrize("background", [True, False])
async def test_an_upstream_that_is_away_is_asked_for_longer_where_the_answer_goes_on(
    desk: Desk, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, *, background: bool
) -> None:
    monkeypatch.setattr(attempts, "MAX_BACKOFF_S", 0.05)
    cut = {"type": "reset", "at": {"event": DELTA, "nth": 3}, "finish": True}
    await sandbox.fault(cut, method="POST", path="/v1/responses")
    away = {"type": "status", "status": 503}
    await sandbox.fault(away, method="GET", path="/v1/responses/*", times=TIMES)
    config = UpstreamConfig(KEY, f"{sandbox.url}/v1", 30, 30, 10, background=background)
    upstream = ResponsesUpstream(config)
    user, (claim,) = await claimed(desk, 1)
    async with writing(desk.database) as publisher:
        executor = Executor(
            desk.database,
            upstream,
            publisher,
            Toolbox([], timeout_s=1),
            "worker_a",
            max_attempts=3,
        )
        await executor.execute(Execution(claim))
    await upstream.aclose()
    run = await desk.runs.get(user, claim.run.session_id, claim.run.id)
    stats = await sandbox.stats()
    assert (run.attempts, stats["response_posts"]) == (1, 1)
    asked = stats["calls"]["GET /v1/responses/{id}"]
    if background:
        assert run.status is RunStatus.COMPLETED
        assert asked > TIMES
    else:
        assert run.status is RunStatus.FAILED
        assert run.last_error is not None
        assert run.last_error.code == "upstream_unavailable"
        assert asked == attempts.MAX_ASKED
