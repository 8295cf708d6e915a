"""The OpenAPI document, completed: what FastAPI leaves out of it, or drops.

It writes no model that only a hand-made response refers to, and drops the members of examples
that are null, which then lack what their own schema requires.
"""

from typing import Any, Final

from fastapi import FastAPI

from app.api import examples
from app.api.examples import Example
from app.api.problems import Problem

EXAMPLES: Final[dict[str, Example]] = {
    "UserOut": examples.USER,
    "AssistantOut": examples.ASSISTANT,
    "SessionOut": examples.SESSION,
    "FileOut": examples.FILE,
    "MessageOut": examples.MESSAGE,
    "RunOut": examples.RUN,
    "PostedOut": {"message": examples.MESSAGE, "run": examples.RUN_QUEUED},
    "TicketOut": examples.TICKET,
    "ListOut_AssistantOut_": examples.listing(examples.ASSISTANT),
    "ListOut_SessionOut_": examples.listing(examples.SESSION),
    "ListOut_FileOut_": examples.listing(examples.FILE),
    "ListOut_RunOut_": examples.listing(examples.RUN),
    "TranscriptOut": {**examples.listing(examples.MESSAGE), "last_seq": 131},
    "Health": {"status": "ok"},
    "Readiness": {"status": "ready", "workers": 1},
}
"""A whole body of every model that an answer has."""


def install(app: FastAPI) -> None:
    """Complete the document when it is first asked for."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        models = document["components"]["schemas"]
        if "Problem" not in models:
            template = "#/components/schemas/{model}"
            problem = Problem.model_json_schema(ref_template=template)
            models.update(problem.pop("$defs"), Problem=problem)
            for name, example in EXAMPLES.items():
                models[name]["examples"] = [example]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
