"""What every endpoint of one sandbox shares."""

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from app.sandbox.config import SandboxConfig
from app.sandbox.faults import FaultBook
from app.sandbox.hosted import Calculator
from app.sandbox.ledger import Ledger
from app.sandbox.pace import PaceBook
from app.sandbox.planning import Answerer
from app.sandbox.state import State


@dataclass(frozen=True, slots=True)
class Context:
    """One sandbox: its settings, memory, faults, ledger, pace, tutor and calculator."""

    config: SandboxConfig
    state: State
    faults: FaultBook
    ledger: Ledger
    pace: PaceBook
    tutor: Answerer
    calculator: Calculator


def context_of(request: Request) -> Context:
    """Return the sandbox that a request came to."""
    return cast(Context, request.app.state.context)
