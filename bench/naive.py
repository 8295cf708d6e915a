"""The naive relay that Tutor Relay is compared with: what one writes in an afternoon.

Pinned: the SDK's typed stream, one SSE block per delta, no database, no optimisation and no
handicap. A change here makes older tables incomparable, so there should be none.
"""

import json
import os
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

app = FastAPI()
client = AsyncOpenAI()


class Question(BaseModel):
    """What the student asks."""

    message: str


@app.post("/chat")
async def chat(question: Question) -> StreamingResponse:
    """Answer with the upstream's deltas as server-sent events."""
    return StreamingResponse(_answer(question.message), media_type="text/event-stream")


async def _answer(message: str) -> AsyncIterator[str]:
    stream = await client.responses.create(model="bench", input=message, stream=True)
    async for event in stream:
        if event.type == "response.output_text.delta":
            yield f"event: message.delta\ndata: {json.dumps({'text': event.delta})}\n\n"
    yield "event: done\ndata: {}\n\n"


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), loop="uvloop", http="httptools")
